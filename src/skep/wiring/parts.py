"""An engine, its record, the loops between them and the hub in front: what an embedded engine and a server have in common."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence

from skep.clock import Clock
from skep.engine.protocol import Engine
from skep.errors import NotFoundError
from skep.hub.core import Core
from skep.hub.feed import Feed
from skep.hub.prices import Prices
from skep.hub.runs import Runs
from skep.hub.work import Work
from skep.loop import Loop
from skep.model.event import Event
from skep.model.node import LogChunk
from skep.model.state import RunState
from skep.record.protocol import Record
from skep.upkeep.catalog import Catalog
from skep.upkeep.decisions import DecisionLoop
from skep.upkeep.learn import Learner
from skep.upkeep.load import LoadLoop
from skep.upkeep.outputs import Outputs
from skep.upkeep.place import PlaceLoop
from skep.upkeep.ranks import Ranks
from skep.upkeep.routing import Routing
from skep.upkeep.timers import PromoteLoop, ReapLoop
from skep.upkeep.transcribe import TranscribeLoop
from skep.upkeep.waits import WaitLoop
from skep.wiring import policies


async def _nothing() -> None:
    pass


class Parts:
    """Made, not yet started. Whoever starts the loops stops them."""

    def __init__(
        self,
        engine: Engine,
        record: Record,
        clock: Clock,
        engine_id: str,
        feed: Feed,
        chance: Callable[[], float] = random.random,
        server: str = "",
    ) -> None:
        """`server`: the name of this one, where several share the engine."""
        self.engine = engine
        self.record = record
        self.clock = clock
        self.engine_id = engine_id
        self.feed = feed
        self.recorded_ms = 0
        """When the last recorded event happened."""
        self.catalog = Catalog(record)
        self.outputs = Outputs(engine, record, self.catalog)
        self.load = LoadLoop(engine, record, self.catalog, clock, engine_id)
        self.routing = Routing(policies.functions)
        self.load.ranks = Ranks(self.routing, engine, clock)
        self.learner = Learner(record, self.catalog, self.routing, engine_id)
        self.place = PlaceLoop(engine, self.catalog, self.outputs, clock, self.routing)
        self.decisions = DecisionLoop(record, clock)
        """Beside the others: nobody waits for it."""
        self.routing.on_choose, self.place.on_placed = self.decisions.look, self.decisions.offer
        self.transcribe = TranscribeLoop(engine, record, engine_id, self.told, self.missed)
        self.place.mark = lambda: self.transcribe.mark
        self.promote = PromoteLoop(engine, clock)
        self.reap = ReapLoop(engine, clock)
        self.runs = Runs(record, self.catalog, self.load, feed, clock, engine_id)
        self.runs.own_policies = policies.names
        self.work = Work(engine, record, self.catalog, clock, chance, server=server)
        self.work.joins = Prices(record, clock, engine_id).joins
        self._chance = chance
        self.waits = self.new_waits()
        self.loops: list[Loop] = [self.transcribe, self.load, self.place, self.promote, self.reap]
        """In the order in which they are started; the first one is stopped last. `waits` starts when the runs are loaded."""
        engine.listen("ready", self.place.wake)
        engine.listen("events", self.transcribe.wake)
        for timer in (self.promote, self.reap):
            engine.listen("due", timer.wake)
        self.work.on_log = self._logged
        self.runs.progress_of = self.work.progress_of
        self.on_missed: Callable[[], Awaitable[None]] = _nothing
        """Called first when batches were missed."""
        self.tellers: list[Callable[[Sequence[Event]], None]] = [self.learner.told, lambda events: self.waits.told(events)]
        """Loops and nouns that are told of every recorded batch before the feed is."""

    def new_waits(self) -> WaitLoop:
        """One that knows of nothing yet."""
        return WaitLoop(self.engine, self.record, self.catalog, self.load, self.runs, self.clock, self.engine_id, self._chance)

    def core(self) -> Core:
        return Core(runs=self.runs, work=self.work, feed=self.feed, clock=self.clock)

    def told(self, events: Sequence[Event]) -> None:
        """A batch was recorded."""
        for event in events:
            if event.kind == "ended":
                self.load.forget(event.run)
                self.work.forget(event.run)
        self.recorded_ms = events[-1].at_ms
        self.work.recorded(events[-1].n)
        for teller in self.tellers:
            teller(events)
        self.feed.publish(events)

    async def missed(self) -> None:
        """Batches were recorded of which this process was not told: it asks the record for what somebody waits for."""
        self.load.doubt()
        await self.on_missed()
        ends = []
        for run in self.feed.awaited():
            try:
                row = await self.record.run(run)
            except NotFoundError:
                continue
            if RunState(row.state).ended:
                ends.append(Event(0, row.finished_ms or 0, "ended", run, state=row.state, reason=row.reason))
        self.feed.missed(ends)
        self.work.recorded(await self.engine.mark())

    def _logged(self, chunks: Sequence[LogChunk]) -> None:
        self.feed.stir(chunk.run for chunk in chunks)
