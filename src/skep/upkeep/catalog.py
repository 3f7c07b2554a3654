"""What the loops know of definitions and of the runs in hand: a cache in front of the record."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import msgspec

from skep.errors import NotFoundError
from skep.flow.plan import SLOT_MS, Plan, compile_plan
from skep.flow.task import priority_of
from skep.model.run import Shape
from skep.model.spec import WorkflowSpec
from skep.record.protocol import Record, RunRow
from skep.upkeep.wishes import Wishes

PLANS = 256
"""Compiled definitions kept,"""
PLAN_TASKS = 1_000_000
"""as long as they have no more tasks than this in all: one of them takes about a kilobyte."""
RUNS = 50_000
"""Runs kept; one that is needed again is read from the record."""
INPUT_BYTES = 256 * 1024 * 1024
"""Of their inputs, as JSON."""
LARGE = 2_000
"""Tasks of a workflow that takes long to compile: some 10 ms a thousand."""


async def compiled(spec: WorkflowSpec) -> Plan:
    """The plan of a workflow, made in a thread when it is a large one: nodes and clients are answered meanwhile. Raises
    SpecError."""
    return compile_plan(spec) if len(spec.tasks) <= LARGE else await asyncio.to_thread(compile_plan, spec)


class RunContext:
    """One run, as decisions need it."""

    __slots__ = (
        "accepted_ms",
        "base",
        "depth",
        "families",
        "id",
        "inputs",
        "items",
        "namespace",
        "parent",
        "paused",
        "plan",
        "priority",
        "run",
        "size",
        "timeout_ms",
        "wishes",
    )

    def __init__(self, row: RunRow, plan: Plan, wishes: Wishes) -> None:
        self.id = row.id
        self.namespace = row.namespace
        self.plan = plan
        self.wishes = wishes
        self.families: list[tuple[int, int, int]] = []
        """(parent, first, count) of its maps, as far as somebody was told of them."""
        self.priority = row.priority
        self.accepted_ms = row.accepted_ms
        self.timeout_ms = row.timeout_ms
        self.paused = row.paused
        self.base = row.base
        self.depth = row.depth
        self.parent = row.parent
        self.inputs: Mapping[str, Any] = msgspec.json.decode(row.inputs)
        self.size = len(row.inputs)
        """Bytes of the inputs as JSON."""
        self.run = {"id": row.id, "workflow": row.workflow, "namespace": row.namespace}
        self.items: dict[int, list[Any]] = {}
        """Map parent to the list it was expanded over."""

    def written(self, task: int) -> int:
        """The index of the task as its workflow has it; of a map child: that of its parent. -1: not known."""
        if task < len(self.plan.names):
            return task
        return next((parent for parent, first, count in self.families if first <= task < first + count), -1)

    @property
    def shape(self) -> Shape:
        """The plan's shape, at this run's priority."""
        shape = self.plan.shape
        if not self.priority or self.priority == self.plan.spec.priority:
            return shape
        specs, default = self.plan.spec.tasks, self.plan.spec.priority
        order = [
            ms + (priority_of(spec, self.priority) - priority_of(spec, default)) * SLOT_MS
            for ms, spec in zip(shape.order_ms, specs, strict=True)
        ]
        return msgspec.structs.replace(shape, order_ms=order)


class Catalog:
    """Plans by digest and runs by id, both bounded, least recently used first to go."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._plans: OrderedDict[str, Plan] = OrderedDict()
        self._wishes: dict[str, Wishes] = {}
        """Of those plans of which there were runs."""
        self._tasks = 0
        """Of all plans."""
        self._runs: OrderedDict[str, RunContext] = OrderedDict()
        self._bytes = 0
        """Of the inputs of all runs."""

    def keep_plan(self, plan: Plan) -> None:
        """Makes a compiled definition known. The last one stays, however large it is."""
        before = self._plans.pop(plan.digest, None)
        self._plans[plan.digest] = plan
        self._tasks += len(plan.names) - (len(before.names) if before is not None else 0)
        while len(self._plans) > PLANS or (self._tasks > PLAN_TASKS and len(self._plans) > 1):
            _, gone = self._plans.popitem(last=False)
            self._tasks -= len(gone.names)
            self._wishes.pop(gone.digest, None)

    def kept_plan(self, digest: str) -> Plan | None:
        """The compiled definition, if it is at hand."""
        return self._plans.get(digest)

    async def plan(self, digest: str) -> Plan:
        """The compiled definition. Raises NotFoundError."""
        plan = self._plans.get(digest)
        if plan is None:
            plan = await compiled(WorkflowSpec.decode(await self._record.definition(digest)))
            self.keep_plan(plan)
        else:
            self._plans.move_to_end(digest)
        return plan

    def wishes(self, plan: Plan) -> Wishes:
        """What its tasks ask of the router: one object for all runs of the plan."""
        found = self._wishes.get(plan.digest)
        if found is None:
            found = Wishes(plan)
            if plan.digest in self._plans:
                self._wishes[plan.digest] = found
        return found

    async def take(self, row: RunRow) -> RunContext:
        """Makes a recorded run known."""
        if row.id not in self._runs:
            plan = await self.plan(row.digest)
            if row.id not in self._runs:  # still: there is one object for a run
                self._keep(RunContext(row, plan, self.wishes(plan)))
        return self._runs[row.id]

    def _keep(self, run: RunContext) -> None:
        self._runs[run.id] = run
        self._bytes += run.size
        while len(self._runs) > RUNS or (self._bytes > INPUT_BYTES and len(self._runs) > 1):
            self.forget(next(iter(self._runs)))

    def known(self, run: str) -> RunContext | None:
        found = self._runs.get(run)
        if found is not None:
            self._runs.move_to_end(run)
        return found

    async def run(self, run: str) -> RunContext | None:
        """The run; None when the record does not have it."""
        known = self.known(run)
        if known is not None:
            return known
        try:
            return await self.take(await self._record.run(run))
        except NotFoundError:
            return None

    def forget(self, run: str) -> None:
        gone = self._runs.pop(run, None)
        if gone is not None:
            self._bytes -= gone.size
