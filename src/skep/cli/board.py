"""What a watcher knows of one run, folded from its events at the price of a few list operations each."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

import msgspec

from skep.cli.rows import FAILED, PARKED, RUNNING, SUCCEEDED, WAITING, Row, Tree
from skep.cli.screen import plain
from skep.flow.plan import Plan
from skep.model.event import Event
from skep.model.node import ErrorInfo, LogChunk, Progress
from skep.model.state import RunState, TaskState
from skep.model.wait import APPROVAL, EVENT, Wait

DELAYED, READY, SKIPPED = int(TaskState.DELAYED), int(TaskState.READY), int(TaskState.SKIPPED)
ENDS: Final = {state.label: int(state) for state in TaskState if state.ended}
RECENT: Final = 100
"""Ended rows to remember."""
LONGEST_NOTE: Final = 400
"""Bytes of output looked at."""

_error = msgspec.json.Decoder(ErrorInfo).decode


class Board:
    """The rows of a run and what is counted over them."""

    def __init__(self, plan: Plan) -> None:
        self.tree = Tree(plan)
        self.name = plan.spec.name
        self.state = RunState.QUEUED
        self.reason = ""
        self.paused = False
        self.started_ms = self.ended_ms = 0
        self.counts = [len(plan.names)] + [0] * (len(TaskState) - 1)
        """Tasks in each state; a map counts as its children."""
        self.active: dict[Row, None] = {}
        """Rows that have begun and not ended."""
        self.recent: deque[Row] = deque(maxlen=RECENT)
        """Rows that ended, the last one last."""
        self.failed: list[Row] = []
        self._states = bytearray(len(plan.names))
        self._next = 0

    @property
    def total(self) -> int:
        return sum(self.counts)

    @property
    def ended(self) -> int:
        return sum(self.counts[SUCCEEDED:])

    def waiting(self) -> Iterator[Row]:
        """Rows that have not begun, from the top of the tree."""
        order = self.tree.order
        while self._next < len(order) and order[self._next].shown != WAITING:
            self._next += 1
        return (row for row in islice(order, self._next, None) if row.shown == WAITING)

    # -- events

    def take(self, events: Iterable[Event]) -> None:
        """Folds events of this run, in their order."""
        for event in events:
            kind = event.kind
            if kind in ("granted", "adopted"):
                self._granted(event)
            elif kind in ENDS:
                self._ended(event, ENDS[kind])
            elif kind in ("retrying", "snoozed", "returned"):
                self._goes_on(event)
            elif kind == "parked":
                self._parked(event)
            elif kind == "ready":
                self._ready(event)
            elif kind == "reset":
                self._reset(event)
            elif kind == "loaded":
                self.state, self.started_ms = RunState.RUNNING, self.started_ms or event.at_ms
            elif kind in ("paused", "resumed"):
                self.paused = kind == "paused"
            elif kind == "cancelling":
                self.state, self.reason = RunState.CANCELLING, event.reason
            elif kind == "ended":
                self.state, self.reason, self.ended_ms = RunState(event.state), event.reason, event.at_ms

    def _move(self, task: int, state: int) -> Row:
        old, self._states[task] = self._states[task], state
        row = self.tree.of[task]
        if row.task == task:
            row.state = state
        members = row.members if row.task != task else row.parent.members if row.parent else ()
        if members:
            members[old] -= 1
            members[state] += 1
        if not (row.task == task and row.members):  # a map counts as its children
            self.counts[old] -= 1
            self.counts[state] += 1
        return row

    def _granted(self, event: Event) -> None:
        row = self._move(event.task, RUNNING)
        if event.node not in row.nodes:
            row.nodes[event.node] = None
        self.active[row] = None
        if row.task == event.task:
            row.attempts, row.since_ms, row.note, row.progress = event.attempt, event.at_ms, "", None
        elif not row.since_ms:
            row.since_ms = event.at_ms
        parent = row.parent
        if parent is not None:
            parent.nodes[event.node] = None
            parent.since_ms = parent.since_ms or event.at_ms

    def _ended(self, event: Event, state: int) -> None:
        for task in event.tasks or (event.task,):
            row = self._move(task, state)
            if state == FAILED and len(self.failed) < RECENT and row not in self.failed:
                self.failed.append(row)
            if row.task == task:
                row.since_ms = event.started_ms or row.since_ms
            elif row.ended < row.size:
                continue
            row.ended_ms = event.started_ms + event.ran_ms if event.started_ms else event.at_ms
            row.trouble = _trouble(event) if state in (FAILED, SKIPPED) else ""
            self.active.pop(row, None)
            self.recent.append(row)

    def _goes_on(self, event: Event) -> None:
        row = self._move(event.task, DELAYED if event.due_ms else READY)
        if row.task == event.task:
            row.due_ms, row.trouble = event.due_ms, _trouble(event)

    def _ready(self, event: Event) -> None:
        states = self._states
        for task in event.tasks or (event.task,):
            if 0 <= task < len(states) and states[task] == PARKED:  # a wait is over, and the task is decided anew
                self.active.pop(self._move(task, READY), None)

    def _reset(self, event: Event) -> None:
        self.state, self.reason, self.ended_ms = RunState.RUNNING, "", 0
        for task in event.tasks or (event.task,):
            row = self._move(task, WAITING)
            row.ended_ms, row.trouble = 0, ""
            if row.task == task:
                row.since_ms, row.note = 0, ""
        self.failed = [row for row in self.failed if row.shown == FAILED]
        self._next = 0

    def _parked(self, event: Event) -> None:
        row = self._move(event.task, PARKED)
        self.active[row] = None
        if row.task == event.task and event.first < 0:
            row.since_ms, row.note, row.progress = event.at_ms, waits_for(event), None
        if event.first >= 0 and event.count and not row.members:
            self.counts[PARKED] -= 1
            self.counts[WAITING] += event.count
            self._states.extend(bytes(event.count))
            self.tree.expand(row, event.count)

    # -- what attempts say

    def note(self, chunks: Iterable[LogChunk]) -> None:
        """Keeps the last line of each row."""
        for chunk in chunks:
            if chunk.task < len(self.tree.of):
                lines = chunk.data[-LONGEST_NOTE:].decode("utf-8", "replace").split("\n")
                line = next((text for text in reversed(lines) if text.strip()), "")
                if line:
                    self.tree.of[chunk.task].note = plain(line.rpartition("\r")[2] or line).strip()

    def progress(self, items: Iterable[Progress]) -> None:
        for item in items:
            if item.task < len(self.tree.of):
                self.tree.of[item.task].progress = item


def waits_for(event: Event) -> str:
    """What a parked task waits for, in a line."""
    wait = Wait.decode(event.data) if event.data else None
    if wait is None:
        return f"waits for {event.reason}"
    if wait.kind == EVENT:
        return plain(f"waits for the event {wait.event}" + (f" of {wait.key}" if wait.key else ""))
    if wait.kind == APPROVAL:
        return "waits for an approval: " + plain(wait.message.partition("\n")[0])
    return plain(f"waits for a run of {wait.workflow}") if wait.workflow else "waits for a run of its own"


def _trouble(event: Event) -> str:
    """Why a task did not succeed, in a line."""
    if not event.error:
        return event.reason.replace("_", " ")
    error = _error(event.error)
    return f"{error.type}: {plain(error.message.partition(chr(10))[0])}"
