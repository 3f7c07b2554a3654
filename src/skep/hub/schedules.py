"""Schedules: stored, looked at, paused, and fired by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from skep.clock import Clock
from skep.engine.protocol import Engine
from skep.errors import ConflictError, SpecError
from skep.flow.plan import check_inputs
from skep.flow.timetable import build_schedule, describe, next_after, upcoming
from skep.ids import new_id
from skep.model.fields import Fault
from skep.model.kinds import NAME, names
from skep.model.schedule import ScheduleSpec, ScheduleView
from skep.model.spec import DEFAULT_NAMESPACE, WorkflowSpec
from skep.record.protocol import Record, RunFilter, ScheduleRow
from skep.upkeep.schedule import TOPIC, ScheduleLoop
from skep.upkeep.stored import Stored

UPCOMING: Final = 5
"""Times and runs that are shown."""
TRIES: Final = 10
"""A schedule that moves meanwhile is looked at again so often."""

_name: Final = names(NAME, "a schedule").parse
_encode: Final = msgspec.json.Encoder().encode
_SPEC: Final = msgspec.json.Decoder(ScheduleSpec)


class Schedules:
    """The noun of the hub."""

    def __init__(self, engine: Engine, record: Record, clock: Clock, loop: ScheduleLoop) -> None:
        self._engine = engine
        self._record = record
        self._clock = clock
        self._loop = loop
        self._stored = Stored(record)

    async def put(self, name: str, options: Mapping[str, Any], namespace: str = "") -> ScheduleView:
        """Stores or replaces a schedule; `options` are those of `build_schedule`. Raises SpecError, NotFoundError (there is
        no such stored workflow)."""
        namespace = namespace or DEFAULT_NAMESPACE
        for path, word in (("name", name), ("namespace", namespace)):
            try:
                _name(word)
            except Fault as fault:
                raise SpecError.at(path, fault.found[0][1]) from None
        now_ms = self._clock.now_ms()
        spec = build_schedule(options, now_ms)
        if spec.workflow:
            check_inputs(await self._stored.workflow(namespace, spec.workflow), spec.inputs)
        row = await self._record.put_schedule(namespace, name, _encode(spec), next_after(spec, now_ms), now_ms)
        self._loop.refused.pop((namespace, name), None)
        await self._engine.stir([TOPIC])
        return await self._view(row)

    async def list(self, namespace: str = "") -> list[ScheduleView]:
        """All of them, by name."""
        return [await self._view(row, last=1) for row in await self._record.schedules(namespace)]

    async def get(self, name: str, namespace: str = "") -> ScheduleView:
        """How it is, with its next times and its last runs. Raises NotFoundError."""
        return await self._view(await self._record.schedule(namespace or DEFAULT_NAMESPACE, name))

    async def remove(self, name: str, namespace: str = "") -> bool:
        """Its runs stay. False: there was none."""
        namespace = namespace or DEFAULT_NAMESPACE
        removed = await self._record.remove_schedule(namespace, name)
        self._loop.refused.pop((namespace, name), None)
        await self._engine.stir([TOPIC])
        return removed

    async def pause(self, name: str, namespace: str = "") -> ScheduleView:
        """Fires nothing until `resume`; runs that were started go on."""
        return await self._move(name, namespace or DEFAULT_NAMESPACE, paused=True)

    async def resume(self, name: str, namespace: str = "") -> ScheduleView:
        """Goes on with the next time from now; those in between have passed."""
        return await self._move(name, namespace or DEFAULT_NAMESPACE, paused=False)

    async def _move(self, name: str, namespace: str, *, paused: bool) -> ScheduleView:
        for _ in range(TRIES):
            row = await self._record.schedule(namespace, name)
            if row.paused == paused:
                return await self._view(row)
            next_ms = None if paused else next_after(_SPEC.decode(row.spec), self._clock.now_ms())
            if await self._record.move_schedule(row, next_ms=next_ms, paused=paused):
                await self._engine.stir([TOPIC])
                return await self._view(await self._record.schedule(namespace, name))
        raise ConflictError(f"schedule {name} changes all the time; try again")

    async def fire(self, name: str, namespace: str = "", *, run_id: str | None = None) -> str:
        """Starts a run of it now, beside its times; answers the run's id. Raises NotFoundError, SpecError, RefusedError."""
        row = await self._record.schedule(namespace or DEFAULT_NAMESPACE, name)
        return await self._loop.start_run(row, _SPEC.decode(row.spec), run_id or new_id(self._clock.now_ms()))

    async def _view(self, row: ScheduleRow, last: int = UPCOMING) -> ScheduleView:
        spec = _SPEC.decode(row.spec)
        page = await self._record.list_runs(RunFilter(namespace=row.namespace, schedule=row.name), limit=last)
        first = [row.next_ms] if row.next_ms and not row.paused else []
        after_ms = max(row.next_ms, self._clock.now_ms())
        return ScheduleView(
            name=row.name,
            namespace=row.namespace,
            when=describe(spec),
            cron=spec.cron or None,
            every_ms=spec.every_ms or None,
            timezone=spec.timezone,
            start_ms=spec.start_ms or None,
            end_ms=spec.end_ms or None,
            overlap=spec.overlap,
            catch_up=spec.catch_up,
            workflow=spec.workflow or WorkflowSpec.decode(spec.definition).name,
            inputs=spec.inputs or None,
            paused=row.paused,
            fired_ms=row.fired_ms or None,
            next_ms=row.next_ms or None,
            upcoming_ms=first + upcoming(spec, after_ms, UPCOMING - 1) if first else [],
            runs=[run.id for run in page.runs],
            trouble=self._loop.refused.get((row.namespace, row.name)),
        )
