"""The state of the memory engine: what is ready, who holds what, and what happened.

Every verb runs between `begin` and `flush`: the first sets the time and the budget of releases, the second announces the tasks
that became ready.
"""

from __future__ import annotations

import heapq
from collections import defaultdict, deque
from typing import Any

from skep.engine.memory.claims import Claims
from skep.engine.memory.live import (
    NOT_ENDED,
    Asked,
    Lease,
    LiveNodeState,
    LiveRun,
    ReadySet,
)
from skep.engine.protocol import RELEASE_LIMIT
from skep.model.event import Event
from skep.model.node import Stop
from skep.model.run import Claim, Token
from skep.model.state import TaskState

WAITING = int(TaskState.WAITING)
DELAYED = int(TaskState.DELAYED)
READY = int(TaskState.READY)
RUNNING = int(TaskState.RUNNING)
PARKED = int(TaskState.PARKED)
SUCCEEDED = int(TaskState.SUCCEEDED)
FAILED = int(TaskState.FAILED)
CANCELLED = int(TaskState.CANCELLED)
SKIPPED = int(TaskState.SKIPPED)

END_KINDS = {SUCCEEDED: "succeeded", FAILED: "failed", CANCELLED: "cancelled", SKIPPED: "skipped"}

Due = tuple[int, int, str, str, int, int]
"""(due_ms, sequence, kind, run id or key of a claim, task, version or lease number)."""


class State:
    """Everything one engine knows. Single-threaded; the clock comes in with each verb."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.now_ms = 0
        self.n = 0
        self.log: list[Event] = []
        self.trimmed = 0
        """How many of the first events are forgotten."""
        self.mark = 0
        self.budget = RELEASE_LIMIT
        self.max_lost = 3
        self.runs: dict[str, LiveRun] = {}
        self.nodes: dict[str, LiveNodeState] = {}
        self.leases: dict[int, Lease] = {}
        self.queues: dict[tuple[str, str], ReadySet] = {}
        self.running: defaultdict[str, int] = defaultdict(int)
        """Slots that attempts hold, by namespace."""
        self.claims = Claims(lambda key, due_ms: self.push(self.delays, due_ms, "rate", key))
        self.withheld_ms = 0
        """Until when no claim is given."""
        self.sweeping: dict[str, LiveRun] = {}
        """Runs with cursors, in the order in which they got them."""
        self.delays: list[Due] = []
        self.limits: list[Due] = []
        self.sequence = 0
        self.live_tasks = 0
        self.ended: deque[tuple[int, int, LiveRun]] = deque()
        self.leader: tuple[str, int] = ("", 0)
        self.fresh: dict[str, list[int]] = {}
        self.stirred: set[str] = set()
        """Topics to call back about, once the verb is over."""

    # -- a verb's frame

    def begin(self, now_ms: int) -> None:
        self.now_ms = self.claims.now_ms = max(now_ms, self.now_ms)
        self.budget = RELEASE_LIMIT

    def flush(self) -> None:
        if self.fresh:
            for run, tasks in self.fresh.items():
                self.emit("ready", run, tasks=tuple(tasks))
            self.fresh.clear()

    def emit(self, kind: str, run: str = "", task: int = -1, **fields: Any) -> int:
        self.n += 1
        self.log.append(Event(self.n, self.now_ms, kind, run, task, **fields))
        return self.n

    def push(self, heap: list[Due], due_ms: int, kind: str, name: str, task: int = -1, mark: int = 0) -> None:
        self.sequence += 1
        heapq.heappush(heap, (due_ms, self.sequence, kind, name, task, mark))
        self.stirred.add("due")

    # -- ready

    def make_ready(self, run: LiveRun, task: int, told: bool = False) -> None:
        """`told`: the event that ended its attempt has said so already."""
        run.states[task] = READY
        if run.parked:
            self.unpark(run, task)
        base = run.base(task)
        run.scores[task] = self.now_ms - run.shape.order_ms[base]
        if run.timed and run.shape.deadlines_ms[base] and run.accepted_ms + run.shape.deadlines_ms[base] <= self.now_ms:
            self.push(self.limits, self.now_ms, "deadline", run.id, task)  # it came back too late
        if not told:
            self.fresh.setdefault(run.id, []).append(task)
        self.enqueue(run, task)

    def enqueue(self, run: LiveRun, task: int) -> None:
        """Puts a ready task into its class' sorted set, under a new version and its old score."""
        run.version[task] += 1
        shape = run.shape
        key = (run.namespace, shape.class_names[shape.classes[run.base(task)]])
        queue = self.queues.get(key)
        if queue is None:
            queue = self.queues[key] = ReadySet()
        queue.add(run, task)
        self.stirred.add("ready")

    def leave_waiting(self, run: LiveRun, task: int) -> None:
        """Takes a task that ends, or is granted, off the lists in which it was put aside."""
        run.held.pop(task, None)
        place = run.waiter.pop(task, None)
        if place is not None:
            self.claims.leave(place[1], place[0])

    # -- parked

    def set_parked(self, run: LiveRun, task: int) -> None:
        """The task waits for a person, a child run or an event."""
        run.states[task] = PARKED
        run.park(task)
        self.rest(run)

    def unpark(self, run: LiveRun, task: int) -> None:
        run.parked.discard(task)
        self.rest(run)

    def rest(self, run: LiveRun) -> None:
        """A run that only its parked tasks can move is not counted as live."""
        resting = bool(run.parked) and not run.busy
        if resting != run.resting:
            run.resting = resting
            self.live_tasks += -len(run.states) if resting else len(run.states)

    # -- leases

    def make_lease(self, lease: Lease) -> Lease:
        self.leases[lease.n] = lease.node.leases[lease.n] = lease
        self.running[lease.run.namespace] += lease.slots
        return lease

    def end_lease(self, lease: Lease, how: int) -> None:
        """Gives back all that the lease held, in one step."""
        del self.leases[lease.n]
        node = lease.node
        node.leases.pop(lease.n, None)
        node.give_back(lease.takes)
        self.running[lease.run.namespace] -= lease.slots
        lease.run.ended_by[lease.task] = how
        self.stirred.add("ready")
        if lease.claims or lease.asks:
            self.free_claims(lease)

    def free_claims(self, lease: Lease) -> None:
        for claim in lease.claims:
            self.claims.free(claim.key, lease.n)
        for key in tuple(lease.asks or ()):
            self.drop_ask(lease, key)

    def drop_ask(self, lease: Lease, key: str) -> None:
        """Frees a lock taken inside a task, or gives up waiting for it."""
        asked = lease.asks.pop(key, None) if lease.asks else None
        if asked is not None:
            if asked.number:
                self.claims.leave(key, asked.number)
            else:
                self.claims.free(key, lease.n)

    def hold_ask(self, lease: Lease, claim: Claim, hold_ms: int) -> None:
        """The lock is the lease's, for so long at the most."""
        due_ms = self.now_ms + hold_ms
        self.claims.take((claim,), lease.n)
        lease.asks = lease.asks if lease.asks is not None else {}
        lease.asks[claim.key] = Asked(0, due_ms)
        self.push(self.limits, due_ms, "lock", claim.key, lease.task, lease.n)

    def stop(self, lease: Lease, reason: str) -> None:
        """Tells the node that holds the lease to end the attempt."""
        lease.node.give(Stop(Token(self.epoch, lease.n), reason))
        self.stirred.add(f"node:{lease.node.info.id}")

    def expire(self, mark: int) -> None:
        """Forgets runs that ended at or before the mark, some time ago."""
        while self.ended and self.ended[0][0] <= mark and self.ended[0][1] <= self.now_ms:
            end, _, run = self.ended.popleft()
            if run.ended_n == end and run.state.ended and self.runs.get(run.id) is run:
                del self.runs[run.id]

    # -- small answers

    def lease_of(self, run: LiveRun | None, task: int, token: Token) -> Lease | None:
        """The live lease that the token names, if it is that task's."""
        if run is None or token[0] != self.epoch:
            return None
        lease = self.leases.get(token[1])
        return lease if lease is not None and lease.run is run and lease.task == task else None

    def was(self, run: LiveRun, task: int, token: Token, how: int) -> bool:
        """Whether the task's last lease was this one and ended so: then this is a repeat."""
        return (
            0 <= task < len(run.states)
            and token[0] == self.epoch
            and run.tokens[task] == token[1]
            and how != NOT_ENDED
            and run.ended_by[task] == how
        )
