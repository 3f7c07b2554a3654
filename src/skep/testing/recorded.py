"""What a record would know after some events, and a run as it is loaded from that again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from skep.engine.protocol import Load
from skep.model.event import Event
from skep.model.run import RestoredTask
from skep.model.state import TaskState
from skep.testing.shapes import TARGETS


class RecordedRun:
    """One run. It may have been accepted only, and hold no event."""

    def __init__(self) -> None:
        self.tasks: dict[int, RestoredTask] = {}
        self.families: dict[int, tuple[int, int]] = {}
        self.paused: bool | None = None
        self.cancelling = ""
        self.ended = False
        self.command = 0

    def fold(self, event: Event) -> None:
        self.command = max(self.command, event.command)
        match event.kind:
            case "paused" | "resumed":
                self.paused = event.kind == "paused"
            case "cancelling":
                self.cancelling = event.reason
            case "loaded":
                self.cancelling = event.reason if event.state >= 0 else ""
            case "ended":
                self.ended = True
            case _:
                for task in event.tasks or (event.task,):
                    self._fold_task(task, event)

    def _fold_task(self, index: int, event: Event) -> None:
        old = self.tasks.get(index) or RestoredTask(index, TaskState.WAITING, 0)
        kind = event.kind
        if kind == "ready" and index not in self.tasks:
            return  # the record makes no row for what has not begun
        state = TARGETS.get(kind) or (TaskState.DELAYED if event.due_ms else TaskState.READY)
        task = old._replace(state=state, due_ms=event.due_ms, attempts=event.attempt or old.attempts)
        if kind == "reset":
            task = task._replace(failures=0, lost=0, met=False)
            self.ended, self.cancelling = False, ""
        elif kind == "retrying" or (kind == "failed" and event.attempt):
            task = task._replace(failures=old.failures + 1)
        elif kind == "returned":
            task = task._replace(lost=old.lost + (event.reason == "lost"))
        elif kind == "skipped":
            task = task._replace(met=event.reason == "when")
        elif event.first >= 0:
            self.families[index] = event.first, event.count
        self.tasks[index] = task

    def loads(self, first: Load, now_ms: int, chunks: int = 1) -> Iterable[Load]:
        """The chunks in which the run is loaded again; `first`: how it was loaded when it was new."""
        families = sorted(((parent, *place) for parent, place in self.families.items()), key=lambda family: family[1])
        size = max([first.shape.size, *(start + count for _, start, count in families)])
        step = -(-size // chunks)
        given: dict[str, Any] = {
            "run": first.run,
            "namespace": first.namespace,
            "shape": first.shape,
            "accepted_ms": first.accepted_ms,
            "timeout_ms": first.timeout_ms,
            "paused": first.paused if self.paused is None else self.paused,
            "command": self.command,
            "cancelling": self.cancelling,
            "ended": self.ended,
            "read_ms": now_ms,
        }
        for start in range(0, max(size, 1), step or 1):
            known = [task for index, task in sorted(self.tasks.items()) if start <= index < start + step]
            yield Load(
                first=start,
                count=min(step, size - start),
                restored=known,
                families=families if not start else (),
                **given,
            )


def recorded(events: Iterable[Event], known: dict[str, RecordedRun]) -> dict[str, RecordedRun]:
    """Folds the events of runs into what was known before."""
    for event in events:
        if event.run:
            known.setdefault(event.run, RecordedRun()).fold(event)
    return known
