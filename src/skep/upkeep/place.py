"""Place: every ready task passes here once. What becomes of it is `flow.decide`, where it goes `router.route`; the engine
applies both only if the task is still ready at the version that was decided on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from skep.clock import Clock
from skep.engine.protocol import CHANGED, FULL, OK, PAUSED, WAITING, Engine, Settle
from skep.engine.protocol import Decision as EngineDecision
from skep.engine.protocol import Expand as EngineExpand
from skep.engine.protocol import Park as EnginePark
from skep.engine.protocol import Start as EngineStart
from skep.errors import NotFoundError
from skep.flow.decide import Decision, Expand, Facts, Fail, Park, Skip, Start, decide, items_of
from skep.flow.evaluation import ExpressionError
from skep.flow.task import TaskPlan
from skep.loop import Loop
from skep.model.node import ErrorInfo, LiveNode, Requirement
from skep.model.run import MAX_TASKS, ReadyTask
from skep.model.state import TaskState
from skep.router.fit import least_loaded
from skep.upkeep.catalog import Catalog, RunContext
from skep.upkeep.outputs import Outputs, UnreadableError

LEAST = 64
"""Tasks of a class looked at in one pass, however little is free: what is to be skipped needs no node."""
MOST = 1_000
DEEP = 5_000
"""Tasks of a class looked at once in `DEEP_MS`: a run that fails ends soon, however many others wait before its tasks."""
DEEP_MS = 1_000
ALL = 1_000_000
"""More ready tasks than there can be."""
BACKLOG = 500_000
"""Unrecorded events beyond which nothing more is started."""
EVERYWHERE = "*"

_encode = msgspec.json.Encoder().encode


@lru_cache(maxsize=4_096)
def requirement_of(name: str) -> Requirement:
    """The requirement that a class' name stands for."""
    return msgspec.json.decode(name, type=Requirement)


class PlaceLoop(Loop):
    """Decides on ready tasks and grants them to nodes."""

    name = "place"

    def __init__(self, engine: Engine, catalog: Catalog, outputs: Outputs, clock: Clock) -> None:
        super().__init__()
        self._engine = engine
        self._catalog = catalog
        self._outputs = outputs
        self._clock = clock
        self._facts: dict[tuple[str, tuple[str, ...]], Facts] = {}
        """What was looked up in this pass, by run and names of tasks: the children of a map look at the same."""
        self._deep_ms = 0
        self._free = MOST
        """Slots that were free when it last looked."""
        self.mark: Callable[[], int] = lambda: self._engine.heard
        """The last event that is recorded, as the transcriber knows it."""
        self.unplaced: dict[str, int] = {}
        """Requirement class to ready tasks seen for which nothing was free in the last pass."""
        self.paused: set[str] = set()
        """Namespaces of which nothing is started; `*`: of none. What needs nobody goes on: skips, and maps that unfold."""
        self.crowded = False
        """Whether the engine's store has no room for more: what runs may end, and makes some."""
        self.waits = False
        """Whether nothing at all is to be decided: nodes may still come with work that is under way."""

    async def run_once(self) -> bool:
        if self.waits or self.crowded or self._engine.heard - self.mark() > BACKLOG:
            return False
        limit = min(max(self._free, LEAST), MOST)
        found, classes = await self._engine.survey(self._depth(limit))
        self.unplaced = {}
        if not classes:
            return False
        nodes = [node for node in found if not node.coming]
        self._free = sum(node.free["slots"] for node in nodes if not node.draining)
        more = self._free > limit and any(len(ready.tasks) >= limit for ready in classes)
        items: list[EngineDecision] = []
        self._facts.clear()
        for ready in classes:
            first, rest = ready.tasks[:limit], ready.tasks[limit:]
            first += [seen for seen in rest if seen.failing or seen.unmet]  # they hardly ever need a node
            paused = ready.namespace in self.paused or EVERYWHERE in self.paused
            items += await self._decide_class(ready.name, first, () if paused else nodes, paused)
        if not items:
            return False
        answers = await self._engine.place(items)
        settled = await self._after(items, answers)
        # What was skipped or expanded made others ready, which woke us; a full pass of starts may have left some behind.
        return settled or more or len(items) >= MOST

    async def settle(self, runs: Collection[str]) -> bool:
        """Does for these runs what needs neither a node nor anybody else, as far as it goes. True when there was anything."""
        settled = False
        while True:
            while (await self._engine.promote()).more:
                pass
            self._facts.clear()
            items: list[EngineDecision] = []
            for seen in [task for ready in await self._engine.ready(ALL) for task in ready.tasks if task.run in runs]:
                run = await self._catalog.run(seen.run)
                decision = await self._decide(run, _plan(run, seen), seen) if run is not None else None
                if run is not None and decision is not None and not isinstance(decision, Start | Park):
                    items.append(_settled(run, seen, decision))
            if not items or not await self._after(items, await self._engine.place(items)):
                return settled
            settled = True

    def _depth(self, limit: int) -> int:
        now_ms = self._clock.now_ms()
        if not self.unplaced or now_ms - self._deep_ms < DEEP_MS:
            return limit
        self._deep_ms = now_ms
        return DEEP

    async def _decide_class(
        self, name: str, tasks: Sequence[ReadyTask], nodes: Sequence[LiveNode], paused: bool
    ) -> list[EngineDecision]:
        items: list[EngineDecision] = []
        starts: list[tuple[ReadyTask, RunContext, TaskPlan, Start]] = []
        for seen in tasks:
            run = self._catalog.known(seen.run) or await self._catalog.run(seen.run)
            if run is None:
                continue
            task = _plan(run, seen)
            decision = await self._decide(run, task, seen)
            if isinstance(decision, Start):
                starts.append((seen, run, task, decision))
            elif decision is not None and not (paused and isinstance(decision, Park)):
                items.append(_settled(run, seen, decision))
        if starts:
            chosen = least_loaded(requirement_of(name), len(starts), nodes)
            if len(chosen) < len(starts):
                self.unplaced[name] = len(starts) - len(chosen)
            now_ms = self._clock.now_ms()
            items += [self._start(*start, node, now_ms) for start, node in zip(starts, chosen, strict=False)]
        return items

    async def _decide(self, run: RunContext, task: TaskPlan, seen: ReadyTask) -> Decision | None:
        if (
            task.constant_call is not None
            and not seen.unmet
            and (not seen.failing or seen.attempts)
            and (task.simple or (seen.child >= 0 and not task.item_when and not task.locks and task.affinity is None))
        ):
            return Start(task.constant_call)
        names = task.reads if seen.child >= 0 else (*task.reads, *task.map_reads)
        try:
            items = await self._items(run, task, seen) if seen.child >= 0 else None
            decision = decide(await self._look_up(run, names), seen, items)
        except NotFoundError:
            return None  # the run was forgotten in the meantime
        except UnreadableError as error:
            return Fail(ErrorInfo("Output", str(error)))
        except ExpressionError as error:
            return Fail(ErrorInfo("Expression", str(error)))
        if isinstance(decision, Expand):
            run.items[seen.task] = decision.items
        return decision

    async def _look_up(self, run: RunContext, names: tuple[str, ...]) -> Facts:
        facts = self._facts.get((run.id, names))
        if facts is None:
            upstream = await self._outputs.upstream(run, {run.plan.index[name] for name in names}) if names else {}
            facts = self._facts[run.id, names] = Facts(run.plan, run.run, run.inputs, upstream)
        return facts

    async def _items(self, run: RunContext, task: TaskPlan, seen: ReadyTask) -> list[Any]:
        """The list that the parent of a map child was expanded over."""
        items = run.items.get(seen.parent)
        if items is None:
            items = run.items[seen.parent] = items_of(await self._look_up(run, task.map_reads), seen)
        return items

    def _start(self, seen: ReadyTask, run: RunContext, task: TaskPlan, start: Start, node: str, now_ms: int) -> EngineStart:
        name = run.plan.names[seen.task] if seen.parent < 0 else f"{run.plan.names[seen.parent]}[{seen.child}]"
        left_ms = max(run.accepted_ms + task.deadline_ms - now_ms, 1) if task.deadline_ms else 0
        place = run.id, seen.task, seen.version, seen.failing, node, name
        return EngineStart(*place, start.call, task.takes, start.claims, task.timeout_ms, left_ms, run.base)

    async def _after(self, items: Sequence[EngineDecision], answers: Sequence[str]) -> bool:
        """True when tasks left the ready set without a node: those behind them have not been looked at."""
        moved = False
        refused: list[EngineDecision] = []
        for item, answer in zip(items, answers, strict=True):
            if isinstance(item, EngineStart):
                moved = moved or answer in (CHANGED, WAITING, PAUSED)
            elif isinstance(item, EngineExpand) and answer == FULL:
                if await self._too_large(item):
                    refused.append(_refusal(item))
            else:
                moved = moved or answer == OK
        if refused:
            await self._engine.place(refused)
        return moved or bool(refused)

    async def _too_large(self, item: EngineExpand) -> bool:
        """Whether the run itself would have too many tasks; else it waits until other runs have ended."""
        run = await self._catalog.run(item.run)
        if run is None:
            return False
        live = await self._engine.tasks(item.run, range(len(run.plan.names)))
        return len(live) + sum(task.children for task in live if task.task != item.task) + item.count > MAX_TASKS


def _refusal(item: EngineExpand) -> Settle:
    """A map that would be too large fails with the number."""
    message = f"{item.count:,} children: a run may have {MAX_TASKS:,} tasks in all; map over batches"
    error = _encode(ErrorInfo("Map", message))
    return Settle(item.run, item.task, item.version, TaskState.FAILED, reason="map", error=error)


def _plan(run: RunContext, seen: ReadyTask) -> TaskPlan:
    """What is planned for the task; for a map child, what its parent's plan says."""
    return run.plan.tasks[seen.task if seen.parent < 0 else seen.parent]


def _settled(run: RunContext, seen: ReadyTask, decision: Skip | Expand | Park | Fail) -> EngineDecision:
    if isinstance(decision, Park):
        return EnginePark(run.id, seen.task, seen.version, seen.failing, decision.wait.kind, decision.wait.encode())
    if isinstance(decision, Expand):
        return EngineExpand(run.id, seen.task, seen.version, seen.failing, len(decision.items))
    if isinstance(decision, Skip):
        return Settle(run.id, seen.task, seen.version, TaskState.SKIPPED, reason=decision.reason)
    error = _encode(decision.error)
    return Settle(run.id, seen.task, seen.version, TaskState.FAILED, reason=decision.error.type.lower(), error=error)
