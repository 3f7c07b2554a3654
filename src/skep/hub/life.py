"""A run from its acceptance to its end, as its events tell it: who waited for it all the time need not look it up then."""

from __future__ import annotations

from typing import Final

import msgspec

from skep.model.event import Event
from skep.model.state import TaskState
from skep.record.fold import fold
from skep.record.protocol import RunRow

MOST: Final = 500
"""Events. To look a longer one up takes no time beside what it took."""


class Life:
    """One run's. What is told of it is recorded already."""

    def __init__(self) -> None:
        self._row: RunRow | None = None
        self._events: list[Event] = []

    def begin(self, row: RunRow) -> None:
        """It was accepted just now."""
        self._row = row

    def told(self, event: Event) -> bool:
        """False when it has become too long to be followed."""
        self._events.append(event)
        if len(self._events) > MOST:
            self._row = None
        return self._row is not None

    def ended(self) -> RunRow | None:
        """The run as the record has it, with counts; None when that is not known here, as when events were missed."""
        if self._row is None:
            return None
        changes = fold(0, self._events)
        run = changes.runs.get(self._row.id)
        if run is None or not run.started_ms or not run.finished_ms:
            return None
        counts = [0] * len(TaskState)
        for task in changes.tasks.values():
            counts[task.state] += 1
        if sum(counts[TaskState.SUCCEEDED :]) != run.task_count:
            return None
        return msgspec.structs.replace(
            self._row,
            state=run.state,
            reason=run.reason or "",
            paused=bool(run.paused),
            started_ms=run.started_ms,
            finished_ms=run.finished_ms,
            task_count=run.task_count,
            counts=tuple(counts),
        )
