"""Which times of a schedule start a run now, and which are passed over or wait. Pure.

A time is *missed* when it is found more than a minute late: no server ran. What becomes of missed times, and of those that
waited in a queue before them, is the catch-up policy's; what becomes of the rest while an earlier run goes on, the overlap
policy's. Of the times that wait, the first is the schedule's `next_ms` and the last its `fired_ms`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, NamedTuple

from skep.flow.timetable import next_after, times_between
from skep.model.schedule import ScheduleSpec

MISSED_MS: Final = 60_000
"""How late a time may be and still count as on time."""
MOST: Final = 100
"""Times that may wait, or be caught up with; the oldest beyond them are passed over."""


class Firing(NamedTuple):
    """What is to be done with a schedule now."""

    fire: tuple[int, ...]
    """Times for which a run is started, in order."""
    cancels: bool
    """Runs of earlier times that go on are cancelled first."""
    fired_ms: int
    """The last time for which it is decided, waiting ones included."""
    next_ms: int
    """The first time for which no run was started or passed over; 0: never again."""
    waits: bool = False
    """`next_ms` has come, and waits until the runs that go on have ended."""


def decide_firing(spec: ScheduleSpec, next_ms: int, fired_ms: int, now_ms: int, running: Collection[int]) -> Firing:
    """The decision for a schedule whose `next_ms` has come.

    `running`: for each run of the schedule that has not ended the time for which it was started, 0 where that is none of those
    that are due. A time may be among them itself: its run was accepted, and then the process died.
    """
    due = _caught_up(spec, times_between(spec, next_ms - 1, now_ms, MOST), fired_ms, now_ms)
    after_ms = next_after(spec, now_ms)
    last_ms = max(fired_ms, due[-1] if due else now_ms)
    if not due:
        return Firing((), False, last_ms, after_ms)
    if spec.overlap == "allow":
        return Firing(tuple(due), False, last_ms, after_ms)
    if spec.overlap == "cancel":
        return Firing((due[-1],), any(at_ms != due[-1] for at_ms in running), last_ms, after_ms)
    first = due[0]
    busy = any(at_ms != first for at_ms in running)
    if spec.overlap == "skip":
        return Firing(() if busy else (first,), False, last_ms, after_ms)
    if busy:
        return Firing((), False, last_ms, first, waits=True)
    return Firing((first,), False, last_ms, due[1] if len(due) > 1 else after_ms)


def _caught_up(spec: ScheduleSpec, due: list[int], fired_ms: int, now_ms: int) -> list[int]:
    """What is left of the due times when some of them were missed."""
    late_ms = now_ms - MISSED_MS
    if spec.catch_up == "all" or not any(fired_ms < at_ms < late_ms for at_ms in due):
        return due
    return due[-1:] if spec.catch_up == "last" else [at_ms for at_ms in due if at_ms >= late_ms]
