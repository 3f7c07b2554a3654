"""The verbs about runs: load, open, cancel, pause, resume, retry."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from skep.engine.memory.live import LiveRun
from skep.engine.memory.restore import Restores
from skep.engine.memory.state import CANCELLED, FAILED, SKIPPED, SUCCEEDED, WAITING
from skep.engine.protocol import (
    EXPIRED,
    FULL,
    LOAD_VALID_MS,
    NOT_FOUND,
    OK,
    WRONG_STATE,
    Answer,
    Load,
    RunCommand,
)
from skep.model.run import MAX_TASKS, Policy
from skep.model.state import RunState


class RunVerbs(Restores):
    """Load to retry."""

    def load(self, now_ms: int, items: Sequence[Load]) -> list[Answer]:
        """Takes in chunks of runs; nothing of a run is ready before `open`, which the last chunk may bring along."""
        self.begin(now_ms)
        answers = [self._load(item) for item in items]
        self.flush()
        return answers

    def _load(self, item: Load) -> Answer:
        answer = self._load_chunk(item)
        return self._open_run(item.run) if answer == OK and item.opens else answer

    def _load_chunk(self, item: Load) -> Answer:
        run = self.runs.get(item.run)
        if run is not None and item.first < run.loaded:
            return OK
        if self.now_ms - item.read_ms > LOAD_VALID_MS:
            return EXPIRED
        if run is None:
            if item.first != 0:
                return NOT_FOUND
            size = max([item.shape.size, *(first + count for _, first, count in item.families)])
            if self.live_tasks + size > MAX_TASKS and not item.child:
                return FULL
            run = self.runs[item.run] = LiveRun(item)
            self.take_families(run, item.families)
            self.live_tasks += size
        elif item.first != run.loaded:
            return WRONG_STATE
        if item.restored or item.families:
            run.restored = True
            self.take_back(run, item.restored)
        run.loaded += item.count
        return OK

    def open(self, now_ms: int, runs: Sequence[str]) -> list[Answer]:
        """Lets the first tasks out. Refused (`wrong_state`) before the last chunk."""
        self.begin(now_ms)
        answers = [self._open_run(run) for run in runs]
        self.flush()
        return answers

    def _open_run(self, name: str) -> Answer:
        run = self.runs.get(name)
        if run is None:
            return NOT_FOUND
        if run.opened:
            return OK
        if run.loaded < len(run.states):
            return WRONG_STATE
        run.opened = True
        if run.restored:
            self.restore(run)
        if run.retried and not run.unfinished:
            if not run.reason and not run.failing and CANCELLED in run.states:
                run.state, run.reason = RunState.CANCELLING, "cancelled"  # why it was, nobody knows any more
            self.close_run(run)
            return OK
        # A run that is being cancelled says so in the same event, so that no part of the record can have one without the other.
        cancelling = run.state is RunState.CANCELLING
        self.emit("loaded", run.id, count=len(run.states), state=int(run.state) if cancelling else -1, reason=run.reason)
        self._set_limits(run)
        if not run.unfinished:
            self._end_run(run)
        elif run.restored or cancelling:
            self.resume_restored(run)
        else:
            self.let_out(run, 0)
        return OK

    def _set_limits(self, run: LiveRun) -> None:
        if run.timeout_ms:
            self.push(self.limits, run.accepted_ms + run.timeout_ms, "timeout", run.id)
        if run.timed:
            for task, state in enumerate(run.states):
                if state < SUCCEEDED and (deadline_ms := run.shape.deadlines_ms[run.base(task)]):
                    self.push(self.limits, run.accepted_ms + deadline_ms, "deadline", run.id, task)

    # -- commands

    def _command(
        self, now_ms: int, items: Sequence[RunCommand], apply: Callable[[LiveRun, RunCommand], Answer]
    ) -> list[Answer]:
        self.begin(now_ms)
        answers: list[Answer] = []
        for item in items:
            run = self.runs.get(item.run)
            if run is None or not run.opened:
                answers.append(NOT_FOUND)
            elif item.number <= run.command:
                answers.append(OK)
            else:
                answer = apply(run, item)
                if answer == OK:
                    run.command = item.number
                answers.append(answer)
        self.flush()
        return answers

    def cancel(self, now_ms: int, items: Sequence[RunCommand]) -> list[Answer]:
        """Ends runs: what waits is swept, what runs is told to stop; a task that completes first keeps its outcome."""
        return self._command(now_ms, items, self._cancel)

    def _cancel(self, run: LiveRun, item: RunCommand) -> Answer:
        if run.state.ended:
            return WRONG_STATE
        self.begin_cancel(run, item.reason or "cancelled", item.number)
        self.advance(run)
        return OK

    def pause(self, now_ms: int, items: Sequence[RunCommand]) -> list[Answer]:
        """Stops grants of the run; what runs goes on."""
        return self._command(now_ms, items, self._pause)

    def _pause(self, run: LiveRun, item: RunCommand) -> Answer:
        if run.state is not RunState.RUNNING:
            return WRONG_STATE
        if not run.paused:
            run.paused = True
            self.emit("paused", run.id, reason=item.reason, command=item.number)
        return OK

    def resume(self, now_ms: int, items: Sequence[RunCommand]) -> list[Answer]:
        """Lets the run start tasks again."""
        return self._command(now_ms, items, self._resume)

    def _resume(self, run: LiveRun, item: RunCommand) -> Answer:
        if run.state.ended:
            return WRONG_STATE
        if run.paused:
            run.paused = False
            self.emit("resumed", run.id, reason=item.reason, command=item.number)
            held = tuple(run.held)
            run.held.clear()
            for task in held:
                self.enqueue(run, task)
        return OK

    def retry(self, now_ms: int, items: Sequence[RunCommand]) -> list[Answer]:
        """Takes an ended run up again: what did not succeed, or the named tasks, and everything after them."""
        return self._command(now_ms, items, self._retry)

    def _retry(self, run: LiveRun, item: RunCommand) -> Answer:
        if not run.state.ended:
            return WRONG_STATE
        if self.live_tasks + len(run.states) > MAX_TASKS:
            return FULL
        named = item.tasks or [
            task
            for task in range(run.size)
            if run.states[task] in (FAILED, CANCELLED) or (run.states[task] == SKIPPED and task not in run.met_skips)
        ]
        if not named or not all(0 <= task < run.size for task in named):
            if not run.ended_n:
                self.tell_end(run)  # it was loaded for this retry alone
            return WRONG_STATE
        reset = self._downstream(run, named)
        children = self._reset_families(run, reset, again=set(item.tasks))
        tasks = sorted(reset) + children
        self.live_tasks += len(run.states)
        run.state, run.reason, run.failing = RunState.RUNNING, "", False
        run.unfinished += len(tasks)
        # However many they are, in one event: a record that has half of them would hold a run that nobody asked for.
        self.emit("reset", run.id, tasks=tuple(tasks), command=item.number)
        for task in tasks:
            run.states[task] = WAITING
            for sparse in (run.unmet, run.failures, run.lost, run.resolved):
                sparse.pop(task, None)
            run.met_skips.discard(task)
        self._count_pending(run, reset)
        for task in range(run.size):
            if run.states[task] == FAILED and run.shape.policies[task] <= Policy.CANCEL:
                run.failing = True
        for task in sorted(reset):
            if run.pending[task] == 0:
                self.make_ready(run, task)
        return OK

    def _downstream(self, run: LiveRun, tasks: Sequence[int]) -> set[int]:
        found = set(tasks)
        queue = list(tasks)
        while queue:
            for successor in run.shape.successors[queue.pop()]:
                if successor not in found:
                    found.add(successor)
                    queue.append(successor)
        return found

    def _reset_families(self, run: LiveRun, reset: set[int], again: set[int]) -> list[int]:
        """A failed map keeps its good children when nothing it needs is done again; else it is expanded anew."""
        upstream_again = {successor for task in reset for successor in run.shape.successors[task]} | again
        children: list[int] = []
        for parent in sorted(reset & run.families.keys()):
            family = run.families[parent]
            if parent in upstream_again or run.states[parent] == SUCCEEDED:
                del run.families[parent]
                continue
            bad = [t for t in family.tasks if run.states[t] != SUCCEEDED and t not in run.met_skips]
            children += bad
            family.ended = family.count - len(bad)
            family.released = family.out = 0
            family.failed = family.cancelled = family.skipped = False
        return children

    def _count_pending(self, run: LiveRun, reset: set[int]) -> None:
        for task in reset:
            run.pending[task] = 0
        for task in range(run.size):
            ended = run.states[task] >= SUCCEEDED
            for successor in run.shape.successors[task]:
                if successor in reset:
                    if not ended:
                        run.pending[successor] += 1
                    elif not run.met(task):
                        run.unmet[successor] = run.unmet.get(successor, 0) + 1
