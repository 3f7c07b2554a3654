"""What all commands that speak to a server share: their options, the connection, and how they answer."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer

from skep.cli import completion, where
from skep.cli.problems import problems_of
from skep.cli.screen import Line, paint
from skep.client import Client, Filter
from skep.errors import NotFoundError, SkepError

NEWEST: Final = ("-", "last")
"""In the place of a run's id."""


def _given(value: str | None) -> str | None:
    """A variable of a script that is not set must not mean everything."""
    if value == "":
        raise typer.BadParameter("is empty")
    return value


Data = Annotated[Path | None, typer.Option("--data", metavar="DIR", help=where.DATA)]
"""Of the server that a command speaks to; it may be named otherwise too, see `skep.cli.where`."""
Home = Annotated[Path | None, typer.Option("--data", metavar="DIR", help="The data directory (or set SKEP_HOME).")]
"""Of a command that works on this machine."""
Json = Annotated[bool, typer.Option("--json", help="Print the answer as one JSON document.")]
Namespace = Annotated[str | None, typer.Option("--namespace", metavar="NAME", help="Only of this namespace.", callback=_given)]
Run = Annotated[
    str,
    typer.Argument(metavar="RUN", help="An id or its beginning; `last` or `-`: the newest.", autocompletion=completion.runs),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@contextmanager
def server(data: Path | None, json: bool = False) -> Iterator[Client]:
    """The server that is meant. `json`: an error that passes goes to standard output as a document too."""
    with told(json), Client(**where.given(data)) as client:
        yield client


@contextmanager
def told(json: bool) -> Iterator[None]:
    """`json`: an error that passes goes to standard output as a document too."""
    try:
        yield
    except SkepError as error:
        if json:
            document({"error": str(error), "problems": problems_of(error)})
        raise


def find_run(client: Client, run: str) -> str:
    """The run that was meant, as the server takes it; the newest is nobody's child. Raises BadParameter, NotFoundError."""
    if not run.strip():
        raise typer.BadParameter("is empty, expected an id, its beginning, or `last`", param_hint="RUN")
    if run not in NEWEST:
        return run
    newest = client.runs.list(Filter(roots=True), limit=1).runs
    if not newest:
        raise NotFoundError("there are no runs yet; `skep submit FLOW.yaml` makes one")
    return newest[0].id


def document(value: Any) -> None:
    """Prints one JSON document."""
    typer.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def say(*lines: Line) -> None:
    """Prints lines to standard output: cut to the terminal's width and coloured, or whole and plain when it is none."""
    columns, color = width(), colored()
    typer.echo("".join(f"{paint(line, color, columns)}\n" for line in lines), nl=False)


def note(text: str) -> None:
    """A line for people beside the answer."""
    print(text, file=sys.stderr)


def width() -> int | None:
    """Columns of the terminal that standard output is; None when it is none."""
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or None if sys.stdout.isatty() else None
    except (OSError, ValueError):
        return None


def colored() -> bool:
    """Whether standard output shows colours."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"


def sure(question: str, yes: bool) -> None:
    """Asks before much is done; where nobody can be asked, `--yes` must say so. Raises Abort, BadParameter."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise typer.BadParameter(f"{question} Nobody is here to answer: say --yes", param_hint="--yes")
    typer.confirm(question, abort=True, err=True)
