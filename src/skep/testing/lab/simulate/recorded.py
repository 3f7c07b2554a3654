"""A run that really took place, to be simulated again: its workflow, and how long its attempts took."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from skep.errors import NotFoundError
from skep.flow.plan import compile_plan
from skep.model.run import AttemptView
from skep.model.spec import WorkflowSpec
from skep.record.protocol import Expansion
from skep.record.sql import SqlRecord
from skep.testing.lab.simulate.fleetfile import SimulatedNode
from skep.testing.lab.simulate.work import Work, work_of
from skep.wiring.data import RECORD_FILE


class History(NamedTuple):
    """What the record has of a run."""

    id: str
    spec: WorkflowSpec
    attempts: Mapping[int, Sequence[AttemptView]]
    maps: Sequence[Expansion]


def read_history(home: Path, run: str) -> History:
    """The run of this id, or of this beginning of one, in a data directory. Raises NotFoundError, RecordError."""
    path = home / RECORD_FILE
    if not path.is_file():
        raise NotFoundError(f"there is neither a file nor a run {run}: {home} has no record; name its --data")
    return asyncio.run(_read(path, run))


async def _read(path: Path, run: str) -> History:
    record = SqlRecord(path)
    await record.open()
    try:
        id = await record.find_run(run)
        row = await record.run(id)
        spec = WorkflowSpec.decode(await record.definition(row.digest))
        return History(id, spec, await record.attempts(id), await record.expansions(id))
    finally:
        await record.close()


def work_of_history(history: History, nodes: Sequence[SimulatedNode]) -> Work:
    """The run as work. An attempt on a node that the fleet has too took as long as that node's speed says, any other one ran
    at speed 1; a task that did not succeed takes as long as its workflow says, or is assumed to."""
    speeds = {node.info.id: node for node in nodes}
    work = work_of(compile_plan(history.spec), f"{history.spec.name} {history.id[:13]}")
    counts = dict.fromkeys(work.children, 0)
    counts.update({one.parent: one.count for one in history.maps})
    work = Work(work.name, work.plan, work.ms, counts)
    ms = work.step_ms.copy()
    unknown = 0
    for step, base in enumerate(work.bases):
        at = step if step == base else _index(history.maps, base, step - work.first[base])
        took = _took_ms(history.attempts.get(at, ()), work.type(base), speeds)
        if step in work.alone:
            continue
        if took is not None:
            ms[step] = took
        else:
            unknown += 1
    said = [f"{unknown} tasks did not succeed then: they take what the workflow says, or 10 s"] if unknown else []
    return Work(work.name, work.plan, work.ms, counts, said, steps_ms=np.array(ms))


def _index(maps: Sequence[Expansion], parent: int, child: int) -> int:
    return next((one.first + child for one in maps if one.parent == parent), -1)


def _took_ms(attempts: Sequence[AttemptView], type: str, speeds: Mapping[str, SimulatedNode]) -> float | None:
    """How long the attempt that succeeded would have taken at speed 1."""
    for attempt in attempts:
        if attempt.state == "succeeded" and attempt.started_ms is not None and attempt.finished_ms is not None:
            node = speeds.get(attempt.node or "")
            return (attempt.finished_ms - attempt.started_ms) * (node.speed(type) if node else 1.0)
    return None
