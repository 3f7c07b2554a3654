"""What upstream tasks gave: from the stream above the mark, else from the record."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from skep.engine.protocol import Engine, LiveTask
from skep.errors import NotFoundError, SkepError
from skep.flow.decide import Upstream
from skep.model.event import Event
from skep.model.node import artifact_of
from skep.model.state import TaskState
from skep.record.protocol import Record
from skep.upkeep.catalog import Catalog, RunContext

KEEP_BYTES = 64 * 1024 * 1024
"""Outputs kept in memory; older ones are read again."""


class UnreadableError(SkepError):
    """An output is there no more, or is no JSON."""


class Outputs:
    """Outputs that expressions read, by run and task."""

    def __init__(self, engine: Engine, record: Record, catalog: Catalog) -> None:
        self._engine = engine
        self._record = record
        self._catalog = catalog
        self._kept: OrderedDict[tuple[str, int], tuple[int, bytes]] = OrderedDict()
        """(number of the event, output)."""
        self._bytes = 0
        self._seen = 0

    async def upstream(self, run: RunContext, tasks: Iterable[int]) -> dict[int, Upstream]:
        """How the tasks ended and what they gave; the output of a map is the list of its children's."""
        live = await self._engine.tasks(run.id, sorted(tasks))
        wanted = [task for seen in live for task in _indexes(seen)]
        found = await self._outputs(run.id, wanted)
        children = [task for seen in live if seen.children for task in _indexes(seen)]
        failed = (
            {t.task for t in await self._engine.tasks(run.id, children) if t.state != TaskState.SUCCEEDED}
            if children
            else set()
        )
        return {seen.task: Upstream(TaskState(seen.state), _value(seen, found, failed)) for seen in live}

    async def _outputs(self, run: str, tasks: Sequence[int]) -> dict[int, Any]:
        await self._read_stream()
        kept = self._kept
        found = {task: kept[run, task][1] for task in tasks if (run, task) in kept}
        missing = [task for task in tasks if task not in found]
        if missing:
            found.update(await self._record.outputs(run, missing))
        return {task: await self._decode(data) for task, data in found.items()}

    async def _decode(self, data: bytes) -> Any:
        artifact = artifact_of(data)
        try:
            return msgspec.json.decode(data if artifact is None else await self._record.get_artifact(artifact))
        except (NotFoundError, ValueError, RecursionError) as error:
            raise UnreadableError(f"the output of a task that it reads cannot be had: {error}") from None

    async def _read_stream(self) -> None:
        """Takes over the outputs that some expression reads from what the engine told since the last look."""
        while events := await self._engine.events(self._seen, 10_000):
            self._seen = events[-1].n
            for event in events:
                if event.kind != "succeeded" or not event.output:
                    continue
                run = self._catalog.known(event.run)
                # Of a run that is not known yet everything is kept: who reads what is seen only when it is.
                if run is None or event.task >= len(run.plan.names) or event.task in run.plan.read:
                    self._keep(event)
        if self._bytes > KEEP_BYTES:
            await self._drop_recorded()

    def _keep(self, event: Event) -> None:
        kept, key = self._kept, (event.run, event.task)
        self._bytes += len(event.output) - len(kept.pop(key, (0, b""))[1])
        kept[key] = (event.n, event.output)

    async def _drop_recorded(self) -> None:
        """Drops the oldest outputs, as long as the record has them: those above the mark are nowhere else."""
        oldest = await self._engine.events(0, 1)
        above = oldest[0].n if oldest else self._seen + 1
        while self._kept and self._bytes > KEEP_BYTES:
            n, output = next(iter(self._kept.values()))
            if n >= above:
                return
            self._kept.popitem(last=False)
            self._bytes -= len(output)


def _indexes(seen: LiveTask) -> Sequence[int]:
    return range(seen.first, seen.first + seen.children) if seen.first >= 0 else (seen.task,)


def _value(seen: LiveTask, found: dict[int, Any], failed: set[int]) -> Any:
    if seen.first >= 0:
        if seen.state != TaskState.SUCCEEDED:
            return None
        return [None if task in failed else found.get(task) for task in _indexes(seen)]
    return found.get(seen.task) if seen.state == TaskState.SUCCEEDED else None
