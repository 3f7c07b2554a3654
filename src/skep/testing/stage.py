"""A server's parts on a clock that stands still, and nodes that act by a script: every step of a run in the test's hand."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, NamedTuple

import msgspec

from skep.clock import ManualClock
from skep.engine.memory import MemoryEngine
from skep.hub.core import Core
from skep.hub.feed import Feed
from skep.hub.runs import Runs
from skep.hub.work import Work
from skep.loop import Loop
from skep.model.authoring import build_workflow
from skep.model.event import Event
from skep.model.node import Adopted, Call, ErrorInfo, Grant, Held, NodeInfo, Outcome, Stop
from skep.model.run import RunView, Token
from skep.model.spec import WorkflowSpec
from skep.record.protocol import EngineRow
from skep.record.sql import SqlRecord
from skep.upkeep.catalog import Catalog
from skep.upkeep.learn import Learner
from skep.upkeep.load import LoadLoop
from skep.upkeep.outputs import Outputs
from skep.upkeep.place import PlaceLoop
from skep.upkeep.ranks import Ranks
from skep.upkeep.rejoin import Rejoin
from skep.upkeep.routing import Routing
from skep.upkeep.timers import PromoteLoop, ReapLoop
from skep.upkeep.transcribe import TranscribeLoop

ENGINE_ID: Final = "engine"
EPOCH: Final = 1_750_000_000


class Failed(NamedTuple):
    """An attempt that raises."""

    type: str = "Boom"
    message: str = "no"


class Snoozed(NamedTuple):
    """An attempt that asks to come again."""

    in_ms: int


class Raw(NamedTuple):
    """The bytes of an output, such as the reference to an artifact."""

    output: bytes


HOLD: Final = object()
"""An attempt that goes on until `finish`."""

Act = Callable[[Grant], Any]
"""What an attempt gives: a JSON value, or one of the above."""


class ScriptedNode:
    """A node that does what its script says of a task's name, or of its map parent's; whatever is not in it gives null."""

    def __init__(self, nodes: Work, info: NodeInfo, script: Mapping[str, Any]) -> None:
        self.info = info
        self.script = script
        self.started: list[str] = []
        """Names in the order of their grants."""
        self.calls: dict[str, Call] = {}
        """The last call of each task."""
        self.held: dict[str, Grant] = {}
        self.stops: list[tuple[str, str]] = []
        """(name, reason)."""
        self.deaf = False
        """Whether it leaves stops unanswered."""
        self.outcomes: list[Outcome] = []
        """How its attempts ended: all of it is presented to the next server."""
        self._nodes = nodes
        self._seen = 0
        self._names: dict[Token, str] = {}

    async def turn(self) -> bool:
        """Takes what there is and reports what has ended. False when there was nothing."""
        entries = await self._nodes.take(self.info.id, self.info.incarnation, self._seen, 10_000)
        outcomes: list[Outcome] = []
        for number, entry in entries:
            self._seen = number
            if isinstance(entry, Grant):
                outcomes += self._begin(entry)
            elif isinstance(entry, Stop):
                outcomes += self._stop(entry)
            elif isinstance(entry, Adopted):
                self._adopted(entry)
        if outcomes:
            self.outcomes += outcomes
            await self._nodes.report(outcomes)
        return bool(entries)

    async def finish(self, name: str, result: Any = None) -> str:
        """Ends a held attempt; answers what the engine said to it."""
        return (await self._nodes.report([self.end(name, result)]))[0]

    def end(self, name: str, result: Any = None) -> Outcome:
        """Ends a held attempt while no server hears of it."""
        self.outcomes.append(_outcome(self.held.pop(name), result))
        return self.outcomes[-1]

    async def rejoin(self, stage: Stage) -> None:
        """Comes to the next server with what it has; returns when that is taken up."""
        self._nodes, self._seen = stage.hub.work, 0
        stage.nodes.append(self)
        await self._nodes.register(self.info, beats=False)
        held = [Held(grant) for grant in self.held.values()]
        await self._nodes.present(self.info.id, self.info.incarnation, held, self.outcomes)

    def _begin(self, grant: Grant) -> list[Outcome]:
        self.started.append(grant.name)
        self.calls[grant.name] = msgspec.json.decode(grant.call, type=Call)
        self._names[grant.token] = grant.name
        act = self.script.get(grant.name, self.script.get(grant.name.partition("[")[0]))
        result = act(grant) if callable(act) else act
        if result is HOLD:
            self.held[grant.name] = grant
            return []
        return [_outcome(grant, result)]

    def _adopted(self, adopted: Adopted) -> None:
        name = self._names[adopted.token] = self._names[adopted.old]
        self.held[name] = msgspec.structs.replace(self.held[name], token=adopted.token)

    def _stop(self, stop: Stop) -> list[Outcome]:
        name = self._names[stop.token]
        self.stops.append((name, stop.reason))
        if self.deaf or name not in self.held:
            return []
        grant = self.held.pop(name)
        if stop.reason == "deadline":
            return [_outcome(grant, Failed("Deadline", "too late"))]
        return [msgspec.structs.replace(_outcome(grant, None), result="cancelled", output=b"")]


def _outcome(grant: Grant, result: Any) -> Outcome:
    how: dict[str, Any] = {"result": "succeeded", "output": msgspec.json.encode(result)}
    if isinstance(result, Failed):
        how = {"result": "failed", "error": ErrorInfo(*result)}
    elif isinstance(result, Snoozed):
        how = {"result": "snoozed", "delay_ms": result.in_ms}
    elif isinstance(result, Raw):
        how["output"] = result.output
    own: dict[str, Any] = {key: getattr(grant, key) for key in ("attempt", "failures", "parent", "child")}
    return Outcome(grant.run, grant.task, grant.token, **own, **how)


class Stage:
    """One server. Its loops stand still unless `go` (or one of them) is told to do its passes."""

    def __init__(
        self,
        record: SqlRecord | None = None,
        engine: MemoryEngine | None = None,
        *,
        clock: ManualClock | None = None,
        expected: Sequence[str] | None = None,
    ) -> None:
        """`record`, `engine`, `clock`: another stage's, for a second server beside it. `expected`: nodes for which it waits,
        being the next server on its record; see `reopened`."""
        self.second = engine is not None
        self.clock = clock or ManualClock()
        self.record = record or SqlRecord(None, inline=True)
        self.engine = engine or MemoryEngine(self.clock, EPOCH)
        self.catalog = Catalog(self.record)
        self.outputs = Outputs(self.engine, self.record, self.catalog)
        self.feed = Feed()
        self.load = LoadLoop(self.engine, self.record, self.catalog, self.clock, ENGINE_ID)
        self.routing = Routing()
        self.load.ranks = Ranks(self.routing, self.engine, self.clock)
        self.learner = Learner(self.record, self.catalog, self.routing, ENGINE_ID)
        self.place = PlaceLoop(self.engine, self.catalog, self.outputs, self.clock, self.routing)
        self.transcribe = TranscribeLoop(self.engine, self.record, ENGINE_ID, self._told, self._missed)
        self.place.mark = lambda: self.transcribe.mark
        self.promote = PromoteLoop(self.engine, self.clock)
        self.reap = ReapLoop(self.engine, self.clock)
        self.loops: list[Loop] = [self.load, self.place, self.promote, self.reap, self.transcribe]
        runs = Runs(self.record, self.catalog, self.load, self.feed, self.clock, ENGINE_ID)
        work = Work(self.engine, self.record, self.catalog, self.clock, chance=lambda: 0.5)
        self.hub = Core(runs=runs, work=work, feed=self.feed, clock=self.clock)
        self.rejoin: Rejoin | None = None
        if expected is not None:
            self.rejoin = Rejoin(self.engine, self.load, self.place, work.report, expected)
            work.presenter = self.rejoin
        self.woken = asyncio.Event()
        """Set when something came to be offered to nodes."""
        self.engine.listen("ready", self.woken.set)
        self.nodes: list[ScriptedNode] = []
        self.told: list[Event] = []
        """What the feed was told."""
        self.missed = 0
        """How often another transcriber had recorded and trimmed what was not told here."""

    async def __aenter__(self) -> Stage:
        if not self.second:
            await self.record.open()
            row = EngineRow(id=ENGINE_ID, epoch=EPOCH, mark=0, process="test", embedded=False)
            assert await self.record.open_engine(row, after_epoch=0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for loop in self.loops:
            await loop.stop()
        self.learner.forget()
        if not self.second:
            await self.record.close()

    async def reopened(self, *expected: str) -> Stage:
        """The next server on the same record: of this one it knows what was transcribed. It has not loaded anything yet."""
        row = await self.record.engine(ENGINE_ID)
        assert row is not None
        opened = msgspec.structs.replace(row, epoch=row.epoch + 1, mark=0)
        assert await self.record.open_engine(opened, after_epoch=row.epoch)
        return Stage(self.record, MemoryEngine(self.clock, opened.epoch), clock=self.clock, expected=expected)

    async def take_up(self, *nodes: ScriptedNode) -> None:
        """Loads what is unfinished, and goes through the rejoin with these nodes."""
        assert self.rejoin is not None
        while not self.load.caught_up.is_set():
            await self.pass_(self.load, self.transcribe)
            self.clock.advance(1)
        await asyncio.gather(*(node.rejoin(self) for node in nodes), self.rejoin.run())

    async def _missed(self) -> None:
        self.missed += 1

    def _told(self, events: Sequence[Event]) -> None:
        for event in events:
            if event.kind == "ended":
                self.load.forget(event.run)
        self.told += events
        self.learner.told(events)
        self.hub.work.recorded(events[-1].n)
        self.feed.publish(events)

    async def node(self, name: str = "n", slots: int = 100, script: Mapping[str, Any] = {}, **info: Any) -> ScriptedNode:
        """A node that joins; it has cores enough for all of its slots."""
        made = NodeInfo(name, slots=slots, **({"cpu_milli": slots * 1_000} | info))
        node = ScriptedNode(self.hub.work, made, script)
        await self.hub.work.register(made, beats=False)
        self.nodes.append(node)
        return node

    async def submit(self, tasks: Mapping[str, Any], values: Mapping[str, Any] | None = None, **given: Any) -> str:
        """Accepts a run of a workflow of these tasks, each a millisecond later than the one before. `values`: its inputs."""
        self.clock.advance(1)
        options = {key: given.pop(key) for key in ("run_id", "idempotency_key", "life") if key in given}
        return await self.hub.runs.submit(workflow(tasks, **given), values, **options)

    async def pass_(self, *loops: Loop) -> None:
        """Passes of these loops, each until it has nothing more to do at once."""
        for loop in loops:
            while await loop.run_once():
                pass

    async def go(self, ms: int = 0) -> None:
        """Moves the clock, then lets everything happen that can happen by itself."""
        self.clock.advance(ms)
        moved = True
        while moved:
            before = self.engine.core.n, self.transcribe.mark
            self.woken.clear()
            await self.pass_(*self.loops)
            acted = [await node.turn() for node in self.nodes]
            moved = any(acted) or self.woken.is_set() or before != (self.engine.core.n, self.transcribe.mark)

    async def run(self, tasks: Mapping[str, Any], values: Mapping[str, Any] | None = None, **given: Any) -> RunView:
        """Submits, lets everything happen, and looks."""
        run = await self.submit(tasks, values, **given)
        await self.go()
        return await self.hub.runs.view(run)

    async def states(self, run: str) -> dict[str, str]:
        """Task names to states as recorded, with the reason where there is one."""
        view = await self.hub.runs.view(run)
        return {task.name: f"{task.state} {task.reason or ''}".rstrip() for task in view.tasks}

    async def end(self, run: str) -> tuple[str, str | None]:
        """State and reason of the run as recorded."""
        view = await self.hub.runs.view(run)
        return view.state, view.reason


def workflow(tasks: Mapping[str, Any], **given: Any) -> WorkflowSpec:
    """A workflow as YAML would give it."""
    return build_workflow({"name": "w", "tasks": tasks} | given)


def counted(events: Sequence[Event]) -> Counter[str]:
    """How often each kind was told."""
    return Counter(event.kind for event in events)
