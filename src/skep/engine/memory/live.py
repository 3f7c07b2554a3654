"""What the memory engine keeps: runs as arrays over task indexes, nodes, leases, and the sorted sets of ready tasks."""

from __future__ import annotations

import heapq
from bisect import insort
from collections import deque
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from skep.engine.protocol import InboxEntry, Load
from skep.model.node import Adopted, Grant, LiveNode, LockGrant, NodeInfo, Stop
from skep.model.run import Claim, Policy, ReadyTask, Shape, Token
from skep.model.state import RunState, TaskState

WAITING = int(TaskState.WAITING)
DELAYED = int(TaskState.DELAYED)
READY = int(TaskState.READY)
RUNNING = int(TaskState.RUNNING)
PARKED = int(TaskState.PARKED)
SUCCEEDED = int(TaskState.SUCCEEDED)
FAILED = int(TaskState.FAILED)
SKIPPED = int(TaskState.SKIPPED)

NOBODY: set[int] = set()
NO_LEASES: dict[Token, int] = {}
NO_DUES: list[tuple[int, int]] = []
"""Nothing is ever put in here: they stand for what hardly any run needs, and there may be very many small runs."""

NOT_ENDED, BY_COMPLETE, BY_FAIL, BY_SNOOZE, BY_PARK, BY_RETURN = range(6)
"""How the last lease of a task ended: what tells a repeat from a latecomer."""


class Family:
    """A map parent and its children: `count` indexes in a row from `first`."""

    __slots__ = ("cancelled", "count", "ended", "failed", "first", "out", "parent", "released", "skipped", "window")

    def __init__(self, parent: int, first: int, count: int, window: int) -> None:
        self.parent = parent
        self.first = first
        self.count = count
        self.window = window or count
        self.released = 0
        """Children looked at so far, in order: let out, or ended already before a retry."""
        self.out = 0
        """Children let out and not ended."""
        self.ended = 0
        self.failed = False
        self.cancelled = False
        self.skipped = False

    @property
    def tasks(self) -> range:
        return range(self.first, self.first + self.count)


class LiveRun:
    """One run. Lists are indexed by task; dictionaries hold what few tasks have."""

    __slots__ = (
        "accepted_ms",
        "adopted",
        "attempts",
        "children",
        "command",
        "cursors",
        "due",
        "ended_by",
        "ended_n",
        "failing",
        "failures",
        "families",
        "held",
        "id",
        "loaded",
        "lost",
        "met_skips",
        "namespace",
        "opened",
        "orphans",
        "parked",
        "paused",
        "pending",
        "reason",
        "resolved",
        "resting",
        "restored",
        "retried",
        "roots",
        "scores",
        "shape",
        "size",
        "state",
        "states",
        "timed",
        "timeout_ms",
        "tokens",
        "unfinished",
        "unmet",
        "version",
        "waiter",
    )  # fmt: skip

    def __init__(self, load: Load) -> None:
        shape: Shape = load.shape
        self.id = load.run
        self.namespace = load.namespace
        self.shape = shape
        self.size = size = shape.size
        self.accepted_ms = load.accepted_ms
        self.timeout_ms = load.timeout_ms
        self.command = load.command
        self.paused = load.paused
        self.state = RunState.CANCELLING if load.cancelling else RunState.RUNNING
        self.reason = load.cancelling
        self.failing = False
        self.loaded = 0
        self.opened = False
        self.restored = False
        """Whether it came with what the record knows."""
        self.retried = load.ended
        """Whether it was loaded, ended, to be retried."""
        self.roots: Sequence[int] = shape.roots
        """What `open` lets out."""
        self.unfinished = size
        self.states = bytearray(size)
        self.pending = list(shape.pending)
        self.version = [0] * size
        self.attempts = [0] * size
        self.tokens = [0] * size
        self.scores = [0] * size
        self.ended_by = bytearray(size)
        self.unmet: dict[int, int] = {}
        self.failures: dict[int, int] = {}
        self.lost: dict[int, int] = {}
        self.met_skips: set[int] = set()
        self.resolved: dict[int, set[str]] = {}
        """Who has resolved a parked task, by the names they gave."""
        self.parked = NOBODY
        """Tasks that wait for a person, a child run or an event; not maps."""
        self.resting = False
        """Whether only its parked tasks can move it: then it is not counted as live."""
        self.orphans = NOBODY
        """Tasks whose last attempt ran under an earlier engine and was neither adopted nor given up."""
        self.due = NO_DUES
        """When restored tasks are due, (due_ms, task), until the run is opened."""
        self.adopted = NO_LEASES
        """The old token of an adopted lease to the number of the new one."""
        self.timed = any(shape.deadlines_ms)
        self.ended_n = 0
        """Number of the event of its last end."""
        self.waiter: dict[int, tuple[int, str]] = {}
        """Task to its waiter number and the claim in whose list it stands."""
        self.held: dict[int, None] = {}
        """Ready tasks put aside by a pause, in order."""
        self.families: dict[int, Family] = {}
        self.children: list[Family] = []
        self.cursors: deque[tuple[str, int, int]] = deque()
        """What a bounded call left over: (kind, task, position)."""

    def base(self, task: int) -> int:
        """The index whose entry in the shape applies: a map child's is its parent's."""
        return task if task < self.size else self.children[task - self.size].parent

    def policy(self, task: int) -> int:
        return self.shape.policies[self.base(task)]

    def met(self, task: int) -> bool:
        """Whether the ended task lets those who need it go on."""
        state = self.states[task]
        if state == SUCCEEDED:
            return True
        if state == SKIPPED:
            return task in self.met_skips
        return state == FAILED and self.policy(task) == Policy.CONTINUE

    def may_start(self, task: int) -> bool:
        """Whether nothing but a cursor that has not come so far holds a waiting task back."""
        if self.states[task] != WAITING:
            return False
        if task < self.size:
            return self.pending[task] == 0
        family = self.children[task - self.size]
        alive = self.families.get(family.parent) is family and self.states[family.parent] == PARKED
        return alive and task - family.first < family.released

    def park(self, task: int) -> None:
        self.parked = self.parked if self.parked is not NOBODY else set()
        self.parked.add(task)

    def orphan(self, task: int) -> None:
        self.orphans = self.orphans if self.orphans is not NOBODY else set()
        self.orphans.add(task)

    def delay(self, task: int, due_ms: int) -> None:
        self.due = self.due if self.due is not NO_DUES else []
        self.due.append((due_ms, task))

    def adopt(self, old: Token, n: int) -> None:
        self.adopted = self.adopted if self.adopted is not NO_LEASES else {}
        self.adopted[old] = n

    def ready_ms(self, task: int) -> int:
        """Since when the task is ready."""
        return self.scores[task] + self.shape.order_ms[self.base(task)]

    def left_attempt(self, task: int) -> bool:
        """Whether an attempt ends with the task, though it holds no lease: it is parked, or ran under an earlier engine."""
        return task in self.parked or task in self.orphans

    @property
    def busy(self) -> bool:
        """Whether it can move without anyone from outside."""
        states = self.states
        return READY in states or RUNNING in states or DELAYED in states or bool(self.cursors)

    def grow(self, family: Family) -> None:
        """Adds the family's children, all waiting."""
        count = family.count
        self.families[family.parent] = family
        self.children.extend([family] * count)
        self.states.extend(bytes(count))
        self.ended_by.extend(bytes(count))
        for numbers in (self.pending, self.version, self.attempts, self.tokens, self.scores):
            numbers.extend([0] * count)
        self.unfinished += count

    def as_ready(self, task: int) -> ReadyTask:
        unmet, failures = self.unmet.get(self.base(task), 0), self.failures.get(task, 0)
        seen = (self.id, task, self.version[task], self.failing, unmet, self.attempts[task], failures)
        if task < self.size:
            return ReadyTask(*seen, -1, -1, self.scores[task])
        family = self.children[task - self.size]
        return ReadyTask(*seen, family.parent, task - family.first, self.scores[task])


@lru_cache(maxsize=1_024)
def slots_of(takes: tuple[tuple[str, int], ...]) -> int:
    """Slots among what an attempt takes of its node."""
    return sum(units for resource, units in takes if resource == "slots")


class Asked(NamedTuple):
    """A lock that the code of a task asked for."""

    number: int
    """Its place in the line; 0 once it is held."""
    due_ms: int = 0
    """When it is freed at the latest."""


class Lease:
    """The right of one node to make one attempt."""

    __slots__ = ("asks", "attempt", "claims", "ended", "n", "node", "run", "slots", "takes", "task")

    def __init__(
        self,
        n: int,
        run: LiveRun,
        task: int,
        attempt: int,
        node: LiveNodeState,
        takes: tuple[tuple[str, int], ...],
        claims: tuple[Claim, ...],
    ) -> None:
        self.n = n
        self.run = run
        self.task = task
        self.attempt = attempt
        self.node = node
        self.takes = takes
        self.slots = slots_of(takes)
        self.claims = claims
        self.asks: dict[str, Asked] | None = None
        """Locks taken, or waited for, inside the task."""
        self.ended = False
        """Adopted after its end, only to have its outcome told."""


class LiveNodeState:
    """A node, what of it is free, and its inbox."""

    __slots__ = (
        "beat_ms",
        "beats",
        "coming",
        "dismissed",
        "draining",
        "free",
        "inbox",
        "info",
        "leases",
        "number",
        "server",
        "shown",
    )

    def __init__(self, info: NodeInfo, beats: bool, now_ms: int, coming: bool = False) -> None:
        self.info = info
        self.beats = beats
        self.coming = coming
        self.server = ""
        self.beat_ms = now_ms
        self.draining = False
        self.free = {"slots": info.slots, "cpu": info.cpu_milli, "memory": info.memory, "vram": info.vram}
        self.leases: dict[int, Lease] = {}
        self.inbox: deque[InboxEntry] = deque()
        self.number = 0
        self.dismissed: set[Token] = set()
        self.shown: LiveNode | None = None
        """As it was last shown; None once anything of it has changed."""

    def as_live(self) -> LiveNode:
        """As others see it, now."""
        return LiveNode(self.info, dict(self.free), len(self.leases), self.draining, self.beat_ms, self.coming, self.server)

    def take(self, takes: tuple[tuple[str, int], ...]) -> bool:
        """Takes all of what an attempt needs, or nothing and says False."""
        free = self.free
        self.shown = None
        for at, (resource, units) in enumerate(takes):
            left = free.get(resource, -1) - units
            if left < 0:
                self.give_back(takes[:at])
                return False
            free[resource] = left
        return True

    def take_anyway(self, takes: tuple[tuple[str, int], ...]) -> None:
        """What is in use is in use, though it be more than there is."""
        self.shown = None
        for resource, units in takes:
            self.free[resource] = self.free.get(resource, 0) - units

    def give_back(self, takes: tuple[tuple[str, int], ...]) -> None:
        self.shown = None
        for resource, units in takes:
            self.free[resource] += units

    def give(self, entry: Grant | Stop | LockGrant | Adopted) -> None:
        self.number += 1
        self.inbox.append(InboxEntry(self.number, entry))


Entry = tuple[int, str, int, int, LiveRun]
"""(score, run id, task, version, run): sorts like a Redis sorted set, by score and then by name."""


class ReadySet:
    """Ready tasks of one class, best first. An entry whose task has moved on is dropped when it is met."""

    __slots__ = ("front", "heap")

    def __init__(self) -> None:
        self.front: list[Entry] = []
        """The smallest entries, sorted; all of them before all of the heap."""
        self.heap: list[Entry] = []

    def add(self, run: LiveRun, task: int) -> None:
        entry = (run.scores[task], run.id, task, run.version[task], run)
        if self.front and entry < self.front[-1]:
            insort(self.front, entry)
        else:
            heapq.heappush(self.heap, entry)

    def first(self, limit: int) -> list[ReadyTask]:
        """Up to `limit` tasks, best first; they stay."""
        heap = self.heap
        front = [e for e in self.front if e[4].version[e[2]] == e[3] and e[4].states[e[2]] == READY]
        while len(front) < limit and heap:
            entry = heapq.heappop(heap)
            run, task = entry[4], entry[2]
            if run.version[task] == entry[3] and run.states[task] == READY:
                front.append(entry)
        self.front = front
        return [e[4].as_ready(e[2]) for e in front[:limit]]

    def __bool__(self) -> bool:
        return bool(self.front or self.heap)
