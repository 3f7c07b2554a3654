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
from skep.model.wait import Wait

WAITING: Final = int(TaskState.WAITING)
DELAYED: Final = int(TaskState.DELAYED)
READY: Final = int(TaskState.READY)
RUNNING: Final = int(TaskState.RUNNING)
PARKED: Final = int(TaskState.PARKED)
SUCCEEDED: Final = int(TaskState.SUCCEEDED)

ALL_SO_FAR: Final = -1
DATA_KEPT: Final = 1_024
"""Bytes of `data` that stay in a stored event; what a task waits for stands in its own row."""

GIVEN_BACK: Final = frozenset({"retired", "unlisted"})
"""Reasons of `returned` for which nobody was lost."""

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
    due_ms: int | None = None
    since: int | None = None
    """Attempts up to this number do not count any more; `ALL_SO_FAR`: those that the row knows."""


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
    price: int | None = None
    """Of its node when it was granted; the first one stays."""


class RunChange(msgspec.Struct, gc=False):
    """What changes in a row of `runs`. The first `started_ms` and the largest `task_count` and `applied` stay."""

    run: str
    loaded: int | None = None
    state: int | None = None
    reason: str | None = None
    paused: int | None = None
    started_ms: int | None = None
    finished_ms: int | None = None
    task_count: int = 0
    applied: int = 0


class WaitChange(msgspec.Struct, gc=False):
    """A row of `waits`, in the order of its columns."""

    run: str
    index: int
    attempt: int
    kind: str
    event: str
    key: str
    since_ms: int
    due_ms: int
    data: bytes


class NodeChange(msgspec.Struct, gc=False):
    """A row of `nodes`, in the order of its columns, without the engine."""

    node: str
    incarnation: int
    state: str
    at_ms: int


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
        self.adopted: dict[tuple[str, int, int], int] = {}
        """Attempts that went on under a later engine, to the time: when they began, if the record does not know better."""
        self.waits: dict[tuple[str, int], WaitChange] = {}
        """Waits that began. Those of all other tasks that changed are over."""
        self.nodes: dict[str, NodeChange] = {}

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
        if self.waits:
            self.waits.pop((event.run, index), None)
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
    for whole in events:
        event = whole
        if whole.output or whole.reason or whole.data:
            event = copy.copy(whole)
            event.output, event.reason = b"", clean(whole.reason)
            if len(whole.data) > DATA_KEPT:
                event.data = b""
        step = STEPS.get(event.kind)
        if step is None:
            raise ValueError(f"unknown kind of event {event.kind!r}")
        step(changes, event, whole)
        if event.command:
            run = changes.run(event)
            run.applied = max(run.applied, event.command)
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


Step = Callable[[Changes, Event, Event], None]
"""Changes, the event as it is kept, and as it came."""


def _ready(changes: Changes, event: Event, _: Event) -> None:
    for index in _targets(event):
        task = changes.tasks.get((event.run, index))
        if task is None:
            changes.ready[event.run, index] = None
        elif task.state < SUCCEEDED:
            task.state, task.reason = READY, ""
        if changes.waits:
            changes.waits.pop((event.run, index), None)


def _granted(changes: Changes, event: Event, _: Event) -> None:
    # Half of all events are grants: so both rows are made at once rather than field by field.
    run, index, number, node, at_ms = event.run, event.task, event.attempt, event.node, event.at_ms
    epoch, n = event.token_epoch or changes.epoch, event.token or event.n
    if not run or index < 0 or number < 1:
        raise ValueError(f"a grant of task {index}, attempt {number}, in run {run!r}")
    old = changes.tasks.get((run, index))
    output, since = (old.output, old.since) if old else (None, None)
    changes.tasks[run, index] = TaskChange(run, index, RUNNING, number, node, event.reason, at_ms, 0, output, b"", 0, since)
    if changes.waits:
        changes.waits.pop((run, index), None)
    again = changes.attempts.get((run, index, number))
    first_epoch, first_n = (epoch, n) if again is None or again.first_n is None else (again.first_epoch, again.first_n)
    changes.attempts[run, index, number] = AttemptChange(
        run, index, number, "running", epoch, n, first_epoch, first_n, node, at_ms, 0, 0, b""
    )


def _adopted(changes: Changes, event: Event, _: Event) -> None:
    if event.attempt < 1:
        raise ValueError(f"an adoption of attempt {event.attempt}")
    task = changes.task(event, event.task, RUNNING)
    task.attempts, task.node, task.finished_ms, task.error = event.attempt, event.node, 0, b""
    key = (event.run, event.task, event.attempt)
    if key not in changes.attempts:
        changes.adopted[key] = event.at_ms
        changes.attempts[key] = AttemptChange(*key, "running")
    attempt = changes.attempts[key]
    attempt.state, attempt.node, attempt.finished_ms, attempt.error = "running", event.node, 0, b""
    attempt.token_epoch, attempt.token_n = changes.epoch, event.n
    if attempt.first_n is None:
        attempt.first_epoch, attempt.first_n = event.token_epoch, event.token


def _end_attempt(changes: Changes, event: Event, state: str) -> None:
    attempt = changes.attempt(event, "lost" if event.reason == "node_lost" else state)
    attempt.error = event.error
    if event.started_ms:
        attempt.started_ms, attempt.finished_ms = event.started_ms, event.started_ms + event.ran_ms
    else:
        attempt.finished_ms = event.at_ms


def _ends(state: TaskState) -> Step:
    number, word = int(state), state.label

    def step(changes: Changes, event: Event, whole: Event) -> None:
        for index in event.tasks or (event.task,):
            task = changes.task(event, index, number)
            task.finished_ms = event.started_ms + event.ran_ms if event.started_ms else event.at_ms
            task.error = event.error
            if event.started_ms:
                task.started_ms = event.started_ms
            if number == SUCCEEDED:
                task.output = whole.output
            if event.attempt:
                task.attempts = event.attempt
        if event.attempt:
            _end_attempt(changes, event, word)

    return step


def _goes_on(word: str) -> Step:
    """The attempt ended as `word`, the task did not."""

    def step(changes: Changes, event: Event, _: Event) -> None:
        task = changes.task(event, event.task, DELAYED if event.due_ms else READY)
        task.error, task.due_ms = event.error, event.due_ms
        if event.attempt:
            task.attempts = event.attempt
            _end_attempt(changes, event, "returned" if event.reason in GIVEN_BACK else word)

    return step


def _parked(changes: Changes, event: Event, whole: Event) -> None:
    task = changes.task(event, event.task, PARKED)
    if event.first >= 0:
        changes.expansions[event.run, event.task] = (event.first, event.count)
        run = changes.run(event)
        run.task_count = max(run.task_count, event.first + event.count)
    if event.attempt and whole.data:
        _wait(changes, event, Wait.decode(whole.data), whole.data)
        task.attempts, task.finished_ms, task.error = event.attempt, 0, b""
    elif event.attempt:  # it gave its lease back and may come again, as one that snoozed
        _end_attempt(changes, event, "snoozed")


def _wait(changes: Changes, event: Event, wait: Wait, data: bytes) -> None:
    attempt = changes.attempt(event, "parked")
    attempt.granted_ms, attempt.finished_ms, attempt.error = event.at_ms, 0, b""
    due_ms = event.at_ms + wait.timeout_ms if wait.timeout_ms else 0
    place = (event.run, event.task)
    names = (clean(wait.kind), clean(wait.event), clean(wait.key))
    changes.waits[place] = WaitChange(*place, event.attempt, *names, event.at_ms, due_ms, data)


def _reset(changes: Changes, event: Event, _: Event) -> None:
    for index in _targets(event):
        task = changes.task(event, index, WAITING)
        task.node, task.started_ms, task.finished_ms, task.output, task.error = "", 0, 0, b"", b""
        task.since = ALL_SO_FAR if task.attempts is None else task.attempts
    run = changes.run(event)  # an ended run that is retried runs again, in the engine that says so
    run.loaded, run.state, run.reason, run.finished_ms = changes.epoch, int(RunState.RUNNING), "", 0


def _loaded(changes: Changes, event: Event, _: Event) -> None:
    run = changes.run(event)
    state = event.state if event.state >= 0 else int(RunState.RUNNING)
    run.loaded, run.state, run.reason, run.finished_ms = changes.epoch, state, event.reason, 0
    run.started_ms = run.started_ms or event.at_ms
    run.task_count = max(run.task_count, event.count)


def _flag(paused: int) -> Step:
    def step(changes: Changes, event: Event, _: Event) -> None:
        changes.run(event).paused = paused

    return step


def _cancelling(changes: Changes, event: Event, _: Event) -> None:
    run = changes.run(event)
    run.state, run.reason = int(RunState.CANCELLING), event.reason


def _ended(changes: Changes, event: Event, _: Event) -> None:
    run = changes.run(event)
    run.state, run.reason, run.finished_ms = int(RunState(event.state)), event.reason, event.at_ms


def _node(changes: Changes, event: Event, _: Event) -> None:
    if event.run:
        raise ValueError(f"event {event.kind} of a node names run {event.run}")
    state = event.kind if event.kind in ("retired", "lost") else "live"
    changes.nodes[event.node] = NodeChange(event.node, event.count, state, event.at_ms)


STEPS: Final[dict[str, Step]] = {
    "ready": _ready,
    "granted": _granted,
    "adopted": _adopted,
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
