"""What Python tasks of this process print goes to their logs. Only the command line installs it: it owns the process.

Text printed outside of a task, by imported modules and by threads that user code started, goes to `outside`.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from skep.node.context import TaskContext, current

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

Outside = Callable[[str], object]


@contextmanager
def capture(outside: Outside) -> Iterator[None]:
    """Stands in for `sys.stdout` and `sys.stderr` until it is left."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Routed("out", before[0], outside), _Routed("err", before[1], outside)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


class _Routed(io.TextIOBase):
    """A text stream whose writes go wherever the running task's log is."""

    def __init__(self, stream: str, real: TextIO, outside: Outside) -> None:
        self._stream = stream
        self._real = real
        self._outside = outside
        self.buffer = _RoutedBytes(self)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._real.fileno()

    def write(self, text: str) -> int:
        context: TaskContext | None = current.get(None)
        if context is None:
            self._outside(text)
        else:
            context.write(self._stream, text)
        return len(text)


class _RoutedBytes(io.RawIOBase):
    """`sys.stdout.buffer`."""

    def __init__(self, text: _Routed) -> None:
        self._text = text

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._text.fileno()

    def write(self, data: ReadableBuffer) -> int:
        view = memoryview(data)
        self._text.write(bytes(view).decode("utf-8", "replace"))
        return view.nbytes
