"""The verbs about tasks: ready, place, take, complete, fail, snooze, park, resolve."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Final

from skep.engine.memory.ends import Ends
from skep.engine.memory.live import BY_COMPLETE, BY_FAIL, BY_PARK, BY_SNOOZE, Family, Lease, LiveRun
from skep.engine.memory.state import (
    CANCELLED,
    DELAYED,
    END_KINDS,
    FAILED,
    PARKED,
    READY,
    RUNNING,
    SKIPPED,
    SUCCEEDED,
)
from skep.engine.protocol import (
    CANCELLING,
    CHANGED,
    FULL,
    HOLDERS,
    NO_FIT,
    NOT_FOUND,
    OK,
    PAUSED,
    SUPERSEDED,
    WAITING,
    WRONG_STATE,
    Answer,
    Decision,
    Done,
    Expand,
    Failure,
    Holder,
    Line,
    LiveTask,
    Park,
    Parked,
    ReadyClass,
    Resolve,
    Settle,
    Snooze,
    Start,
)
from skep.errors import NotFoundError
from skep.model.node import Grant
from skep.model.run import MAX_TASKS, Claim, Rate, Token
from skep.model.state import RunState

NOTHING: Final[tuple[tuple[Claim, ...], tuple[Rate, ...]]] = (), ()


class TaskVerbs(Ends):
    """Place to resolve."""

    def ready(self, limit: int) -> list[ReadyClass]:
        """Up to `limit` tasks of each class, best first. Changes nothing that anyone can see."""
        found = []
        for (namespace, name), queue in list(self.queues.items()):
            tasks = queue.first(limit)
            if tasks:
                found.append(ReadyClass(namespace, name, tasks, self.running.get(namespace, 0)))
            elif not queue:
                del self.queues[namespace, name]
        return found

    def tasks(self, run: str, tasks: Sequence[int]) -> list[LiveTask]:
        live = self.runs.get(run)
        if live is None:
            raise NotFoundError(f"run {run} is not live")
        found = []
        for task in tasks:
            lease = self.leases.get(live.tokens[task]) if live.states[task] == RUNNING else None
            node = lease.node.info.id if lease else ""
            met = live.met(task)
            family = live.families.get(task)
            first, count = (family.first, family.count) if family else (-1, 0)
            failures = live.failures.get(task, 0)
            found.append(LiveTask(task, live.states[task], live.attempts[task], node, met, first, count, failures))
        return found

    def lines(self, run: str, tasks: Sequence[int]) -> list[Line]:
        live = self.runs.get(run)
        if live is None:
            raise NotFoundError(f"run {run} is not live")
        found: list[Line] = []
        for task in tasks:
            state = live.states[task]
            if state == READY and task in live.waiter:
                number, key = live.waiter[task]
                found += self._line(task, key, number, False)
            elif state == RUNNING:
                asks = self.leases[live.tokens[task]].asks or {}
                found += [
                    line for key, asked in asks.items() if asked.number for line in self._line(task, key, asked.number, True)
                ]
        return found

    def _line(self, task: int, key: str, number: int, inside: bool) -> list[Line]:
        stands = self.claims.stands(key, number)
        if stands is None:
            return []
        waiter, counter, ahead = stands
        oldest = heapq.nsmallest(HOLDERS, (n for n, units in counter.holders.items() if units))
        holders = [self._holder(n, counter.holders[n]) for n in oldest]
        due_ms = self.claims.turn_ms(counter, waiter, ahead)
        line = (task, key, waiter.units, waiter.cap, self.claims.used(counter), ahead, len(counter.waiters), due_ms)
        return [Line(*line, inside, self.claims.withheld and not due_ms, holders)]

    def _holder(self, n: int, units: int) -> Holder:
        lease = self.leases.get(n)
        return Holder(units, lease.run.id, lease.task, lease.node.info.id) if lease is not None else Holder(units, "", -1, "")

    # -- place

    def place(self, now_ms: int, items: Sequence[Decision]) -> list[Answer]:
        """Applies decisions to tasks that are still ready at the version decided on."""
        self.begin(now_ms)
        answers = [self._place(item) for item in items]
        self.flush()
        return answers

    def _place(self, item: Decision) -> Answer:
        run = self.runs.get(item.run)
        task = item.task
        if run is None or not 0 <= task < len(run.states):
            return NOT_FOUND
        version = run.version[task]
        if version != item.version or run.states[task] != READY:
            if version != item.version + 1:
                return WRONG_STATE
            if run.states[task] != READY:
                return OK
            return PAUSED if task in run.held else WAITING
        if run.state is RunState.CANCELLING:
            return CANCELLING
        if type(item) is Settle:
            return self._settle(run, item)
        if item.failing != run.failing:  # type: ignore[union-attr]
            return CHANGED
        if type(item) is Start:
            return self._start(run, item)
        if type(item) is Expand:
            return self._expand(run, item)
        assert type(item) is Park
        return self._park_ready(run, item)

    def _park_ready(self, run: LiveRun, item: Park) -> Answer:
        task = item.task
        if task in run.orphans:
            self.lapse(run, task)
        self.leave_waiting(run, task)
        self.drop_children(run, task)
        run.version[task] += 1
        run.attempts[task] += 1
        self.emit("parked", run.id, task, attempt=run.attempts[task], reason=item.reason, data=item.data)
        self.set_parked(run, task)
        return OK

    def _start(self, run: LiveRun, item: Start) -> Answer:
        task = item.task
        if run.paused:
            self.leave_waiting(run, task)  # who is paused holds nobody back
            run.held[task] = None
            run.version[task] += 1
            return PAUSED
        node = self.nodes.get(item.node)
        if node is None or node.draining or node.coming:
            return NO_FIT
        if not node.take(item.takes):
            return NO_FIT
        wanted = item.claims
        claims, rates = self.claims.merged(wanted) if wanted else NOTHING
        if wanted and not self._claim_all(run, task, (*claims, *rates)):
            node.give_back(item.takes)
            return WAITING
        if task in run.orphans and not self._may_lapse(run, task):
            node.give_back(item.takes)
            return OK
        if task in run.families:
            self.drop_children(run, task)
        attempt = run.attempts[task] + 1
        n = self.emit("granted", run.id, task, attempt=attempt, token=self.n + 1, token_epoch=self.epoch, node=item.node)
        run.attempts[task] = attempt
        run.tokens[task] = n
        run.version[task] += 1
        run.states[task] = RUNNING
        run.ended_by[task] = 0
        lease = self.make_lease(Lease(n, run, task, attempt, node, item.takes, claims))
        if wanted:
            self.claims.take(claims, lease.n)
            self.claims.spend(rates)
            self.leave_waiting(run, task)
        failures = run.failures.get(task, 0)
        parent = child = -1
        if task >= run.size:
            family = run.children[task - run.size]
            parent, child = family.parent, task - family.first
        node.give(
            Grant(
                run.id,
                task,
                item.name,
                attempt,
                Token(self.epoch, n),
                item.call,
                item.timeout_ms,
                failures,
                parent,
                item.deadline_ms,
                item.takes,
                claims,
                item.base,
                child,
            )
        )
        self.stirred.add(f"node:{item.node}")
        return OK

    def _may_lapse(self, run: LiveRun, task: int) -> bool:
        """Gives the attempt of an earlier engine up for lost. False: it was one too many, and the task has failed."""
        if run.lost.get(task, 0) + 1 < self.max_lost:
            self.lapse(run, task)
            return True
        run.version[task] += 1
        self.emit("failed", run.id, task, attempt=run.attempts[task], reason="node_lost")
        self.end_task(run, task, FAILED)
        return False

    def _claim_all(self, run: LiveRun, task: int, claims: tuple[Claim | Rate, ...]) -> bool:
        """Whether all claims fit; if not, the task goes to the list of the first that does not."""
        number, key = run.waiter.get(task, (0, ""))
        blocked = self.claims.blocked(claims, number)
        if blocked is None:
            return True
        number = number or self.claims.next_number()
        run.waiter[task] = (number, blocked.key)
        run.version[task] += 1
        self.claims.wait(blocked, number, lambda: self.enqueue(run, task))
        if key and key != blocked.key:
            self.claims.leave(key, number)
        return False

    def _settle(self, run: LiveRun, item: Settle) -> Answer:
        task, state = item.task, item.state
        if state not in (SUCCEEDED, FAILED, SKIPPED):
            return WRONG_STATE
        if task in run.orphans:
            self.lapse(run, task)
        run.version[task] += 1
        if state == SKIPPED and item.reason == "when":
            run.met_skips.add(task)
        self.emit(END_KINDS[state], run.id, task, reason=item.reason, error=item.error, output=item.output)
        run.states[task] = state
        self.drop_children(run, task)
        self.end_task(run, task, state)
        return OK

    def _expand(self, run: LiveRun, item: Expand) -> Answer:
        task, count = item.task, item.count
        if task >= run.size or count < 0:
            return WRONG_STATE
        family = run.families.get(task)
        if family is None or family.count != count:
            if len(run.states) + count > MAX_TASKS or self.live_tasks + count > MAX_TASKS:
                return FULL
            self.drop_children(run, task)
            family = Family(task, len(run.states), count, run.shape.windows[task])
            self.live_tasks += count
            run.grow(family)
            if run.shape.deadlines_ms[task]:
                for child in range(family.first, family.first + count):
                    self.push(self.limits, run.accepted_ms + run.shape.deadlines_ms[task], "deadline", run.id, child)
        if task in run.orphans:
            self.lapse(run, task)
        self.leave_waiting(run, task)
        run.version[task] += 1
        run.states[task] = PARKED
        self.emit("parked", run.id, task, reason="map", first=family.first, count=count)
        if family.ended == family.count:
            self.join(run, family)
        else:
            self.release_children(run, family)
        return OK

    # -- the end of a lease

    def complete(self, now_ms: int, items: Sequence[Done]) -> list[Answer]:
        """The attempts succeeded."""
        self.begin(now_ms)
        answers = [self._complete(item) for item in items]
        self.flush()
        return answers

    def _complete(self, item: Done) -> Answer:
        run = self.runs.get(item.run)
        lease = self.lease_of(run, item.task, item.token)
        if run is None or lease is None:
            return self._late(run, item.task, item.token, BY_COMPLETE)
        self.end_lease(lease, BY_COMPLETE)
        self._emit_end("succeeded", lease, item.ran_ms, output=item.output)
        self.end_task(run, item.task, SUCCEEDED)
        return OK

    def _late(self, run: LiveRun | None, task: int, token: Token, how: int) -> Answer:
        if run is None:
            return NOT_FOUND
        return OK if self.was(run, task, token, how) else SUPERSEDED

    def _emit_end(
        self,
        kind: str,
        lease: Lease,
        ran_ms: int,
        *,
        reason: str = "",
        error: bytes = b"",
        output: bytes = b"",
        due_ms: int = 0,
    ) -> None:
        self.emit(
            kind,
            lease.run.id,
            lease.task,
            attempt=lease.attempt,
            token=lease.n,
            token_epoch=self.epoch,
            reason=reason,
            error=error,
            output=output,
            due_ms=due_ms,
            started_ms=self.now_ms - ran_ms,
            ran_ms=ran_ms,
        )

    def fail(self, now_ms: int, items: Sequence[Failure]) -> list[Answer]:
        """The attempts failed, or were cancelled; those with a retry go on."""
        self.begin(now_ms)
        answers = [self._fail(item) for item in items]
        self.flush()
        return answers

    def _fail(self, item: Failure) -> Answer:
        run, task = self.runs.get(item.run), item.task
        lease = self.lease_of(run, task, item.token)
        if run is None or lease is None:
            return self._late(run, task, item.token, BY_FAIL)
        self.end_lease(lease, BY_FAIL)
        if item.cancelled:
            self._emit_end("cancelled", lease, item.ran_ms, reason=item.reason, error=item.error)
            self.end_task(run, task, CANCELLED)
            return OK
        if item.lost:
            said = {"error": item.error, "started_ms": self.now_ms - item.ran_ms, "ran_ms": item.ran_ms}
            self.lose(lease, "lost", said | {"node": lease.node.info.id})
            return OK
        run.failures[task] = run.failures.get(task, 0) + 1
        if item.retry_in_ms < 0 or run.state is RunState.CANCELLING:
            self._emit_end("failed", lease, item.ran_ms, reason=item.reason, error=item.error)
            self.end_task(run, task, FAILED)
        else:
            due_ms = self.now_ms + item.retry_in_ms if item.retry_in_ms else 0
            self._emit_end("retrying", lease, item.ran_ms, reason=item.reason, error=item.error, due_ms=due_ms)
            self._come_back(run, task, due_ms)
        return OK

    def _come_back(self, run: LiveRun, task: int, due_ms: int) -> None:
        if due_ms:
            run.states[task] = DELAYED
            if run.parked:
                self.unpark(run, task)
            self.push(self.delays, due_ms, "delay", run.id, task, run.version[task])
        else:
            self.make_ready(run, task, told=True)

    def snooze(self, now_ms: int, items: Sequence[Snooze]) -> list[Answer]:
        """The attempts come again later."""
        self.begin(now_ms)
        answers = [self._snooze(item) for item in items]
        self.flush()
        return answers

    def _snooze(self, item: Snooze) -> Answer:
        run, task = self.runs.get(item.run), item.task
        lease = self.lease_of(run, task, item.token)
        if run is None or lease is None:
            return self._late(run, task, item.token, BY_SNOOZE)
        self.end_lease(lease, BY_SNOOZE)
        if run.state is RunState.CANCELLING:
            self._emit_end("cancelled", lease, item.ran_ms, reason=run.reason)
            self.end_task(run, task, CANCELLED)
            return OK
        due_ms = self.now_ms + max(item.in_ms, 1)
        self._emit_end("snoozed", lease, item.ran_ms, due_ms=due_ms)
        self._come_back(run, task, due_ms)
        return OK

    def park(self, now_ms: int, items: Sequence[Parked]) -> list[Answer]:
        """The attempts wait to be resolved, without a lease."""
        self.begin(now_ms)
        answers = [self._park(item) for item in items]
        self.flush()
        return answers

    def _park(self, item: Parked) -> Answer:
        run, task = self.runs.get(item.run), item.task
        lease = self.lease_of(run, task, item.token)
        if run is None or lease is None:
            return self._late(run, task, item.token, BY_PARK)
        self.end_lease(lease, BY_PARK)
        if run.state is RunState.CANCELLING:
            self._emit_end("cancelled", lease, item.ran_ms, reason=run.reason)
            self.end_task(run, task, CANCELLED)
            return OK
        self._emit_end("parked", lease, item.ran_ms, reason=item.reason)
        self.set_parked(run, task)
        return OK

    def resolve(self, now_ms: int, items: Sequence[Resolve]) -> list[Answer]:
        """Ends the wait of parked tasks; the first one wins."""
        self.begin(now_ms)
        answers = [self._resolve(item) for item in items]
        self.flush()
        return answers

    def _resolve(self, item: Resolve) -> Answer:
        run, task = self.runs.get(item.run), item.task
        if run is None or not run.opened or not 0 <= task < len(run.states):
            return NOT_FOUND
        if item.by in run.resolved.get(task, ()):
            return OK
        attempt = run.attempts[task]
        if task not in run.parked or item.attempt not in (0, attempt):
            return WRONG_STATE
        if item.state not in (READY, SUCCEEDED, FAILED, CANCELLED):
            return WRONG_STATE
        run.resolved.setdefault(task, set()).add(item.by)
        if item.state == READY:
            self.make_ready(run, task)
            return OK
        if item.state == FAILED:
            run.failures[task] = run.failures.get(task, 0) + 1
            if item.retry_in_ms >= 0 and run.state is not RunState.CANCELLING:
                due_ms = self.now_ms + item.retry_in_ms if item.retry_in_ms else 0
                told = {"reason": item.reason, "error": item.error, "due_ms": due_ms}
                self.emit("retrying", run.id, task, attempt=attempt, **told)
                self._come_back(run, task, due_ms)
                return OK
        told = {"reason": item.reason, "error": item.error, "output": item.output}
        self.emit(END_KINDS[item.state], run.id, task, attempt=attempt, **told)
        self.end_task(run, task, item.state)
        return OK
