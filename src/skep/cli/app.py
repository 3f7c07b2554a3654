"""`skep`: finds the command, loads only that one, and turns every error into a message and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from importlib import import_module
from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from skep import __version__
from skep.errors import SkepError

COMMANDS: Final = {
    "run": "Run a workflow here and now, and watch it.",
    "check": "Say what is wrong with a workflow, or what it is.",
    "demo": "Watch two real workflows run across three local nodes.",
    "schema": "Print the JSON Schema of workflow files, for editors.",
    "import": "Turn a recorded workflow of another system into one of Skep.",
}
"""Every command and its first line; the code of `NAME` is `skep.cli.NAME` (`import` is a keyword: `skep.cli.importing`)."""

CANCELLED: Final = 4
INTERRUPTED: Final = 130


class _Commands(TyperGroup):
    """Knows all commands by name, and imports only the one that is run: `skep run` never loads what `skep demo` needs."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name, text in COMMANDS.items():
            self.add_command(TyperCommand(name, help=text))

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, _, rest = super().resolve_command(ctx, args)
        module = import_module(f"skep.cli.{'importing' if name == 'import' else name}")
        return name, get_command(module.app), rest


app = typer.Typer(cls=_Commands, no_args_is_help=True, rich_markup_mode="markdown")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"skep {__version__}")
        raise typer.Exit


@app.callback()
def skep(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Run workflows of AI-agent and ordinary tasks, durably, with nothing to set up.

    **Try** `skep demo`, then `skep run FLOW.yaml`; `skep COMMAND --help` shows examples.

    Exit codes: 0 ok · 1 run failed · 2 usage · 3 refused · 4 cancelled · 5 timed out.
    """


def main() -> None:
    """The program `skep`."""
    try:
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
