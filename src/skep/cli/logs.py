"""`skep logs`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Annotated, Final

import msgspec
import typer

from skep.cli import completion, remote
from skep.cli.screen import fit, paint, plain
from skep.client import Client, UnreachableError
from skep.model.views import LogLine

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")

AGAIN_S: Final = 1.0
STYLES: Final = ("cyan", "green", "yellow", "blue", "magenta")


@app.command()
def logs(
    run: remote.Run,
    task: Annotated[str | None, typer.Argument(help="Only of this task.", autocompletion=completion.tasks)] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run ends.")] = False,
    attempt: Annotated[int | None, typer.Option(min=1, metavar="N", help="Only of this attempt.")] = None,
    data: remote.Data = None,
    json: Annotated[bool, typer.Option("--json", help="Print a JSON document on a line for each piece.")] = False,
) -> None:
    """Print what the tasks of a run wrote, in the order in which it came.

    Of one task it is printed as it was written; of several each line begins with the name of its task.

    **Examples**

    - `skep logs last`
    - `skep logs 0192f0c1 build --attempt 2`
    - `skep logs last -f`
    """
    with remote.server(data, json) as client:
        found = remote.find_run(client, run)
        printer = _Printer(named=task is None)
        for line in lines(client, found, task, attempt, follow):
            if json:
                typer.echo(msgspec.json.encode(line))
            else:
                printer.print(line)
        printer.end()


def lines(client: Client, run: str, task: str | None, attempt: int | None, follow: bool) -> Iterator[LogLine]:
    """The pieces in order; with `follow` until the run ends, also over restarts of the server."""
    place = 0
    while True:
        try:
            for line in client.runs.logs(run, task=task, attempt=attempt, after=place, follow=follow):
                place = line.position
                yield line
            if not follow or client.runs.get(run).finished_ms:
                return
        except UnreachableError:
            if not (follow and place):
                raise
        time.sleep(AGAIN_S)


class _Printer:
    """Writes pieces of text so that lines of several tasks do not mix."""

    def __init__(self, named: bool) -> None:
        self._named = named
        self._open: dict[tuple[str, int, str], str] = {}
        """Task, attempt and stream to a line that is not complete."""
        self._width = 0
        self._color = remote.colored()
        self._styles: dict[str, str] = {}

    def print(self, piece: LogLine) -> None:
        if not self._named:
            sys.stdout.write(piece.text)
            sys.stdout.flush()
            return
        key = (piece.task, piece.attempt, piece.stream)
        *whole, rest = (self._open.pop(key, "") + piece.text).split("\n")
        self._write(piece.task, whole)
        if rest:
            self._open[key] = rest

    def end(self) -> None:
        for (task, _, _), text in self._open.items():
            self._write(task, [text])

    def _write(self, task: str, texts: list[str]) -> None:
        if not texts:
            return
        self._width = max(self._width, len(task))
        style = self._styles.setdefault(task, STYLES[len(self._styles) % len(STYLES)])
        head = paint([(fit(task, self._width), style), (" │ ", "dim")], self._color)
        sys.stdout.write("".join(f"{head}{plain(text) if self._color else text}\n" for text in texts))
        sys.stdout.flush()
