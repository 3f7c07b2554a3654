"""Time, handed in. Stored times are milliseconds and end in `_ms`; nothing in rings 1 to 3 reads a clock by itself."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Tells the time in whole milliseconds."""

    def now_ms(self) -> int:
        """Milliseconds since 1970-01-01 UTC: what is stored and shown."""
        ...


class SystemClock:
    """The wall clock at the start, advanced by the monotonic one: it never steps back while a process lives."""

    def __init__(self) -> None:
        self._offset_ns = time.time_ns() - time.monotonic_ns()

    def now_ms(self) -> int:
        return (self._offset_ns + time.monotonic_ns()) // 1_000_000


class ManualClock:
    """A clock that stands still until it is moved: for tests and simulation."""

    def __init__(self, start_ms: int = 1_750_000_000_000) -> None:
        self._now_ms = start_ms

    def now_ms(self) -> int:
        return self._now_ms

    def advance(self, ms: int) -> None:
        """Moves the clock forward by `ms` milliseconds."""
        if ms < 0:
            raise ValueError(f"a clock only goes forward, got {ms} ms")
        self._now_ms += ms
