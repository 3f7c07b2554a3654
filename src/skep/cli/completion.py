"""`skep completion`, and how the words of a command line may go on: ids and names are asked of the server."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from skep.cli.where import given
from skep.errors import SkepError

MOST: Final = 50
"""Runs that are offered."""

BASH: Final = r"""
_skep() {
    local IFS=$'\n'
    COMPREPLY=($(COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD _SKEP_COMPLETE=complete_bash "$1"))
}
complete -o default -F _skep skep
"""
ZSH: Final = r"""
#compdef skep
_skep() {
    eval "$(_TYPER_COMPLETE_ARGS="${words[1,$CURRENT]}" _SKEP_COMPLETE=complete_zsh skep)"
}
compdef _skep skep
"""
FISH: Final = r"""
function __skep_complete
    set -lx _SKEP_COMPLETE complete_fish
    set -lx _TYPER_COMPLETE_FISH_ACTION $argv[1]
    set -lx _TYPER_COMPLETE_ARGS (commandline -cp)
    skep
end
complete --command skep --no-files --condition '__skep_complete is-args' --arguments '(__skep_complete get-args)'
"""
app = typer.Typer(add_completion=False, rich_markup_mode="markdown")


class Shell(StrEnum):
    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


@app.command()
def completion(shell: Annotated[Shell, typer.Argument(metavar="bash|zsh|fish", help="Which shell.")]) -> None:
    """Print what makes your shell complete commands, options, runs, tasks, nodes and names.

    **Examples**

    - `eval "$(skep completion bash)"` for this shell only
    - `skep completion bash > ~/.local/share/bash-completion/completions/skep`
    - `skep completion zsh > ~/.zfunc/_skep` (with `fpath+=~/.zfunc` before `compinit` in `~/.zshrc`)
    - `skep completion fish > ~/.config/fish/completions/skep.fish`
    """
    typer.echo({Shell.BASH: BASH, Shell.ZSH: ZSH, Shell.FISH: FISH}[shell].strip())


def prepare() -> None:
    """Makes this process answer a shell's question; nothing that goes wrong may be written between somebody's words."""
    typer.completion.get_completion_inspect_parameters()  # makes Typer's own shells known
    sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  for the rest of this process


def _offered(ask: Callable[[Any, typer.Context], Iterable[str]]) -> Callable[[typer.Context, str], list[str]]:
    """A completion by what a server answers; nothing when there is none."""

    def offer(ctx: typer.Context, incomplete: str) -> list[str]:
        from skep.client import Client  # noqa: PLC0415  every command has completions, few are completed

        data = ctx.params.get("data")
        try:
            with Client(**given(Path(data) if data else None)) as client:
                return [word for word in ask(client, ctx) if word.startswith(incomplete)]
        except SkepError:
            return []

    return offer


def _tasks(client: Any, ctx: typer.Context) -> list[str]:
    run = _run(client, ctx)
    return [task.name for task in client.runs.tasks(run).tasks] if run else []


def _waiting(client: Any, ctx: typer.Context) -> list[str]:
    return [wait.task for wait in client.tasks.waits(kind="approval", run=_run(client, ctx))]


def _run(client: Any, ctx: typer.Context) -> str | None:
    """The run that is named already."""
    from skep.cli.remote import find_run  # noqa: PLC0415  it needs the completions

    several = ctx.params.get("runs") or ctx.args  # an option without its value yet, and the words are left as they are
    named = ctx.params.get("run") or next(iter(several), None)
    return find_run(client, str(named)) if named else None


runs = _offered(lambda client, _: ["last", *(run.id for run in client.runs.list(limit=MOST).runs)])
tasks = _offered(_tasks)
waiting = _offered(_waiting)
nodes = _offered(lambda client, _: [node.id for node in client.nodes.list()])
definitions = _offered(lambda client, _: [stored.name for stored in client.definitions.list()])
schedules = _offered(lambda client, _: [schedule.name for schedule in client.schedules.list()])
