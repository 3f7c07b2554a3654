"""Where the command line writes: the one document to standard output, everything else to standard error."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import msgspec

from skep.cli.lines import Lines
from skep.cli.live import Live
from skep.cli.problems import problems_of
from skep.cli.screen import Line, paint
from skep.clock import Clock
from skep.errors import SkepError
from skep.node.capture import capture


class Console:
    """Standard output is kept apart, so that nothing which tasks or libraries print can get between: not even what writes to
    the descriptor itself."""

    def __init__(self, clock: Clock, *, quiet: bool = False, no_color: bool = False) -> None:
        self._file = sys.stderr
        self.color = _can_draw() and not no_color
        self.view: Live | Lines = Live(self._file, clock) if self.color and not quiet else Lines(self._file, quiet)
        self._out = -1

    @contextmanager
    def open(self, *, json: bool = False) -> Iterator[Console]:
        """`json`: an error that passes goes to standard output as a document."""
        sys.stdout.flush()
        self._out = os.dup(1)
        os.dup2(2, 1)
        handler = _Handler(self.view)
        logger = logging.getLogger("skep")
        logger.addHandler(handler)
        logger.propagate = False
        try:
            with capture(self.view.outside):
                yield self
        except SkepError as error:
            if json:
                found = {"error": str(error), "problems": problems_of(error)}
                self.document(msgspec.json.format(msgspec.json.encode(found), indent=2))
            raise
        finally:
            logger.removeHandler(handler)
            logger.propagate = True
            os.dup2(self._out, 1)
            os.close(self._out)

    def document(self, data: bytes) -> None:
        """Writes to standard output."""
        with open(self._out, "wb", closefd=False) as file:
            file.write(data.rstrip(b"\n") + b"\n")

    def say(self, *lines: Line) -> None:
        """Writes lines to standard error."""
        self._file.write("".join(f"{paint(line, self.color)}\n" for line in lines))
        self._file.flush()


def _can_draw() -> bool:
    """Whether standard error is a terminal that moves its cursor, shows colours and knows Unicode."""
    environ = os.environ
    if environ.get("NO_COLOR") or environ.get("TERM", "dumb") == "dumb" or not sys.stderr.isatty():
        return False
    return sys.stderr.encoding.lower().replace("-", "") == "utf8"


class _Handler(logging.Handler):
    """Shows Skep's warnings between the lines of the view."""

    def __init__(self, view: Live | Lines) -> None:
        super().__init__(logging.WARNING)
        self._view = view

    def emit(self, record: logging.LogRecord) -> None:
        for line in self._lines(record):
            self._view.say(line)

    def format(self, record: logging.LogRecord) -> str:
        """With the traceback only for those who asked for it."""
        text, error = record.getMessage(), record.exc_info[1] if record.exc_info else None
        if os.environ.get("SKEP_DEBUG"):
            return super().format(record)
        return text if error is None or str(error) in text else f"{text}: {type(error).__name__}: {error}"

    def _lines(self, record: logging.LogRecord) -> Sequence[Line]:
        first, *more = self.format(record).split("\n")
        return [[("skep: ", "yellow"), (first, "")], *([(line, "dim")] for line in more)]
