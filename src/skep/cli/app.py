"""`skep`: finds the command, loads only that one, and turns every error into a message and an exit code."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from importlib import import_module
from typing import Annotated, Any, Final, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from skep import __version__
from skep.cli.where import add_options
from skep.errors import SkepError


class Entry(NamedTuple):
    """A command as the list of all shows it. Its code is in `skep.cli.MODULE`."""

    panel: str
    module: str
    text: str


RUN: Final = "Run"
LOOK: Final = "Look"
STEER: Final = "Steer"
SERVE: Final = "Serve"

COMMANDS: Final = {
    "run": Entry(RUN, "run", "Run a workflow here and now, and watch it."),
    "submit": Entry(RUN, "submit", "Hand a workflow to the server, which runs it."),
    "check": Entry(RUN, "check", "Say what is wrong with a workflow, or what it is."),
    "definitions": Entry(RUN, "definitions", "Store workflows by name and version."),
    "schedule": Entry(RUN, "schedule", "Start runs by the clock."),
    "event": Entry(RUN, "event", "Send an event to tasks that wait for it."),
    "import": Entry(RUN, "importing", "Turn a recorded workflow of another system into one of Skep."),
    "schema": Entry(RUN, "schema", "Print the JSON Schema of workflow files, for editors."),
    "simulate": Entry(RUN, "simulate", "Try placement policies on a fleet that you describe, in simulated time."),
    "demo": Entry(RUN, "demo", "Watch real workflows run across three local nodes."),
    "runs": Entry(LOOK, "runs", "List runs, the newest first."),
    "show": Entry(LOOK, "show", "Show a run, what is wrong with it, and its tasks."),
    "why": Entry(LOOK, "why", "Say why a task, a run or the queue stands where it stands."),
    "watch": Entry(LOOK, "watch", "Watch a run live until it ends."),
    "logs": Entry(LOOK, "logs", "Print what the tasks of a run wrote."),
    "approvals": Entry(LOOK, "approvals", "List what waits for a person."),
    "nodes": Entry(LOOK, "nodes", "List the nodes and what they do."),
    "status": Entry(LOOK, "status", "Say how the server is."),
    "cancel": Entry(STEER, "cancel", "Cancel runs."),
    "pause": Entry(STEER, "pause", "Start nothing more of runs; what runs goes on."),
    "resume": Entry(STEER, "resume", "Let paused runs go on."),
    "retry": Entry(STEER, "retry", "Take up runs that ended: what did not succeed, or from a task on."),
    "approve": Entry(STEER, "decide", "Approve a task that waits for a person."),
    "reject": Entry(STEER, "decide", "Reject a task that waits for a person."),
    "drain": Entry(STEER, "drain", "Give a node nothing new."),
    "queue": Entry(STEER, "queue", "See what waits for a node; stop and go on starting tasks."),
    "placement": Entry(STEER, "placement", "Say how nodes are chosen in the whole fleet."),
    "node": Entry(SERVE, "node", "Be a node of a server elsewhere."),
    "keys": Entry(SERVE, "keys", "Make, list and revoke keys for other machines."),
    "up": Entry(SERVE, "up", "Start the server, with a node on this machine."),
    "chaos": Entry(SERVE, "chaos", "Attack a fleet, and see that nothing is lost."),
    "doctor": Entry(SERVE, "doctor", "Look for what is wrong with this machine and the data."),
    "backup": Entry(SERVE, "backup", "Write a copy of all that is recorded, while work goes on."),
    "restore": Entry(SERVE, "restore", "Put a backup in the place of the data."),
    "completion": Entry(SERVE, "completion", "Print what makes your shell complete commands, runs and names."),
}
"""Every command, in the order in which they are shown."""

CANCELLED: Final = 4
INTERRUPTED: Final = 130
COMPLETE: Final = "_SKEP_COMPLETE"
"""Set by the shell when it asks how a word may go on."""


def load_command(name: str) -> Any:
    """The command, with its code; from then on an interrupt is an exception."""
    module = import_module(f"skep.cli.{COMMANDS[name].module}")
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    found = get_command(module.app)
    add_options(found)
    return found.commands.get(name, found) if isinstance(found, TyperGroup) else found


class _Commands(TyperGroup):
    """Knows all commands by name, and imports only the one that is run: `skep run` never loads what `skep demo` needs."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name, entry in COMMANDS.items():
            self.add_command(TyperCommand(name, help=entry.text, rich_help_panel=entry.panel))

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, found, rest = super().resolve_command(ctx, args)
        return name, load_command(name) if name in COMMANDS else found, rest


app = typer.Typer(cls=_Commands, no_args_is_help=True, rich_markup_mode="markdown", add_completion=False)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"skep {__version__}")
        raise typer.Exit


@app.callback()
def skep(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Run workflows of AI-agent and ordinary tasks, durably, with nothing to set up.

    **Try** `skep demo`, then `skep run FLOW.yaml`. For work that outlives its terminal: `skep up` in one, `skep submit
    FLOW.yaml` in another. `skep COMMAND --help` shows examples.

    Exit codes: 0 ok · 1 run failed · 2 usage · 3 refused · 4 cancelled · 5 timed out · 6 server unreachable.
    """


def main() -> None:
    """The program `skep`."""
    try:
        if COMPLETE in os.environ:
            import_module("skep.cli.completion").prepare()
        get_command(app)(prog_name="skep")
    except SkepError as error:
        _fail(str(error), error.exit_code)
    except SystemExit as ended:
        sys.exit(CANCELLED if ended.code == INTERRUPTED else ended.code)
    except KeyboardInterrupt:
        sys.exit(CANCELLED)
    except Exception as error:  # noqa: BLE001  whatever it is, people get a message
        if os.environ.get("SKEP_DEBUG"):
            traceback.print_exc()
        hint = "this is a fault of Skep's own; SKEP_DEBUG=1 shows where it happened"
        _fail(f"{type(error).__name__}: {error}\n{hint}", 1)


def _fail(message: str, code: int) -> None:
    print(f"skep: {message}", file=sys.stderr)
    sys.exit(code)
