"""Virtual time: an event loop whose clock jumps to the next timer when nothing else is left to do.

    VirtualLoop(limit_s=60).play(main())     `asyncio.sleep(3600)` in there takes no time, and all happens in the same order

While something from outside is awaited, a socket, a subprocess or a thread of `asyncio.to_thread`, time passes as it really
does: nobody can tell how long that is going to take.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from skep.node.executors.coroutines import end_tasks

T = TypeVar("T")

START_MS = 1_767_225_600_000
"""2026-01-01 00:00 UTC, when virtual time begins."""
END_S = 60.0
"""Virtual seconds for cancelled tasks to end."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on virtual time."""

    def __init__(self, limit_s: float) -> None:
        """`limit_s`: real seconds, after which `play` raises TimeoutError; code that never yields is not interrupted."""
        self._pace = _Pace(limit_s)
        super().__init__(self._pace)

    def time(self) -> float:
        return self._pace.now

    def now_ms(self) -> int:
        """The wall clock that goes with it: this loop is a `skep.clock.Clock` too."""
        return START_MS + int(self._pace.now * 1000 + 1e-6)

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        self._pace.threads += 1
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(self._out_of_thread)
        return future

    def _out_of_thread(self, future: asyncio.Future[Any]) -> None:
        self._pace.threads -= 1

    def play(self, main: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine to its end, then ends whatever it has left, and closes the loop."""
        try:
            return self.run_until_complete(main)
        finally:
            try:
                self._pace.begin()
                self.run_until_complete(end_tasks(END_S))
            finally:
                self.close()


class _Pace(selectors.DefaultSelector):
    """Where the loop would wait, time jumps."""

    def __init__(self, limit_s: float) -> None:
        super().__init__()
        self.now = 0.0
        self.threads = 0
        """Calls that are out in threads."""
        self._limit_s = limit_s
        self.begin()

    def begin(self) -> None:
        """The real time starts anew."""
        self._end = time.monotonic() + self._limit_s

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        began = time.monotonic()
        if began > self._end:
            self._end = float("inf")
            raise TimeoutError(f"not at its end after {self._limit_s:g} real seconds")
        alone = len(self.get_map()) <= 1  # the loop's own pipe is always there
        if alone and not self.threads and timeout is not None:
            events = super().select(0)
            if not events:
                self.now += max(timeout, 0)
            return events
        left = self._end - began
        events = super().select(left if timeout is None else min(timeout, left))
        self.now += time.monotonic() - began
        return events
