"""Place: every ready task passes here once. What becomes of it is `flow.decide`, where it goes `router.route`; the engine
applies both only if the task is still ready at the version that was decided on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from itertools import groupby, repeat
from operator import attrgetter
from typing import Any, NamedTuple, TypeAlias

import msgspec

from skep.clock import Clock
from skep.engine.protocol import CHANGED, FULL, OK, PAUSED, WAITING, Engine, ReadyClass, Settle
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
from skep.router.fair import FairShare, Offer
from skep.router.fit import least_loaded
from skep.router.wanted import Wanted
from skep.upkeep.catalog import Catalog, RunContext
from skep.upkeep.decisions import Granted
from skep.upkeep.outputs import Outputs, UnreadableError
from skep.upkeep.routing import Attempt, Routing

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
HELD_MS = 1_000
"""What is held back for a busy node is looked at again after so long, though nothing has happened."""
EVERYWHERE = "*"
BEHIND_OTHERS = frozenset({"held", "unhealthy"})
"""Reasons for which a task finds no place, although those behind it may."""

_encode = msgspec.json.Encoder().encode


@lru_cache(maxsize=4_096)
def requirement_of(name: str) -> Requirement:
    """The requirement that a class' name stands for."""
    return msgspec.json.decode(name, type=Requirement)


class Candidate(NamedTuple):
    """A ready task that shall start."""

    name: str
    """Of its requirement class."""
    seen: ReadyTask
    run: RunContext
    task: TaskPlan
    start: Start


Grant: TypeAlias = tuple[Candidate, str, Wanted | None]
"""What starts, on which node, and what the router was asked for it."""


class PlaceLoop(Loop):
    """Decides on ready tasks and grants them to nodes."""

    name = "place"

    def __init__(
        self, engine: Engine, catalog: Catalog, outputs: Outputs, clock: Clock, routing: Routing | None = None
    ) -> None:
        super().__init__()
        self._engine = engine
        self._catalog = catalog
        self._outputs = outputs
        self._clock = clock
        self.routing = routing or Routing()
        self.fair = FairShare()
        """Between namespaces."""
        self._shared = False
        """Whether several wanted something in this pass."""
        self._facts: dict[tuple[str, tuple[str, ...]], Facts] = {}
        """What was looked up in this pass, by run and names of tasks: the children of a map look at the same."""
        self._deep_ms = 0
        self._free = MOST
        """Slots that were free when it last looked."""
        self._held = 0
        """Tasks that were held back in the last pass: those behind them may find room."""
        self.mark: Callable[[], int] = lambda: self._engine.heard
        """The last event that is recorded, as the transcriber knows it."""
        self.on_placed: Callable[[Sequence[Granted]], None] = lambda placed: None
        """Told of what got its node where there is more than one."""
        self.unplaced: dict[str, int] = {}
        """Requirement class to ready tasks seen that found no place in the last pass."""
        self.why: dict[str, Counter[str]] = {}
        """The same by reason: `paused`, or a word of `Choice.why`."""
        self.paused: set[str] = set()
        """Namespaces of which nothing is started; `*`: of none. What needs nobody goes on: skips, and maps that unfold."""
        self.crowded = False
        """Whether the engine's store has no room for more: what runs may end, and makes some."""
        self.waits = False
        """Whether nothing at all is to be decided: nodes may still come with work that is under way."""

    async def run_once(self) -> bool:
        if self.waits or self.crowded or self._engine.heard - self.mark() > BACKLOG:
            return False
        limit = min(max(self._free + 2 * self._held, LEAST), MOST)
        found, classes = await self._engine.survey(self._depth(limit))
        self.unplaced, self.why, self._held = {}, {}, 0
        if not classes:
            self.fair.round((), self._clock.now_ms())
            return False
        nodes = [node for node in found if not node.coming]
        self._free = sum(node.free["slots"] for node in nodes if not node.draining)
        behind = any(len(ready.tasks) >= limit for ready in classes)
        items: list[EngineDecision] = []
        starts: list[tuple[ReadyClass, list[Candidate]]] = []
        self._facts.clear()
        for ready in classes:
            first, rest = ready.tasks[:limit], ready.tasks[limit:]
            first += [seen for seen in rest if seen.failing or seen.unmet]  # they hardly ever need a node
            candidates: list[Candidate] = []
            items += await self._decide_class(ready, first, candidates)
            if candidates:
                starts.append((ready, candidates))
        now_ms = self._clock.now_ms()
        granted = self._route(self._in_turn(starts, nodes, now_ms), nodes, now_ms)
        more = behind and (self._free > limit or (self._held > 0 and self._free > len(granted) and limit < MOST))
        if not items and not granted:
            return more
        settled = len(items)
        items += [self._start(candidate, node, now_ms) for candidate, node, _ in granted]
        answers = await self._engine.place(items)
        self._note(granted, answers[settled:], now_ms)
        moved = await self._after(items, answers)
        # What was skipped or expanded made others ready, which woke us; a full pass of starts may have left some behind.
        return moved or more or len(items) >= MOST

    async def _wait(self, seconds: float) -> None:
        await super()._wait(min(seconds, HELD_MS / 1_000) if self._held else seconds)

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
        self, ready: ReadyClass, tasks: Sequence[ReadyTask], starts: list[Candidate]
    ) -> list[EngineDecision]:
        """What needs no node; what does is added to `starts`."""
        paused = ready.namespace in self.paused or EVERYWHERE in self.paused
        items: list[EngineDecision] = []
        for seen in tasks:
            run = self._catalog.known(seen.run) or await self._catalog.run(seen.run)
            if run is None:
                continue
            task = _plan(run, seen)
            call = _certain(task, seen)
            decision = Start(call) if call is not None else await self._decide(run, task, seen)
            if isinstance(decision, Start):
                if paused:
                    self._unplaced(ready.name, "paused")
                else:
                    starts.append(Candidate(ready.name, seen, run, task, decision))
            elif decision is not None and not (paused and isinstance(decision, Park)):
                items.append(_settled(run, seen, decision))
        return items

    def _in_turn(
        self, starts: Sequence[tuple[ReadyClass, list[Candidate]]], nodes: Sequence[LiveNode], now_ms: int
    ) -> list[Candidate]:
        """The order in which they are offered to nodes: in fair shares between namespaces, by score within each."""
        self._shared = len({ready.namespace for ready, _ in starts}) > 1
        if not self._shared:
            self.fair.round((), now_ms)
            found = [candidate for _, some in starts for candidate in some]
            return found if len(starts) < 2 else sorted(found, key=_score)
        rooms = self.routing.rooms([requirement_of(ready.name) for ready, _ in starts], nodes)
        offers = [
            Offer(ready.namespace, [candidate.seen.score for candidate in some] if room is not None else (), ready.running)
            for (ready, some), room in zip(starts, rooms, strict=True)
        ]
        turns: list[Candidate] = []
        given = [0] * len(starts)
        round = self.fair.round(offers, now_ms)
        for number, at in round:
            if at < (rooms[number] or 0):
                turns.append(starts[number][1][at])
                given[number] = at + 1
            else:
                round.full()
        # What there is no room for comes last: only why is asked.
        return turns + [candidate for (_, some), count in zip(starts, given, strict=True) for candidate in some[count:]]

    def _route(self, starts: list[Candidate], nodes: Sequence[LiveNode], now_ms: int) -> list[Grant]:
        """Those that start now, each with its node."""
        granted: list[Grant] = []
        if len(nodes) > 1 and starts:
            wanted = [_wanted(candidate, now_ms) for candidate in starts]
            choices = self.routing.choose(wanted, nodes, now_ms)
            for candidate, asked, choice in zip(starts, wanted, choices, strict=True):
                if choice.node:
                    granted.append((candidate, choice.node, asked))
                else:
                    self._unplaced(candidate.name, choice.why)
                    self._held += choice.why in BEHIND_OTHERS
            return granted
        for name, group in groupby(starts, attrgetter("name")):
            some = list(group)
            fit = least_loaded(requirement_of(name), len(some), nodes)
            granted += zip(some, fit, repeat(None))
            if len(fit) < len(some):
                self._unplaced(name, "full", len(some) - len(fit))
        return granted

    def _unplaced(self, name: str, why: str, count: int = 1) -> None:
        self.unplaced[name] = self.unplaced.get(name, 0) + count
        self.why.setdefault(name, Counter())[why] += count

    def _note(self, granted: Sequence[Grant], answers: Sequence[str], now_ms: int) -> None:
        """Tells of what began, and of what the engine refused nothing."""
        if self._shared:
            for (candidate, *_), answer in zip(granted, answers, strict=True):
                if answer == OK:
                    self.fair.started(candidate.run.namespace, 1)
        if self.routing.router is None:
            return
        placed: list[Granted] = []
        for (candidate, node, asked), answer in zip(granted, answers, strict=True):
            if answer == OK:
                _, seen, run, *_ = candidate
                wanted, number = asked or _wanted(candidate, now_ms), seen.attempts + 1
                self.routing.began(Attempt(run.id, seen.task, number), node, wanted.kind, now_ms)
                placed.append(Granted(run.id, seen.task, number, node, wanted))
        self.on_placed(placed)

    async def _decide(self, run: RunContext, task: TaskPlan, seen: ReadyTask) -> Decision | None:
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

    def _start(self, candidate: Candidate, node: str, now_ms: int) -> EngineStart:
        _, seen, run, task, start = candidate
        name = run.plan.names[seen.task] if seen.parent < 0 else f"{run.plan.names[seen.parent]}[{seen.child}]"
        place = run.id, seen.task, seen.version, seen.failing, node, name
        left_ms = _left_ms(candidate, now_ms) if task.deadline_ms else 0
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


def _certain(task: TaskPlan, seen: ReadyTask) -> bytes | None:
    """The call, where nothing else needs to be looked at: the task starts."""
    if task.constant_call is None or seen.unmet or (seen.failing and not seen.attempts):
        return None
    if task.simple or (seen.child >= 0 and not task.item_when and not task.locks and task.affinity is None):
        return task.constant_call
    return None


def _score(candidate: Candidate) -> int:
    return candidate.seen.score


def _at(seen: ReadyTask) -> int:
    """The task as the workflow has it: of a map child, its parent."""
    return seen.task if seen.parent < 0 else seen.parent


def _plan(run: RunContext, seen: ReadyTask) -> TaskPlan:
    """What is planned for the task; for a map child, what its parent's plan says."""
    return run.plan.tasks[_at(seen)]


def _left_ms(candidate: Candidate, now_ms: int) -> int:
    """How long until its deadline; 0: it has none."""
    deadline_ms = candidate.task.deadline_ms
    return max(candidate.run.accepted_ms + deadline_ms - now_ms, 1) if deadline_ms else 0


def _wanted(candidate: Candidate, now_ms: int) -> Wanted:
    _, seen, run, task, start = candidate
    return run.wishes.wanted(_at(seen), task, start, _left_ms(candidate, now_ms))


def _settled(run: RunContext, seen: ReadyTask, decision: Skip | Expand | Park | Fail) -> EngineDecision:
    if isinstance(decision, Park):
        return EnginePark(run.id, seen.task, seen.version, seen.failing, decision.wait.kind, decision.wait.encode())
    if isinstance(decision, Expand):
        return EngineExpand(run.id, seen.task, seen.version, seen.failing, len(decision.items))
    if isinstance(decision, Skip):
        return Settle(run.id, seen.task, seen.version, TaskState.SKIPPED, reason=decision.reason)
    error = _encode(decision.error)
    return Settle(run.id, seen.task, seen.version, TaskState.FAILED, reason=decision.error.type.lower(), error=error)
