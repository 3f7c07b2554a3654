"""What upstream tasks gave: from the stream above the mark, else from the record."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from skep.engine.protocol import Engine, LiveTask
from skep.flow.decide import Upstream
from skep.model.node import artifact_of
from skep.model.state import TaskState
from skep.record.protocol import Record
from skep.upkeep.catalog import Catalog, RunContext

KEEP_BYTES = 64 * 1024 * 1024
"""Outputs kept in memory; older ones are read again."""


class Outputs:
    """Outputs that expressions read, by run and task."""

    def __init__(self, engine: Engine, record: Record, catalog: Catalog) -> None:
        self._engine = engine
        self._record = record
        self._catalog = catalog
        self._kept: OrderedDict[tuple[str, int], bytes] = OrderedDict()
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
        found = {task: kept[run, task] for task in tasks if (run, task) in kept}
        missing = [task for task in tasks if task not in found]
        if missing:
            found.update(await self._record.outputs(run, missing))
        return {task: await self._decode(data) for task, data in found.items()}

    async def _decode(self, data: bytes) -> Any:
        artifact = artifact_of(data)
        if artifact is not None:
            data = await self._record.get_artifact(artifact)
        return msgspec.json.decode(data)

    async def _read_stream(self) -> None:
        """Takes over the outputs that some expression reads from what the engine told since the last look."""
        while events := await self._engine.events(self._seen, 10_000):
            self._seen = events[-1].n
            for event in events:
                if event.kind != "succeeded" or not event.output:
                    continue
                run = self._catalog.known(event.run)
                if run is not None and (event.task >= len(run.plan.names) or event.task in run.plan.read):
                    self._keep(event.run, event.task, event.output)

    def _keep(self, run: str, task: int, output: bytes) -> None:
        kept = self._kept
        self._bytes += len(output) - len(kept.get((run, task), b""))
        kept[run, task] = output
        while self._bytes > KEEP_BYTES:
            _, old = kept.popitem(last=False)
            self._bytes -= len(old)


def _indexes(seen: LiveTask) -> Sequence[int]:
    return range(seen.first, seen.first + seen.children) if seen.first >= 0 else (seen.task,)


def _value(seen: LiveTask, found: dict[int, Any], failed: set[int]) -> Any:
    if seen.first >= 0:
        if seen.state != TaskState.SUCCEEDED:
            return None
        return [None if task in failed else found.get(task) for task in _indexes(seen)]
    return found.get(seen.task) if seen.state == TaskState.SUCCEEDED else None
