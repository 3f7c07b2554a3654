"""What the loops know of definitions and of the runs in hand: a cache in front of the record."""

from __future__ import annotations

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

PLANS = 256
"""Compiled definitions kept."""
RUNS = 50_000
"""Runs kept; one that is needed again is read from the record."""


class RunContext:
    """One run, as decisions need it."""

    __slots__ = (
        "accepted_ms",
        "base",
        "depth",
        "id",
        "inputs",
        "items",
        "namespace",
        "parent",
        "paused",
        "plan",
        "priority",
        "run",
        "timeout_ms",
    )

    def __init__(self, row: RunRow, plan: Plan) -> None:
        self.id = row.id
        self.namespace = row.namespace
        self.plan = plan
        self.priority = row.priority
        self.accepted_ms = row.accepted_ms
        self.timeout_ms = row.timeout_ms
        self.paused = row.paused
        self.base = row.base
        self.depth = row.depth
        self.parent = row.parent
        self.inputs: Mapping[str, Any] = msgspec.json.decode(row.inputs)
        self.run = {"id": row.id, "workflow": row.workflow, "namespace": row.namespace}
        self.items: dict[int, list[Any]] = {}
        """Map parent to the list it was expanded over."""

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
        self._runs: OrderedDict[str, RunContext] = OrderedDict()

    def keep_plan(self, plan: Plan) -> None:
        self._plans[plan.digest] = plan
        if len(self._plans) > PLANS:
            self._plans.popitem(last=False)

    def kept_plan(self, digest: str) -> Plan | None:
        """The compiled definition, if it is at hand."""
        return self._plans.get(digest)

    async def plan(self, digest: str) -> Plan:
        """The compiled definition. Raises NotFoundError."""
        plan = self._plans.get(digest)
        if plan is None:
            plan = compile_plan(WorkflowSpec.decode(await self._record.definition(digest)))
            self.keep_plan(plan)
        else:
            self._plans.move_to_end(digest)
        return plan

    async def take(self, row: RunRow) -> RunContext:
        """Makes a recorded run known."""
        known = self._runs.get(row.id)
        if known is None:
            known = self._runs[row.id] = RunContext(row, await self.plan(row.digest))
            if len(self._runs) > RUNS:
                self._runs.popitem(last=False)
        return known

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
        self._runs.pop(run, None)
