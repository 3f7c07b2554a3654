"""Schedule: starts runs when the clock says so.

The loop sleeps until the record's next time. The id of a run is made of its schedule and its time, so that a time which is
fired again, after a crash between the acceptance of the run and the move of the schedule, gives the same run.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from skep.clock import Clock
from skep.errors import NotFoundError, RefusedError, SpecError, WrongStateError
from skep.flow.firing import MOST, Firing, decide_firing
from skep.flow.timetable import next_after, times_between
from skep.ids import fired_run_id
from skep.loop import Loop
from skep.model.event import Event
from skep.model.schedule import ScheduleSpec
from skep.model.spec import WorkflowSpec
from skep.model.state import RunState
from skep.record.protocol import Record, RunFilter, ScheduleRow
from skep.upkeep.stored import Stored

log = logging.getLogger(__name__)

SHORTEST_S: Final = 0.001
LONGEST_S: Final = 60.0
"""The longest sleep while there are schedules: the wall clock may be set."""
IDLE_S: Final = 3_600.0
TOPIC: Final = "schedules"
"""Stirred when they were changed."""
UNFINISHED: Final = (int(RunState.QUEUED), int(RunState.RUNNING), int(RunState.CANCELLING))
LABEL: Final = "schedule"
"""The label of the runs that a schedule started; its value is the schedule's name."""

_SPEC: Final = msgspec.json.Decoder(ScheduleSpec)


class Submit(Protocol):
    """Accepts a run; the same id again is the same run. Raises SpecError, RefusedError."""

    async def __call__(
        self,
        spec: WorkflowSpec,
        inputs: Mapping[str, Any] | None,
        *,
        run_id: str,
        namespace: str,
        priority: int,
        labels: Mapping[str, str] | None,
        schedule: str,
        base: str,
    ) -> str: ...


Cancel = Callable[[str, str], Awaitable[object]]
"""Cancels a run, with a reason, by a recorded command."""
Key = tuple[str, str]
"""Namespace and name of a schedule."""


class _Queue(NamedTuple):
    """A time that has come and waits."""

    runs: frozenset[str]
    """For the end of one of these; none: for nothing, since the one before it could not be started."""
    until_ms: int
    """The next time to be put behind it; 0: none."""


class ScheduleLoop(Loop):
    """Fires what is due."""

    name = "schedule"

    def __init__(self, record: Record, clock: Clock, submit: Submit, cancel: Cancel) -> None:
        super().__init__()
        self._record = record
        self._clock = clock
        self._submit = submit
        self._cancel = cancel
        self._stored = Stored(record)
        self._queues: dict[Key, _Queue] = {}
        self._awaited: frozenset[str] = frozenset()
        self._ended: set[str] = set()
        """Runs that ended while a pass looked."""
        self._looking = False
        self.refused: dict[Key, str] = {}
        """Schedules whose last time started nothing, and why."""

    def told(self, events: Sequence[Event]) -> None:
        """Recorded events: a time may wait for the end of a run."""
        if not self._awaited and not self._looking:
            return
        for event in events:
            if event.kind == "ended":
                if self._looking:
                    self._ended.add(event.run)
                if event.run in self._awaited:
                    self.wake()

    async def run_once(self) -> bool:
        now_ms = self._clock.now_ms()
        self._looking = True
        self._queues.clear()
        self._ended.clear()
        try:
            for row in await self._record.schedules(due_ms=now_ms):
                await self._look(row, now_ms)
        finally:
            self._looking = False
            self._awaited = frozenset().union(*(queue.runs for queue in self._queues.values()))
        await self._set_timer(now_ms)
        return not self._awaited.isdisjoint(self._ended) or not all(queue.runs for queue in self._queues.values())

    async def _set_timer(self, now_ms: int) -> None:
        if self._queues:
            rows = [row for row in await self._record.schedules() if not row.paused]
            queues = [self._queues.get((row.namespace, row.name)) for row in rows]
            times = [queue.until_ms if queue else row.next_ms for row, queue in zip(rows, queues, strict=True)]
            next_ms = min((at_ms for at_ms in times if at_ms), default=0)
        else:
            next_ms = await self._record.next_schedule_ms()
        due_s = (next_ms - now_ms) / 1000
        self.interval_s = min(max(due_s, SHORTEST_S), LONGEST_S) if next_ms else IDLE_S

    async def _look(self, row: ScheduleRow, now_ms: int) -> None:
        key = row.namespace, row.name
        try:
            spec = _SPEC.decode(row.spec)
        except msgspec.MsgspecError as error:
            self._refuse(key, f"it cannot be read: {error}")
            await self._record.move_schedule(row, next_ms=0)
            return
        running = await self._running(row, spec, now_ms)
        decision = decide_firing(spec, row.next_ms, row.fired_ms, now_ms, running.values())
        started = await self._fire(row, spec, decision, running)
        if (decision.fired_ms, decision.next_ms) != (row.fired_ms, row.next_ms):
            await self._record.move_schedule(row, fired_ms=decision.fired_ms, next_ms=decision.next_ms)
        if decision.waits:
            self._queues[key] = _Queue(frozenset(running), next_after(spec, decision.fired_ms))
        elif decision.next_ms and decision.next_ms <= now_ms:  # the next in line waits for the run that was just started
            self._queues[key] = _Queue(frozenset(started), next_after(spec, decision.fired_ms))

    async def _running(self, row: ScheduleRow, spec: ScheduleSpec, now_ms: int) -> dict[str, int]:
        """Runs of the schedule that have not ended, with the due time for which each was started, 0 for none of them."""
        if spec.overlap == "allow":
            return {}
        due = {self._id(row, at_ms): at_ms for at_ms in times_between(spec, row.next_ms - 1, now_ms, MOST)}
        wanted = RunFilter(namespace=row.namespace, schedule=row.name, states=UNFINISHED)
        running: dict[str, int] = {}
        cursor = ""
        while True:
            page = await self._record.list_runs(wanted, limit=1_000, cursor=cursor)
            running.update((run.id, due.get(run.id, 0)) for run in page.runs)
            if not (cursor := page.cursor):
                return running

    async def _fire(self, row: ScheduleRow, spec: ScheduleSpec, decision: Firing, running: Mapping[str, int]) -> list[str]:
        """Answers the ids of the runs that it started."""
        key = row.namespace, row.name
        started: list[str] = []
        if decision.cancels:
            for run, at_ms in running.items():
                if at_ms not in decision.fire:
                    try:
                        await self._cancel(run, f"schedule {row.name}: the next one is due")
                    except (NotFoundError, WrongStateError):
                        pass  # it has ended in the meantime
        for at_ms in decision.fire:
            try:
                started.append(await self.start_run(row, spec, self._id(row, at_ms)))
            except (NotFoundError, RefusedError, SpecError, msgspec.MsgspecError) as error:
                self._refuse(key, str(error))
            else:
                self.refused.pop(key, None)
        return started

    def _refuse(self, key: Key, why: str) -> None:
        if self.refused.get(key) != why:
            log.warning("schedule %s started no run: %s", key[1], why)
            self.refused[key] = why

    def _id(self, row: ScheduleRow, at_ms: int) -> str:
        return fired_run_id(row.namespace, row.name, row.made_ms, at_ms)

    # -- runs

    async def start_run(self, row: ScheduleRow, spec: ScheduleSpec, run_id: str) -> str:
        """Starts a run of the schedule; harmless when repeated. Raises NotFoundError (its workflow is not stored any more),
        SpecError, RefusedError."""
        try:
            return (await self._record.run(run_id)).id
        except NotFoundError:
            pass
        return await self._submit(
            await self._stored.workflow(row.namespace, spec.workflow, spec.definition),
            spec.inputs,
            run_id=run_id,
            namespace=row.namespace,
            priority=spec.priority,
            labels={**spec.labels, LABEL: row.name},
            schedule=row.name,
            base=spec.base,
        )
