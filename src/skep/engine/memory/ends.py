"""What follows from the end of a task, in the same atomic step: unblock, join, cancel, the end of the run.

All of it is bounded: what one call may not release any more is left to a cursor, which `promote` advances.
"""

from __future__ import annotations

from typing import Any

from skep.engine.memory.live import BY_RETURN, Family, Lease, LiveRun
from skep.engine.memory.state import CANCELLED, END_KINDS, FAILED, PARKED, RUNNING, SKIPPED, SUCCEEDED, WAITING, State
from skep.engine.protocol import FORGET_MS
from skep.model.run import Policy
from skep.model.state import RunState


class Ends(State):
    """A state in which tasks can end."""

    def return_lease(self, lease: Lease, reason: str) -> None:
        """The node is gone: the task may be tried elsewhere, at once."""
        kept: list[str] = []
        if (lease.claims or lease.asks) and reason == "lost" and lease.node.beats:
            # The attempt may still be under way there: its node ends it 12 s after the last beat, so 15 s is safe.
            kept += [claim.key for claim in lease.claims]
            kept += [key for key, asked in (lease.asks or {}).items() if not asked.number]
            lease.claims = ()
            lease.asks = {key: asked for key, asked in (lease.asks or {}).items() if asked.number}
        self.end_lease(lease, BY_RETURN)
        for key in kept:
            self.push(self.limits, lease.node.beat_ms + 15_000, "claim", key, lease.task, lease.n)
        self.lose(lease, reason, {"node": lease.node.info.id})

    def lose(self, lease: Lease, reason: str, said: dict[str, Any]) -> None:
        """The attempt ended through no fault of its own. `said`: what is known of its end, for the event."""
        run, task = lease.run, lease.task
        said |= {"attempt": lease.attempt, "token": lease.n, "token_epoch": self.epoch}
        lost = run.lost[task] = run.lost.get(task, 0) + (reason == "lost")
        if run.state is RunState.CANCELLING:
            self.emit("cancelled", run.id, task, reason=run.reason, **said)
            self.end_task(run, task, CANCELLED)
        elif lost >= self.max_lost:
            self.emit("failed", run.id, task, reason="node_lost", **said)
            self.end_task(run, task, FAILED)
        else:
            self.emit("returned", run.id, task, reason=reason, **said)
            self.make_ready(run, task, told=True)

    def lapse(self, run: LiveRun, task: int) -> None:
        """Nobody came for the attempt that ran under an earlier engine: it is lost."""
        run.orphans.discard(task)
        run.lost[task] = run.lost.get(task, 0) + 1
        self.emit("returned", run.id, task, attempt=run.attempts[task], reason="lost")

    def end_task(self, run: LiveRun, task: int, state: int) -> None:
        """The task has ended: its event is written; now its consequences."""
        run.states[task] = state
        run.unfinished -= 1
        if run.held or run.waiter:
            self.leave_waiting(run, task)
        if run.parked or run.orphans:
            run.orphans.discard(task)
            self.unpark(run, task)
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
            self.leave_cursor(run, ("unblock", task, end))

    def _child_ended(self, run: LiveRun, family: Family, task: int, state: int) -> None:
        family.ended += 1
        if task - family.first < family.released:
            family.out -= 1  # else its deadline came before its turn
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
            self.leave_cursor(run, ("map", family.parent, 0))

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
        left = [task for task in family.tasks if run.states[task] < SUCCEEDED]
        if left:
            self.emit("skipped", run.id, tasks=tuple(left), reason="upstream")
            for task in left:
                self.end_task(run, task, SKIPPED)

    def begin_cancel(self, run: LiveRun, reason: str, command: int = 0) -> None:
        """Sets the run cancelling and leaves the sweep to a cursor."""
        if run.state is not RunState.RUNNING:
            return
        run.state = RunState.CANCELLING
        run.reason = reason
        self.emit("cancelling", run.id, reason=reason, command=command)
        run.cursors.clear()  # nothing more is let out; what was not, is swept
        self.leave_cursor(run, ("cancel", -1, 0))

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
            self.leave_cursor(run, ("cancel", -1, end))
        together = tuple(task for task in swept if not run.left_attempt(task))
        if together:
            self.emit("cancelled", run.id, tasks=together, reason=run.reason)
        if len(together) < len(swept):
            for task in filter(run.left_attempt, swept):
                self.emit("cancelled", run.id, task, attempt=run.attempts[task], reason=run.reason)
        for task in stopped:
            self.stop(self.leases[run.tokens[task]], "cancel")
        for task in swept:
            run.states[task] = CANCELLED
        for task in swept:
            self.end_task(run, task, CANCELLED)

    def let_out(self, run: LiveRun, position: int) -> None:
        """Lets out what needs nothing, as far as the budget goes."""
        roots = run.roots
        end = min(len(roots), position + max(self.budget, 0))
        for at in range(position, end):
            if run.states[roots[at]] == WAITING:
                self.make_ready(run, roots[at])
        self.budget -= end - position
        if end < len(roots):
            self.leave_cursor(run, ("open", -1, end))

    def leave_cursor(self, run: LiveRun, cursor: tuple[str, int, int]) -> None:
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
                self.let_out(run, position)
        if run.cursors:
            self.sweeping[run.id] = run

    def _end_run(self, run: LiveRun) -> None:
        self.close_run(run)
        self.tell_end(run)

    def close_run(self, run: LiveRun) -> None:
        """All of it has ended, and so has the run."""
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

    def tell_end(self, run: LiveRun) -> None:
        run.ended_n = self.emit("ended", run.id, state=int(run.state), reason=run.reason)
        self.ended.append((run.ended_n, self.now_ms + FORGET_MS, run))
