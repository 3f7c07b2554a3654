"""A run as the engine sees it (`Shape`) and as people see it (`RunView`, `TaskView`)."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, Final, NamedTuple

import msgspec

from skep.errors import RunFailedError

MAX_TASKS = 200_000
"""Tasks in one run, map children included; and live tasks in one engine."""

EXCLUSIVE: Final = 1_000_000
"""Units of a lock: an exclusive holder takes all, a shared one takes one."""


class Policy(IntEnum):
    """What a task's failure does to its run (`on_failure`)."""

    FAIL = 0
    """The run fails: nothing new is started, what runs is let end."""
    CANCEL = 1
    """The run fails: what runs is cancelled."""
    CONTINUE = 2
    """The task counts as met, its output is null."""
    HANDLE = 3
    """Another task of the run takes care; the run goes on."""


class Token(NamedTuple):
    """Names one lease for ever. Compared as two integers, so it grows through every loss of the engine."""

    epoch: int
    n: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.n}"

    @classmethod
    def parse(cls, text: str) -> Token:
        """The token in `SKEP_TOKEN`'s form. Raises ValueError."""
        epoch, _, n = text.partition("-")
        return cls(int(epoch), int(n))


class Shape(msgspec.Struct, frozen=True, eq=False):
    """The graph of a run as arrays over task indexes; shared by every run of a definition, never changed.

    Names live at the edge: engines see integers and opaque strings.
    """

    pending: Sequence[int]
    """How many tasks each one needs."""
    successors: Sequence[Sequence[int]]
    """Which tasks need it."""
    order_ms: Sequence[int]
    """priority * 10 min + rank; a ready task's score is its ready time minus this, lowest first."""
    classes: Sequence[int]
    """Index into `class_names`."""
    class_names: Sequence[str]
    """Requirement classes: tasks that the same nodes can run at the same price."""
    policies: Sequence[int]
    """`Policy` of each task."""
    windows: Sequence[int]
    """`max_parallel` of each task; 0 means no limit."""
    deadlines_ms: Sequence[int]
    """Latest end counted from acceptance; 0 means none."""
    roots: Sequence[int]
    """The tasks that need nothing."""

    @property
    def size(self) -> int:
        return len(self.pending)


class ReadyTask(NamedTuple):
    """A task that may start, as `place` must see it to decide."""

    run: str
    task: int
    version: int
    """Grows with every step into and out of ready; a decision holds for one version."""
    failing: bool
    """The run has failed: only what asked to run always, or has begun, may start."""
    unmet: int
    """How many of the tasks it needs ended without being met."""
    attempts: int
    failures: int
    parent: int = -1
    """For a map child: its parent, and its place in the list."""
    child: int = -1
    score: int = 0
    """When it became ready, less priority * 10 min and rank; the lowest goes first."""


class RestoredTask(NamedTuple):
    """A task as the record has it, for a run that is loaded again."""

    task: int
    state: int
    attempts: int
    failures: int = 0
    """How many of its attempts failed, since it was last reset."""
    lost: int = 0
    """How many were lost with their node."""
    met: bool = False
    """skipped: by its own `when`."""
    due_ms: int = 0
    """delayed: when it is due."""


class Claim(NamedTuple):
    """Units of something bounded that is shared by the fleet."""

    key: str
    units: int
    cap: int


class Rate(NamedTuple):
    """A claim that a grant spends in place of holding it: what was spent comes back by itself, one unit in a microsecond.

    So `units` is the time from one grant to the next at the full rate, and `cap` is that times the burst.
    """

    key: str
    units: int
    cap: int


def lock_key(namespace: str, name: str) -> str:
    """The claim behind a lock's name."""
    return f"lock:{namespace}:{name}"


def lock_name(key: str) -> str:
    """The name that `lock_key` made the key from."""
    return key.split(":", 2)[2]


def concurrency_key(namespace: str, name: str) -> str:
    """The claim behind a concurrency key."""
    return f"key:{namespace}:{name}"


def rate_key(namespace: str, unit: str, name: str) -> str:
    """The claim behind the key of a rate. Each unit (`second`, `minute`, `hour`) counts by itself."""
    return f"rate:{namespace}:{unit}:{name}"


def claim_words(key: str) -> str:
    """A claim as people know it: `lock 'x'`, `concurrency key 'x'`, `rate of 'x' per minute`."""
    kind, _, name = key.split(":", 2)
    if kind == "rate":
        unit, _, name = name.partition(":")
        return f"rate of '{name}' per {unit}"
    return f"{'lock' if kind == 'lock' else 'concurrency key'} '{name}'"


class AttemptView(msgspec.Struct, omit_defaults=True):
    """One try of a task, as shown."""

    attempt: int
    state: str
    node: str | None = None
    token: str | None = None
    started_ms: int | None = None
    finished_ms: int | None = None
    error: Any = None
    cost: float = 0.0
    """In the unit of its node's `cost_per_hour`; known when it is over."""


class TaskView(msgspec.Struct):
    """One task of a run, as shown."""

    name: str
    state: str
    index: int
    attempts: int = 0
    node: str | None = None
    reason: str | None = None
    started_ms: int | None = None
    finished_ms: int | None = None
    output: Any = None
    error: Any = None
    history: list[AttemptView] = []


class RunView(msgspec.Struct):
    """One run, as shown: the document of `skep run --json`."""

    id: str
    workflow: str
    state: str
    reason: str | None = None
    namespace: str = "default"
    priority: int = 5
    labels: dict[str, str] = {}
    inputs: Any = None
    output: Any = None
    accepted_ms: int = 0
    started_ms: int | None = None
    finished_ms: int | None = None
    cost: float = 0.0
    """Of its attempts that are over, in the unit of the nodes' `cost_per_hour`."""
    tasks: list[TaskView] = []


def failure_of(view: RunView) -> RunFailedError:
    """The error for a run that did not succeed: its failed tasks with their remote tracebacks."""
    failures = []
    for task in view.tasks:
        if task.state == "failed":
            error = task.error or {}
            trouble = f"{error['type']}: {error['message']}" if error else task.reason or "failed"
            if error.get("traceback"):
                trouble += "\n" + error["traceback"].rstrip()
            failures.append((task.name, trouble))
    return RunFailedError(view.id, view.state, view.reason, failures)
