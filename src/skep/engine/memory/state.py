"""The state of the memory engine and what follows from the end of a task: unblock, join, the end of the run.

Every verb runs between `begin` and `flush`: the first sets the time and the budget of releases, the second announces the tasks
that became ready.
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import Any

from skep.engine.memory.claims import Claims
from skep.engine.memory.live import (
    BY_RETURN,
    NOT_ENDED,
    Asked,
    Family,
    Lease,
    LiveNodeState,
    LiveRun,
    ReadySet,
)
from skep.engine.protocol import FORGET_MS, RELEASE_LIMIT
from skep.model.event import Event
from skep.model.node import Stop
from skep.model.run import Claim, Policy, Token
from skep.model.state import RunState, TaskState

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
"""(due_ms, sequence, kind, run or node id, task, version or lease number)."""


class State:
    """Everything one engine knows. Single-threaded; the clock comes in with each verb."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.now_ms = 0
        self.n = 0
        self.log: list[Event] = []
        self.trimmed = 0
        self.budget = RELEASE_LIMIT
        self.max_lost = 3
        self.runs: dict[str, LiveRun] = {}
        self.nodes: dict[str, LiveNodeState] = {}
        self.leases: dict[int, Lease] = {}
        self.queues: dict[tuple[str, str], ReadySet] = {}
        self.claims = Claims()
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
        self.now_ms = max(now_ms, self.now_ms)
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

    # -- leases

    def end_lease(self, lease: Lease, how: int) -> None:
        """Gives back all that the lease held, in one step."""
        del self.leases[lease.n]
        node = lease.node
        node.leases.pop(lease.n, None)
        node.give_back(lease.takes)
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

    def return_lease(self, lease: Lease, reason: str) -> None:
        """The node is gone: the task may be tried elsewhere, at once."""
        run, task = lease.run, lease.task
        keeps = bool(lease.claims or lease.asks) and reason == "lost" and lease.node.beats
        kept: list[str] = []
        if keeps:
            # The attempt may still be under way there: its node ends it 12 s after the last beat, so 15 s is safe.
            kept += [claim.key for claim in lease.claims]
            kept += [key for key, asked in (lease.asks or {}).items() if not asked.number]
            lease.claims = ()
            lease.asks = {key: asked for key, asked in (lease.asks or {}).items() if asked.number}
        self.end_lease(lease, BY_RETURN)
        if kept:
            for key in kept:
                self.push(self.limits, lease.node.beat_ms + 15_000, "claim", key, task, lease.n)
        lost = run.lost[task] = run.lost.get(task, 0) + (reason == "lost")
        if run.state is RunState.CANCELLING:
            self.emit(
                "cancelled", run.id, task, attempt=lease.attempt, token=lease.n, token_epoch=self.epoch, reason=run.reason
            )
            self.end_task(run, task, CANCELLED)
        elif lost >= self.max_lost:
            self.emit("failed", run.id, task, attempt=lease.attempt, token=lease.n, token_epoch=self.epoch, reason="node_lost")
            self.end_task(run, task, FAILED)
        else:
            self.emit(
                "returned",
                run.id,
                task,
                attempt=lease.attempt,
                token=lease.n,
                token_epoch=self.epoch,
                node=lease.node.info.id,
                reason=reason,
            )
            self.make_ready(run, task, told=True)

    # -- what follows from an end

    def end_task(self, run: LiveRun, task: int, state: int) -> None:
        """The task has ended: its event is written; now its consequences."""
        run.states[task] = state
        run.unfinished -= 1
        if run.held or run.waiter:
            self.leave_waiting(run, task)
        if state == FAILED:
            self._failed(run, run.policy(task))
        family = run.families.get(task)
        if family is not None and family.ended < family.count:
            self.drop_children(run, task)
        if task >= run.size:
            self._child_ended(run, run.children[task - run.size], task, state)
        elif run.shape.successors[task]:
            self._unblock(run, task, 0)
        if run.unfinished == 0 and not run.state.ended:
            self._end_run(run)

    def _failed(self, run: LiveRun, policy: int) -> None:
        if policy == Policy.FAIL:
            run.failing = True
        elif policy == Policy.CANCEL:
            run.failing = True
            self.begin_cancel(run, "task_failed")

    def _unblock(self, run: LiveRun, task: int, position: int) -> None:
        """Counts the end of `task` down in those who need it, from `position` on, as far as the budget goes."""
        successors = run.shape.successors[task]
        met = run.met(task)
        end = min(len(successors), position + max(self.budget, 0))
        for at in range(position, end):
            successor = successors[at]
            run.pending[successor] -= 1
            if not met:
                run.unmet[successor] = run.unmet.get(successor, 0) + 1
            if run.pending[successor] == 0 and run.states[successor] == WAITING:
                self.make_ready(run, successor)
        self.budget -= end - position
        if end < len(successors):
            self._leave_cursor(run, ("unblock", task, end))

    def _child_ended(self, run: LiveRun, family: Family, task: int, state: int) -> None:
        family.ended += 1
        family.out -= 1
        if state == FAILED and run.shape.policies[family.parent] != Policy.CONTINUE:
            family.failed = True
        elif state == CANCELLED:
            family.cancelled = True
        elif state == SKIPPED and task not in run.met_skips:
            family.skipped = True
        if run.families.get(family.parent) is not family or run.states[family.parent] != PARKED:
            return
        if family.ended == family.count:
            self.join(run, family)
        else:
            self.release_children(run, family)

    def release_children(self, run: LiveRun, family: Family) -> None:
        """Lets children out up to the family's window, as far as the budget goes."""
        task, end = family.first + family.released, family.first + family.count
        while task < end and family.out < family.window and self.budget > 0:
            if run.states[task] == WAITING:
                self.make_ready(run, task)
                family.out += 1
            task += 1
            self.budget -= 1
        family.released = task - family.first
        if task < end and family.out < family.window:
            self._leave_cursor(run, ("map", family.parent, 0))

    def join(self, run: LiveRun, family: Family) -> None:
        """The last child has ended: so does its parent."""
        if family.failed:
            state, reason = FAILED, "child_failed"
        elif family.cancelled:
            state, reason = CANCELLED, run.reason
        elif family.skipped:
            state, reason = SKIPPED, "run_failed"
        else:
            state, reason = SUCCEEDED, ""
        self.emit(END_KINDS[state], run.id, family.parent, reason=reason)
        self.end_task(run, family.parent, state)

    def drop_children(self, run: LiveRun, parent: int) -> None:
        """Children that a `retry` made wait again, and that nobody will let out any more."""
        family = run.families.pop(parent, None)
        if family is None:
            return
        left = [task for task in range(family.first, family.first + family.count) if run.states[task] < SUCCEEDED]
        if left:
            self.emit("skipped", run.id, tasks=tuple(left), reason="upstream")
            for task in left:
                self.end_task(run, task, SKIPPED)

    def begin_cancel(self, run: LiveRun, reason: str) -> None:
        """Sets the run cancelling and leaves the sweep to a cursor."""
        if run.state is not RunState.RUNNING:
            return
        run.state = RunState.CANCELLING
        run.reason = reason
        self.emit("cancelling", run.id, reason=reason)
        run.cursors.clear()  # nothing more is let out; what was not, is swept
        self._leave_cursor(run, ("cancel", -1, 0))

    def _sweep(self, run: LiveRun, position: int) -> None:
        self.flush()  # what became ready in this very call is told before it is told to be cancelled
        end = min(len(run.states), position + max(self.budget, 0))
        self.budget -= end - position
        swept = []
        stopped = []
        for task in range(position, end):
            state = run.states[task]
            if state == RUNNING:
                stopped.append(task)
            elif state < SUCCEEDED and not (state == PARKED and task in run.families):
                swept.append(task)
        if end < len(run.states):
            self._leave_cursor(run, ("cancel", -1, end))
        if swept:
            self.emit("cancelled", run.id, tasks=tuple(swept), reason=run.reason)
        for task in stopped:
            self.stop(self.leases[run.tokens[task]], "cancel")
        for task in swept:
            run.states[task] = CANCELLED
        for task in swept:
            self.end_task(run, task, CANCELLED)

    def _open(self, run: LiveRun, position: int) -> None:
        roots = run.shape.roots
        end = min(len(roots), position + max(self.budget, 0))
        for at in range(position, end):
            if run.states[roots[at]] == WAITING:
                self.make_ready(run, roots[at])
        self.budget -= end - position
        if end < len(roots):
            self._leave_cursor(run, ("open", -1, end))

    def _leave_cursor(self, run: LiveRun, cursor: tuple[str, int, int]) -> None:
        run.cursors.append(cursor)
        self.sweeping[run.id] = run
        self.stirred.add("due")

    def advance(self, run: LiveRun) -> None:
        """Works the run's cursors off as far as the budget goes."""
        self.sweeping.pop(run.id, None)
        for _ in range(len(run.cursors)):
            if self.budget <= 0 or not run.cursors:
                break
            kind, task, position = run.cursors.popleft()
            if kind == "unblock":
                self._unblock(run, task, position)
            elif kind == "map":
                self.release_children(run, run.families[task])
            elif kind == "cancel":
                self._sweep(run, position)
            else:
                self._open(run, position)
        if run.cursors:
            self.sweeping[run.id] = run

    def _end_run(self, run: LiveRun) -> None:
        if run.state is RunState.CANCELLING:
            cancelled = run.reason not in ("timeout", "task_failed")
            run.state = RunState.CANCELLED if cancelled else RunState.FAILED
        elif run.failing:
            run.state, run.reason = RunState.FAILED, "task_failed"
        else:
            run.state = RunState.SUCCEEDED
        run.cursors.clear()
        self.sweeping.pop(run.id, None)
        self.live_tasks -= len(run.states)
        run.ended_n = self.emit("ended", run.id, state=int(run.state), reason=run.reason)
        self.ended.append((run.ended_n, self.now_ms + FORGET_MS, run))

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
