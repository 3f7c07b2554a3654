"""What upstream tasks gave, or why they failed: from the stream above the mark, else from the record."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from skep.engine.protocol import Engine, LiveTask
from skep.errors import NotFoundError, SkepError
from skep.flow.decide import Upstream
from skep.model.node import ErrorInfo, artifact_of, failure
from skep.model.state import TaskState
from skep.record.protocol import Record
from skep.upkeep.catalog import Catalog, RunContext

KEEP_BYTES = 64 * 1024 * 1024
"""Outputs and errors kept in memory; older ones are read again."""
_KEPT = {"succeeded": TaskState.SUCCEEDED, "failed": TaskState.FAILED}


class UnreadableError(SkepError):
    """An output is there no more, or is no JSON."""


class Outputs:
    """Outputs and errors that expressions read, by run and task."""

    def __init__(self, engine: Engine, record: Record, catalog: Catalog) -> None:
        self._engine = engine
        self._record = record
        self._catalog = catalog
        self._kept: OrderedDict[tuple[str, int, TaskState], tuple[int, bytes]] = OrderedDict()
        """(number of the event, output or error)."""
        self._bytes = 0
        self._seen = 0

    async def upstream(self, run: RunContext, tasks: Iterable[int]) -> dict[int, Upstream]:
        """How the tasks ended and what they gave; the output of a map is the list of its children's."""
        live = await self._engine.tasks(run.id, sorted(tasks))
        wanted = [task for seen in live for task in _indexes(seen)]
        found = await self._outputs(run.id, wanted)
        children = [task for seen in live if seen.children for task in _indexes(seen)]
        states = {t.task: t.state for t in await self._engine.tasks(run.id, children)} if children else {}
        errors = await self._errors(run, live, states)
        return {seen.task: Upstream(TaskState(seen.state), _value(seen, found, states), errors.get(seen.task)) for seen in live}

    async def _outputs(self, run: str, tasks: Sequence[int]) -> dict[int, Any]:
        await self._read_stream()
        found, missing = self._look(run, tasks, TaskState.SUCCEEDED)
        if missing:
            found.update(await self._record.outputs(run, missing))
        return {task: await self._decode(data) for task, data in found.items()}

    async def _errors(self, run: RunContext, live: Sequence[LiveTask], states: Mapping[int, int]) -> dict[int, dict[str, str]]:
        """Why the failed ones among them failed, where an expression may ask for it."""
        causes = {t.task: _cause(t, states) for t in live if t.state == TaskState.FAILED and t.task in run.plan.read}
        found, missing = self._look(run.id, list(causes.values()), TaskState.FAILED)
        if missing:
            found.update(await self._record.errors(run.id, missing))
        return {task: _told(found[cause]) for task, cause in causes.items() if cause in found}

    def _look(self, run: str, tasks: Sequence[int], state: TaskState) -> tuple[dict[int, bytes], list[int]]:
        """What is kept, and what is not."""
        kept = self._kept
        found = {task: kept[run, task, state][1] for task in tasks if (run, task, state) in kept}
        return found, [task for task in tasks if task not in found]

    async def _decode(self, data: bytes) -> Any:
        artifact = artifact_of(data)
        try:
            return msgspec.json.decode(data if artifact is None else await self._record.get_artifact(artifact))
        except (NotFoundError, ValueError, RecursionError) as error:
            raise UnreadableError(f"the output of a task that it reads cannot be had: {error}") from None

    async def _read_stream(self) -> None:
        """Takes over what some expression reads of all that the engine told since the last look."""
        while events := await self._engine.events(self._seen, 10_000):
            self._seen = events[-1].n
            for event in events:
                state = _KEPT.get(event.kind)
                data = failure(event.error, event.reason) if state is TaskState.FAILED else event.output
                if state is None or not data:
                    continue
                run = self._catalog.known(event.run)
                # Of a run that is not known yet everything is kept: who reads what is seen only when it is.
                if run is None or event.task >= len(run.plan.names) or event.task in run.plan.read:
                    self._keep((event.run, event.task, state), event.n, data)
        if self._bytes > KEEP_BYTES:
            await self._drop_recorded()

    def _keep(self, key: tuple[str, int, TaskState], n: int, data: bytes) -> None:
        self._bytes += len(data) - len(self._kept.pop(key, (0, b""))[1])
        self._kept[key] = (n, data)

    async def _drop_recorded(self) -> None:
        """Drops the oldest, as long as the record has them: those above the mark are nowhere else."""
        mark = await self._engine.mark()
        while self._kept and self._bytes > KEEP_BYTES:
            n, data = next(iter(self._kept.values()))
            if n > mark:
                return
            self._kept.popitem(last=False)
            self._bytes -= len(data)


def _indexes(seen: LiveTask) -> Sequence[int]:
    return range(seen.first, seen.first + seen.children) if seen.first >= 0 else (seen.task,)


def _cause(seen: LiveTask, states: Mapping[int, int]) -> int:
    """The task whose error tells why this one failed: for a map, its first failed child."""
    return next((task for task in _indexes(seen) if states.get(task) == TaskState.FAILED), seen.task)


def _told(data: bytes) -> dict[str, str]:
    try:
        error = msgspec.json.decode(data, type=ErrorInfo)
    except (ValueError, RecursionError) as trouble:
        raise UnreadableError(f"the error of a task that it reads cannot be had: {trouble}") from None
    return {"type": error.type, "message": error.message}


def _value(seen: LiveTask, found: Mapping[int, Any], states: Mapping[int, int]) -> Any:
    if seen.first >= 0:
        if seen.state != TaskState.SUCCEEDED:
            return None
        return [found.get(task) if states.get(task) == TaskState.SUCCEEDED else None for task in _indexes(seen)]
    return found.get(seen.task) if seen.state == TaskState.SUCCEEDED else None
