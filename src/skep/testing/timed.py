"""A stage on which time matters: the loops for schedules, waits and retention, the nouns in front of them, and restarts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType

from skep.clock import Clock, ManualClock
from skep.engine.memory import MemoryEngine
from skep.hub.events import Events
from skep.hub.feed import Feed
from skep.hub.schedules import Schedules
from skep.hub.tasks import Tasks
from skep.model.event import Event
from skep.record.protocol import EngineRow
from skep.record.sql import SqlRecord
from skep.testing.stage import ENGINE_ID, EPOCH, ScriptedNode, Stage
from skep.upkeep.prune import PruneLoop
from skep.upkeep.schedule import ScheduleLoop
from skep.wiring.parts import Parts


class TimedStage(Stage):
    """A server, put together as a real one is. Its clock stands still, and its loops do their passes when they are told to."""

    def __init__(self, record: SqlRecord | None = None, *, epoch: int = EPOCH, clock: Clock | None = None) -> None:
        """`record`: that of a server that is no more, whose work this one takes over under a higher `epoch`. `clock`: another
        than one that stands still, for loops that are started."""
        self.second = record is not None
        self.epoch = epoch
        self.clock = clock if isinstance(clock, ManualClock) else ManualClock()
        self.record = record or SqlRecord(None, inline=True)
        clock = clock or self.clock
        self.engine = MemoryEngine(clock, epoch)
        self.feed = Feed()
        parts = self.parts = Parts(self.engine, self.record, clock, ENGINE_ID, self.feed, chance=lambda: 0.5)
        self.catalog, self.load, self.transcribe = parts.catalog, parts.load, parts.transcribe
        self.hub = parts.core()
        self.routing, self.learner, self.place = parts.routing, parts.learner, parts.place
        self.waits = parts.waits
        self.schedule = ScheduleLoop(self.record, clock, parts.runs.submit, parts.runs.cancel)
        self.prune = PruneLoop(self.record, clock)
        self.tasks = Tasks(self.record, parts.catalog, parts.load, clock, ENGINE_ID)
        self.schedules = Schedules(self.engine, self.record, clock, self.schedule)
        self.events = Events(self.engine, self.record, clock)
        self.loops = [self.schedule, self.waits, *parts.loops[1:], parts.transcribe]  # who starts runs before who loads them
        self.nodes: list[ScriptedNode] = []
        self.told: list[Event] = []
        self.woken = asyncio.Event()
        self.engine.listen("ready", self.woken.set)
        parts.tellers += [self._note, self.schedule.told]

    def _note(self, events: Sequence[Event]) -> None:
        self.told += events

    async def __aenter__(self) -> TimedStage:
        if not self.second:
            await self.record.open()
        found = await self.record.engine(ENGINE_ID)
        row = EngineRow(id=ENGINE_ID, epoch=self.epoch, mark=0, process=f"test-{self.epoch}", embedded=False)
        assert await self.record.open_engine(row, after_epoch=found.epoch if found is not None else 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for loop in (*self.loops, self.prune):
            await loop.stop()
        self.learner.forget()
        if not self.second:
            await self.record.close()

    def after_a_crash(self, later_ms: int = 0) -> TimedStage:
        """Another server on the same record, so much later; this one is not to be used any more. Nodes join it anew."""
        return TimedStage(self.record, epoch=self.epoch + 1, clock=ManualClock(self.clock.now_ms() + later_ms))
