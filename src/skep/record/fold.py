"""A batch of events as row changes: at most one per task, attempt and run, whatever the batch holds. Pure.

In a change None means: keep what the row has. So changes merge by overwriting, and the fold of a batch equals the fold of its
events one by one. `ready` alone depends on the row: it makes an unfinished task that has a row ready, and creates none.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec

from skep.model.event import Event
from skep.model.state import RunState, TaskState

WAITING: Final = int(TaskState.WAITING)
DELAYED: Final = int(TaskState.DELAYED)
READY: Final = int(TaskState.READY)
RUNNING: Final = int(TaskState.RUNNING)
PARKED: Final = int(TaskState.PARKED)
SUCCEEDED: Final = int(TaskState.SUCCEEDED)

NODE_KINDS: Final = frozenset({"registered", "draining", "retired", "lost"})


class TaskChange(msgspec.Struct, gc=False):
    """A row of `tasks`, in the order of its columns."""

    run: str
    index: int
    state: int
    attempts: int | None = None
    node: str | None = None
    reason: str | None = None
    started_ms: int | None = None
    finished_ms: int | None = None
    output: bytes | None = None
    error: bytes | None = None


class AttemptChange(msgspec.Struct, gc=False):
    """A row of `attempts`, in the order of its columns. `first_*`: the token it was first granted under, which stays."""

    run: str
    index: int
    attempt: int
    state: str
    token_epoch: int | None = None
    token_n: int | None = None
    first_epoch: int | None = None
    first_n: int | None = None
    node: str | None = None
    granted_ms: int | None = None
    started_ms: int | None = None
    finished_ms: int | None = None
    error: bytes | None = None


class RunChange(msgspec.Struct, gc=False):
    """What changes in a row of `runs`. The first `started_ms` and the largest `task_count` stay."""

    run: str
    loaded: int | None = None
    state: int | None = None
    reason: str | None = None
    paused: int | None = None
    started_ms: int | None = None
    finished_ms: int | None = None
    task_count: int = 0


class Changes:
    """What a batch does to the tables."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.runs: dict[str, RunChange] = {}
        self.tasks: dict[tuple[str, int], TaskChange] = {}
        self.attempts: dict[tuple[str, int, int], AttemptChange] = {}
        self.expansions: dict[tuple[str, int], tuple[int, int]] = {}
        """(run, parent) to (first, count)."""
        self.ready: dict[tuple[str, int], None] = {}
        """Tasks to be made ready if they have a row and have not ended."""
        self.chunks: dict[str, list[Event]] = {}
        """Each run's events without their outputs; those of nodes under ''."""

    def run(self, event: Event) -> RunChange:
        run = self.runs.get(event.run)
        if run is None:
            run = self.runs[_named(event)] = RunChange(event.run)
        return run

    def task(self, event: Event, index: int, state: int) -> TaskChange:
        task = self.tasks.get((event.run, index))
        if task is None:
            if index < 0:
                raise ValueError(f"event {event.kind} names task {index}")
            task = self.tasks[_named(event), index] = TaskChange(event.run, index, state)
        task.state = state
        task.reason = event.reason
        return task

    def attempt(self, event: Event, state: str) -> AttemptChange:
        key = (event.run, event.task, event.attempt)
        attempt = self.attempts.get(key)
        if attempt is None:
            attempt = self.attempts[key] = AttemptChange(*key, state)
        attempt.state = state
        if event.token:
            attempt.token_epoch, attempt.token_n = event.token_epoch or self.epoch, event.token
        return attempt


def fold(epoch: int, events: Iterable[Event]) -> Changes:
    """What the events, in order, change. Raises ValueError for an event that makes no sense; nothing else is checked here."""
    changes = Changes(epoch)
    chunks = changes.chunks
    for event in events:
        if event.output or event.reason:
            slim = copy.copy(event)
            slim.output, slim.reason = b"", clean(event.reason)
            event, output = slim, event.output
        else:
            output = b""
        step = STEPS.get(event.kind)
        if step is None:
            raise ValueError(f"unknown kind of event {event.kind!r}")
        step(changes, event, output)
        chunk = chunks.get(event.run)
        if chunk is None:
            chunks[event.run] = [event]
        else:
            chunk.append(event)
    return changes


def clean(text: str) -> str:
    """The text without what a database refuses: NUL, and halves of surrogate pairs. Better so than to lose the event."""
    if text.isascii() and "\0" not in text:
        return text
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def _named(event: Event) -> str:
    if not event.run:
        raise ValueError(f"event {event.kind} names no run")
    return event.run


def _targets(event: Event) -> Sequence[int]:
    return event.tasks or (event.task,)


Step = Callable[[Changes, Event, bytes], None]


def _ready(changes: Changes, event: Event, _: bytes) -> None:
    for index in _targets(event):
        task = changes.tasks.get((event.run, index))
        if task is None:
            changes.ready[event.run, index] = None
        elif task.state < SUCCEEDED:
            task.state, task.reason = READY, ""


def _granted(changes: Changes, event: Event, _: bytes) -> None:
    # Half of all events are grants: so both rows are made at once rather than field by field.
    run, index, number, node, at_ms = event.run, event.task, event.attempt, event.node, event.at_ms
    epoch, n = event.token_epoch or changes.epoch, event.token or event.n
    if not run or index < 0 or number < 1:
        raise ValueError(f"a grant of task {index}, attempt {number}, in run {run!r}")
    old = changes.tasks.get((run, index))
    output = old.output if old else None
    changes.tasks[run, index] = TaskChange(run, index, RUNNING, number, node, event.reason, at_ms, 0, output, b"")
    again = changes.attempts.get((run, index, number))
    first_epoch, first_n = (epoch, n) if again is None or again.first_n is None else (again.first_epoch, again.first_n)
    changes.attempts[run, index, number] = AttemptChange(
        run, index, number, "running", epoch, n, first_epoch, first_n, node, at_ms, 0, 0, b""
    )


def _end_attempt(changes: Changes, event: Event, state: str) -> None:
    attempt = changes.attempt(event, "lost" if event.reason == "node_lost" else state)
    attempt.error = event.error
    if event.started_ms:
        attempt.started_ms, attempt.finished_ms = event.started_ms, event.started_ms + event.ran_ms
    else:
        attempt.finished_ms = event.at_ms


def _ends(state: TaskState) -> Step:
    number, word = int(state), state.label

    def step(changes: Changes, event: Event, output: bytes) -> None:
        for index in event.tasks or (event.task,):
            task = changes.task(event, index, number)
            task.finished_ms = event.started_ms + event.ran_ms if event.started_ms else event.at_ms
            task.error = event.error
            if event.started_ms:
                task.started_ms = event.started_ms
            if number == SUCCEEDED:
                task.output = output
            if event.attempt:
                task.attempts = event.attempt
        if event.attempt:
            _end_attempt(changes, event, word)

    return step


def _goes_on(word: str) -> Step:
    """The attempt ended as `word`, the task did not."""

    def step(changes: Changes, event: Event, _: bytes) -> None:
        task = changes.task(event, event.task, DELAYED if event.due_ms else READY)
        task.error = event.error
        if event.attempt:
            task.attempts = event.attempt
            _end_attempt(changes, event, word)

    return step


def _parked(changes: Changes, event: Event, _: bytes) -> None:
    changes.task(event, event.task, PARKED)
    if event.first >= 0:
        changes.expansions[event.run, event.task] = (event.first, event.count)
        run = changes.run(event)
        run.task_count = max(run.task_count, event.first + event.count)
    if event.attempt:  # it gave its lease back and may come again, as one that snoozed
        _end_attempt(changes, event, "snoozed")


def _reset(changes: Changes, event: Event, _: bytes) -> None:
    for index in _targets(event):
        task = changes.task(event, index, WAITING)
        task.node, task.started_ms, task.finished_ms, task.output, task.error = "", 0, 0, b"", b""
    run = changes.run(event)  # an ended run that is retried runs again, in the engine that says so
    run.loaded, run.state, run.reason, run.finished_ms = changes.epoch, int(RunState.RUNNING), "", 0


def _loaded(changes: Changes, event: Event, _: bytes) -> None:
    run = changes.run(event)
    run.loaded, run.state, run.reason, run.finished_ms = changes.epoch, int(RunState.RUNNING), "", 0
    run.started_ms = run.started_ms or event.at_ms
    run.task_count = max(run.task_count, event.count)


def _flag(paused: int) -> Step:
    def step(changes: Changes, event: Event, _: bytes) -> None:
        changes.run(event).paused = paused

    return step


def _cancelling(changes: Changes, event: Event, _: bytes) -> None:
    run = changes.run(event)
    run.state, run.reason = int(RunState.CANCELLING), event.reason


def _ended(changes: Changes, event: Event, _: bytes) -> None:
    run = changes.run(event)
    run.state, run.reason, run.finished_ms = int(RunState(event.state)), event.reason, event.at_ms


def _node(changes: Changes, event: Event, _: bytes) -> None:
    if event.run:
        raise ValueError(f"event {event.kind} of a node names run {event.run}")


STEPS: Final[dict[str, Step]] = {
    "ready": _ready,
    "granted": _granted,
    "succeeded": _ends(TaskState.SUCCEEDED),
    "failed": _ends(TaskState.FAILED),
    "cancelled": _ends(TaskState.CANCELLED),
    "skipped": _ends(TaskState.SKIPPED),
    "retrying": _goes_on("failed"),
    "snoozed": _goes_on("snoozed"),
    "returned": _goes_on("lost"),
    "parked": _parked,
    "reset": _reset,
    "loaded": _loaded,
    "paused": _flag(1),
    "resumed": _flag(0),
    "cancelling": _cancelling,
    "ended": _ended,
    **dict.fromkeys(NODE_KINDS, _node),
}
