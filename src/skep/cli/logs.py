"""`skep logs`."""

from __future__ import annotations

import re
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
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
    task: Annotated[
        str | None, typer.Argument(metavar="TASK", help="Only of this task.", autocompletion=completion.tasks)
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run ends.")] = False,
    tail: Annotated[int | None, typer.Option(min=1, metavar="N", help="Of what is there only the last N lines.")] = None,
    attempt: Annotated[int | None, typer.Option(min=1, metavar="N", help="Only of this attempt.")] = None,
    data: remote.Data = None,
    json: Annotated[bool, typer.Option("--json", help="Print a JSON document on a line for each piece.")] = False,
) -> None:
    """Print what the tasks of a run wrote, in the order in which it came.

    Of one task it is printed as it was written; of several each line begins with the name of its task.

    **Examples**

    - `skep logs last`
    - `skep logs 0192f0c1 build --attempt 2`
    - `skep logs last -f --tail 20`
    """
    with remote.server(data, json) as client:
        found = remote.find_run(client, run)
        printer = _Documents(tail) if json else _Printer(tail, named=task is None)
        place = 0
        if tail:
            for line in client.runs.logs(found, task=task, attempt=attempt):
                place = line.position
                printer.print(line)
            if not follow:
                printer.end()
            printer.release()
        if follow or not tail:
            for line in lines(client, found, task, attempt, follow, place):
                printer.print(line)
            printer.end()


def lines(client: Client, run: str, task: str | None, attempt: int | None, follow: bool, place: int = 0) -> Iterator[LogLine]:
    """The pieces behind a place, in order; with `follow` until the run ends, also over restarts of the server."""
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


class _Tail:
    """Writes to standard output; first the last few of what it is given, once they are released."""

    def __init__(self, tail: int | None) -> None:
        """`tail`: how many; None: all, at once."""
        self._kept: deque[str] | None = deque(maxlen=tail) if tail else None

    def put(self, texts: Iterable[str]) -> None:
        """Each of them is a line, or the beginning of one that the next goes on with."""
        if self._kept is None:
            sys.stdout.write("".join(texts))
            sys.stdout.flush()
            return
        for text in texts:
            begun = self._kept.pop() if self._kept and not self._kept[-1].endswith("\n") else ""
            self._kept.append(begun + text)

    def release(self) -> None:
        kept, self._kept = self._kept or (), None
        self.put(kept)


class _Documents(_Tail):
    """Writes a document for each piece."""

    def print(self, piece: LogLine) -> None:
        self.put([msgspec.json.encode(piece).decode() + "\n"])

    def end(self) -> None:
        pass


class _Printer(_Tail):
    """Writes pieces of text so that lines of several tasks do not mix."""

    def __init__(self, tail: int | None, named: bool) -> None:
        super().__init__(tail)
        self._named = named
        self._open: dict[tuple[str, int, str], str] = {}
        """Task, attempt and stream to a line that is not complete."""
        self._width = 0
        self._color = remote.colored()
        self._styles: dict[str, str] = {}

    def print(self, piece: LogLine) -> None:
        if not self._named:
            self.put(re.findall(r"[^\n]*\n|[^\n]+", piece.text))
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
        self.put(f"{head}{plain(text) if self._color else text}\n" for text in texts)
