"""Runs that the record knows: taken up where they stood. And leases of an earlier engine, which go on.

What the record has of a run ends between any two of its events. What followed from the last one in its step may be missing:
it follows now.
"""

from __future__ import annotations

from collections.abc import Sequence

from skep.engine.memory.ends import Ends
from skep.engine.memory.live import NO_DUES, Family, Lease, LiveRun
from skep.engine.memory.state import CANCELLED, DELAYED, FAILED, PARKED, READY, RUNNING, SKIPPED, SUCCEEDED
from skep.engine.protocol import NOT_FOUND, OK, SUPERSEDED, Adopt, Adoption, Answer
from skep.model.node import Adopted, Stop
from skep.model.run import EXCLUSIVE, Claim, Policy, RestoredTask, Token
from skep.model.state import RunState

NO_TOKEN = Token(0, 0)


class Restores(Ends):
    """A state to which the past can be given back."""

    # -- while it is loaded

    def take_families(self, run: LiveRun, families: Sequence[tuple[int, int, int]]) -> None:
        """Gives the children of maps their places. Between them may be children that nobody has any more: they have ended."""
        for parent, first, count in families:
            gap = first - len(run.states)
            if gap > 0:
                run.grow(Family(-1, len(run.states), gap, 0))
                del run.families[-1]
                run.states[first - gap : first] = bytes([SKIPPED]) * gap
                run.unfinished -= gap
            run.grow(Family(parent, first, count, run.shape.windows[parent]))

    def take_back(self, run: LiveRun, tasks: Sequence[RestoredTask]) -> None:
        """Sets tasks as they are recorded; what was ready, due or running waits until `open` lets it out."""
        states = run.states
        for task, state, attempts, failures, lost, met, due_ms in tasks:
            if task >= len(states):
                continue
            run.attempts[task] = attempts
            if failures:
                run.failures[task] = failures
            if lost:
                run.lost[task] = lost
            if met:
                run.met_skips.add(task)
            if state >= SUCCEEDED:
                run.unfinished -= states[task] < SUCCEEDED
                states[task] = state
            elif state and states[task] < SUCCEEDED:
                self._take_back(run, task, state, due_ms)

    def _take_back(self, run: LiveRun, task: int, state: int, due_ms: int) -> None:
        if state == PARKED:
            run.states[task] = PARKED
            if task not in run.families:
                run.park(task)
        elif state == DELAYED and due_ms > self.now_ms:
            run.states[task] = DELAYED
            run.delay(task, due_ms)
        elif state == RUNNING:
            run.orphan(task)
        if task >= run.size:  # it was let out, and so were those before it
            family = run.children[task - run.size]
            family.released = max(family.released, task - family.first + 1)

    # -- when it is opened

    def restore(self, run: LiveRun) -> None:
        """Counts anew what follows from the states."""
        for task in range(run.size):
            if run.states[task] >= SUCCEEDED:
                met = run.met(task)
                for successor in run.shape.successors[task]:
                    run.pending[successor] -= 1
                    if not met:
                        run.unmet[successor] = run.unmet.get(successor, 0) + 1
        for family in list(run.families.values()):
            self._count_children(run, family)
        run.failing = any(policy <= Policy.CANCEL for policy in self._failed_policies(run))
        run.roots = [task for task, state in enumerate(run.states) if not state and run.may_start(task)]

    def _count_children(self, run: LiveRun, family: Family) -> None:
        states, parent = run.states[family.first : family.first + family.count], family.parent
        family.ended = sum(state >= SUCCEEDED for state in states)
        if run.states[parent] == PARKED:
            family.out = sum(state < SUCCEEDED for state in states[: family.released])
            family.failed = FAILED in states and run.shape.policies[parent] != Policy.CONTINUE
            family.cancelled = CANCELLED in states
            family.skipped = any(run.states[task] == SKIPPED and task not in run.met_skips for task in family.tasks)
            return
        family.released = 0
        if run.states[parent] < SUCCEEDED and family.ended == family.count:
            del run.families[parent]  # a retry made it wait, and its children are to be made anew

    def _failed_policies(self, run: LiveRun) -> set[int]:
        """Policies of tasks that have failed; of map children only while their parent goes on, since then its own counts."""
        if FAILED not in run.states:
            return set()
        alive = {family for family in run.families.values() if run.states[family.parent] == PARKED}
        return {
            run.policy(task)
            for task, state in enumerate(run.states)
            if state == FAILED and (task < run.size or run.children[task - run.size] in alive)
        }

    def resume_restored(self, run: LiveRun) -> None:
        """Does what followed from the last recorded event, then lets out what can start."""
        for due_ms, task in run.due:
            self.push(self.delays, due_ms, "delay", run.id, task, run.version[task])
        run.due = NO_DUES
        if run.state is RunState.CANCELLING:
            self.leave_cursor(run, ("cancel", -1, 0))
        elif Policy.CANCEL in self._failed_policies(run):
            self.begin_cancel(run, "task_failed")
        for family in list(run.families.values()):
            if family.ended < family.count:
                if run.states[family.parent] >= SUCCEEDED:
                    self.drop_children(run, family.parent)
            elif run.states[family.parent] == PARKED:
                self.join(run, family)
        if run.state is RunState.CANCELLING:
            self.advance(run)
        elif not run.state.ended:
            self.let_out(run, 0)
            for parent, family in list(run.families.items()):
                if run.states[parent] == PARKED:
                    self.release_children(run, family)
        if run.parked:
            self.rest(run)

    # -- adopt

    def adopt(self, now_ms: int, items: Sequence[Adopt]) -> list[Adoption]:
        """Leases of an earlier engine go on under new tokens."""
        self.begin(now_ms)
        answers = [self._adopt(item) for item in items]
        self.flush()
        return answers

    def _adopt(self, item: Adopt) -> Adoption:
        run, node, task = self.runs.get(item.run), self.nodes.get(item.node), item.task
        if run is None or not run.opened or node is None or not 0 <= task < len(run.states):
            return Adoption(NOT_FOUND, NO_TOKEN)
        known = run.adopted.get(item.token)
        if known is not None:
            return Adoption(OK, Token(self.epoch, known))
        if not self._is_next(run, item):
            return Adoption(SUPERSEDED, NO_TOKEN)
        if run.may_start(task):
            self.make_ready(run, task)
            self.flush()
        if item.attempt == run.attempts[task]:
            run.orphans.discard(task)
        elif task in run.orphans:
            self.lapse(run, task)
        self.leave_waiting(run, task)
        self.drop_children(run, task)
        first = item.token
        n = self.emit("adopted", run.id, task, attempt=item.attempt, token=first.n, token_epoch=first.epoch, node=item.node)
        run.states[task] = RUNNING
        run.version[task] += 1
        run.attempts[task] = item.attempt
        run.tokens[task] = n
        run.adopt(first, n)
        run.ended_by[task] = 0
        lease = self.make_lease(Lease(n, run, task, item.attempt, node, item.takes, item.claims))
        lease.ended = item.ended
        self._hold_again(lease, item)
        return Adoption(OK, Token(self.epoch, n))

    def _is_next(self, run: LiveRun, item: Adopt) -> bool:
        """Whether it is the attempt that was running, or the one after the last of which the record knows."""
        task = item.task
        place = (-1, -1)
        if task >= run.size:
            family = run.children[task - run.size]
            place = family.parent, task - family.first
        if place != (item.parent, item.child):
            return False
        if run.states[task] not in (READY, DELAYED) and not run.may_start(task):
            return False
        last = run.attempts[task]
        return item.attempt == last + 1 or (item.attempt == last and task in run.orphans)

    def _hold_again(self, lease: Lease, item: Adopt) -> None:
        node = lease.node
        node.take_anyway(item.takes)
        self.claims.take(item.claims, lease.n)
        for lock in item.locks:
            self.hold_ask(lease, Claim(lock.key, lock.units, EXCLUSIVE), lock.left_ms)
        if not item.ended:
            node.give(Adopted(item.token, Token(self.epoch, lease.n)))
            self.stirred.add(f"node:{item.node}")

    def dismiss(self, now_ms: int, items: Sequence[tuple[str, Token]]) -> list[Answer]:
        """Tells nodes that leases they presented are theirs no more."""
        self.begin(now_ms)
        answers: list[Answer] = []
        for name, token in items:
            node = self.nodes.get(name)
            if node is not None and token not in node.dismissed:
                node.dismissed.add(token)
                node.give(Stop(token, "superseded"))
                self.stirred.add(f"node:{name}")
            answers.append(NOT_FOUND if node is None else OK)
        return answers
