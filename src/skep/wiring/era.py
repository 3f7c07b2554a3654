"""An era: everything that one server has around one epoch of an engine. When that is opened anew, one follows on another.

Where several servers share the engine, one of them leads: it alone places, transcribes, schedules and keeps time. The others
accept, answer and serve nodes all the same, and hear what was recorded by following.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from skep.client import PROTOCOL
from skep.clock import Clock
from skep.engine.protocol import Engine
from skep.hub.definitions import Definitions
from skep.hub.events import Events
from skep.hub.feed import Feed
from skep.hub.hub import Hub
from skep.hub.insight import Insight
from skep.hub.keys import Keys
from skep.hub.nodes import Nodes
from skep.hub.placement import TOPIC as PLACEMENT
from skep.hub.placement import Placement
from skep.hub.queue import TOPIC as QUEUE
from skep.hub.queue import Queue
from skep.hub.schedules import Schedules
from skep.hub.tasks import Tasks
from skep.hub.why import Why
from skep.loop import Loop, end
from skep.model.units import format_bytes
from skep.record.protocol import Record
from skep.upkeep.follow import KEPT, FollowLoop
from skep.upkeep.lead import LeadLoop
from skep.upkeep.load import TOPIC as COMMANDS
from skep.upkeep.prune import PruneLoop
from skep.upkeep.rejoin import Rejoin
from skep.upkeep.schedule import TOPIC as SCHEDULES
from skep.upkeep.schedule import ScheduleLoop
from skep.upkeep.watch import Watch
from skep.wiring import policies
from skep.wiring.parts import Parts
from skep.wiring.turns import RejoinTurns

log = logging.getLogger(__name__)

CROWDED: Final = 0.6
"""Of the store's memory: beyond this nothing more is started."""
IDLE_S: Final = 3_600.0
CLOSE_S: Final = 2.0
LOOK_S: Final = 1.0
"""Between two looks of a stream at what nodes wrote by way of other servers."""
UNFIT_S: Final = 10.0
LONGEST_PAUSE_S: Final = 0.5
"""Between two tries of a loop, where a database is across a network: it is at work again soon after that is back."""


class Era:
    """Made for an engine that is open; runs from `start` to `stop`."""

    def __init__(
        self,
        engine: Engine,
        record: Record,
        clock: Clock,
        engine_id: str,
        feed: Feed,
        watch: Watch,
        *,
        server: str,
        shared: bool,
        home: Path | None,
        keep_ms: int,
        expected: Iterable[str],
        keys: Keys | None = None,
        url: str = "",
        places: tuple[str, str] = ("memory", ""),
        started_ms: int = 0,
    ) -> None:
        """`server`: the name of this one. `shared`: whether others may have the engine too. `url`: where the network finds it.
        `expected`: nodes that may come with work under way. `places`: where engine and record are, as people are told.
        `started_ms`: when the server was."""
        self.engine = engine
        self._shared = shared
        self._expected = tuple(expected)
        self._turns = RejoinTurns(engine, record, clock, engine_id) if shared else None
        parts = self.parts = Parts(engine, record, clock, engine_id, feed, server=server)
        nodes = Nodes(engine, record, clock, engine_id)
        parts.work.wants_drain = nodes.wants_drain
        nodes.circuits = parts.routing.circuits
        self._queue = Queue(engine, record, parts.load, parts.place, clock)
        self._placement = Placement(engine, record, parts.routing, parts.place, policies.names)
        schedule = ScheduleLoop(record, clock, parts.runs.submit, parts.runs.cancel)
        self._prune = PruneLoop(record, clock, keep_ms)
        self._insight = Insight(engine, record, clock, engine_id, home, PROTOCOL)
        self._insight.url = url
        self._insight.server = server
        self._insight.engine_at, self._insight.record_at = places
        self._insight.started_ms = started_ms or self._insight.started_ms
        self._insight.leads = lambda: self.leads
        self._insight.trouble = lambda: watch.trouble
        tasks = Tasks(record, parts.catalog, parts.load, clock, engine_id)
        self.hub = Hub(
            runs=parts.runs,
            tasks=tasks,
            nodes=nodes,
            queue=self._queue,
            placement=self._placement,
            definitions=Definitions(record, clock),
            schedules=Schedules(engine, record, clock, schedule),
            events=Events(engine, record, clock),
            keys=keys or Keys(record, clock),
            insight=self._insight,
            why=Why(engine, record, parts.catalog, parts.load, parts.place, tasks),
            work=parts.work,
            feed=feed,
            clock=clock,
        )
        parts.tellers.append(schedule.told)
        parts.on_missed = self._doubt
        self._follow = FollowLoop(engine, parts.told, parts.missed)
        self._lead = LeadLoop(engine, server, self._gained, self._lost, self._is_fit)
        self._refresh = Loop(self._look_at_queue, "queue")
        if not shared:
            self._refresh.interval_s = IDLE_S
        self._early = [parts.transcribe, parts.place, parts.promote]
        """Of the leader, at once."""
        self._late: list[Loop] = [schedule, self._prune, parts.decisions]
        """Of the leader, once all runs are loaded; `waits` too."""
        self._beginning: asyncio.Task[None] | None = None
        self._rejoining: list[asyncio.Task[None]] = []
        """Go on when the lease is lost: nodes wait for it, and what they brought may be half taken up."""
        self._leading: asyncio.Task[None] | None = None
        """Of those the last one of a leader."""
        vital = [*parts.loops, parts.waits, *([self._follow, self._lead] if shared else ())]
        others = [*self._late, self._refresh]
        self._watch = watch
        self._watched = [*vital, *others]
        watch.over(vital)
        watch.over(others, vital=False)
        if shared:
            parts.runs.look_s = LOOK_S
            parts.transcribe.keep = KEPT
            for loop in vital:
                loop.longest_pause_s = LONGEST_PAUSE_S
        engine.listen("mark", self._follow.wake)
        for topic in (QUEUE, PLACEMENT):
            engine.listen(topic, self._refresh.wake)
        engine.listen(COMMANDS, parts.load.look)
        engine.listen(SCHEDULES, schedule.wake)

    @property
    def leads(self) -> bool:
        return self._lead.leads or not self._shared

    async def start(self) -> None:
        """Returns when it is known whether this server leads."""
        parts = self.parts
        self._insight.state = "rejoin"
        self._follow.mark = parts.transcribe.mark = await self.engine.mark()
        parts.load.scans = False
        parts.load.caught_up.set()
        await self._queue.open()
        await self._placement.open()
        if self._turns is None:
            parts.load.start()
            self._refresh.start()
            await self._gained()
            return
        parts.learner.follows = True
        parts.work.presenter = rejoin = self._rejoin((), leads=False)
        self._rejoining.append(asyncio.get_running_loop().create_task(rejoin.follow()))
        await parts.missed()
        parts.load.start()
        self._refresh.start()
        self._follow.start()
        await self._lead.run_once()
        self._lead.start()
        if not self._lead.leads:
            self._insight.state = "ready"

    def _rejoin(self, expected: Iterable[str], *, leads: bool = True) -> Rejoin:
        parts = self.parts
        return Rejoin(self.engine, parts.load, parts.place, parts.work.report, expected, turns=self._turns, leads=leads)

    def _is_fit(self) -> bool:
        """Whether it can do a leader's work: one that is cut off from the record lets others try."""
        trouble = self.parts.transcribe.trouble
        return trouble is None or asyncio.get_running_loop().time() - trouble.since_s < UNFIT_S

    async def _look_at_queue(self) -> bool:
        """What is paused, how nodes are chosen, and how full the store is."""
        place = self.parts.place
        before = place.paused, place.crowded
        await self._queue.open()
        await self._placement.open()
        used, limit = await self.engine.memory() if self._shared else (0, 0)
        crowded = bool(limit) and used > CROWDED * limit
        if crowded != place.crowded:
            place.crowded = crowded
            how = "nothing is started until it has room" if crowded else "it has room again"
            log.warning("the engine's store uses %s of %s: %s", format_bytes(used), format_bytes(limit), how)
        if before != (place.paused, place.crowded):
            place.wake()
        return False

    # -- leading

    async def _gained(self) -> None:
        parts = self.parts
        over = self._turns is not None and await self._turns.is_over()
        await self._follow.stop()
        parts.transcribe.mark = self._follow.mark
        self._refresh.wake()
        task = asyncio.get_running_loop().create_task
        if not over and (self._leading is None or self._leading.done()):
            parts.work.presenter = rejoin = self._rejoin(self._expected)
            self._leading = task(rejoin.run())
            self._rejoining.append(self._leading)
        parts.learner.forget()
        parts.learner.follows = False
        parts.load.scans = True
        parts.load.caught_up.clear()
        parts.load.look()
        for loop in self._early:
            loop.start()
        self._beginning = task(self._begin())

    async def _begin(self) -> None:
        """What waits for all runs to be loaded. Time limits come after the outcomes that nodes bring: those were earlier."""
        parts = self.parts
        await parts.load.caught_up.wait()
        for loop in (parts.waits, *self._late):
            loop.start()
        if self._leading is not None:
            await asyncio.wait([self._leading])
        parts.reap.start()
        if self._insight.state == "rejoin":
            self._insight.state = "ready"

    async def _lost(self) -> None:
        parts = self.parts
        parts.load.scans = False
        parts.load.caught_up.set()
        await self._stop_leading()
        parts.learner.forget()
        parts.learner.follows = True
        self._watch.forget([*self._early, *self._late, parts.waits, parts.reap])
        parts.waits = parts.new_waits()
        self._watch_again()
        self._follow.mark = parts.transcribe.mark
        self._follow.start()
        if self._insight.state == "rejoin":
            self._insight.state = "ready"

    async def _doubt(self) -> None:
        """Events were missed: of what waits nothing is sure any more."""
        parts = self.parts
        if parts.waits.running:
            await parts.waits.stop()
            self._watch.forget([parts.waits])
            parts.waits = parts.new_waits()
            self._watch_again()
            parts.waits.start()

    def _watch_again(self) -> None:
        parts = self.parts
        self._watched.append(parts.waits)
        self._watch.over([*self._early, parts.waits, parts.reap])
        self._watch.over(self._late, vital=False)

    async def _stop_leading(self) -> None:
        await end(self._beginning)
        for loop in (*self._late, self.parts.waits, self.parts.reap, *reversed(self._early)):
            await loop.stop()

    # -- the end

    async def hold(self) -> None:
        """Starts nothing more here: the server is about to end. Another one leads then, if there is one."""
        self._insight.state = "draining"
        if not self._shared:
            self._queue.hold()
        elif self._lead.leads:
            await self._lead.stop()
            await self._lost()
            await self._lead.resign()

    async def stop(self) -> None:
        """Stops all loops in good order; who has the engine alone records what happened. Raises SkepError when that fails."""
        parts = self.parts
        if self._shared:
            await self._lead.stop()
            await self._lead.resign()  # the next leader records the rest
        await self._follow.stop()
        await self._refresh.stop()
        await parts.load.stop()
        parts.load.retire()
        await self._stop_leading()
        parts.learner.forget()
        await end(*self._rejoining)
        self._watch.forget(self._watched)
        while not self._shared and await parts.transcribe.run_once():
            pass

    async def abandon(self) -> None:
        """Ends everything at once: its engine is there no more, or is given up. Raises nothing."""
        parts = self.parts
        self._watch.end()
        self._watch.forget(self._watched)
        parts.load.retire()
        parts.learner.forget()
        loops = (self._lead, self._follow, self._refresh, parts.load, parts.waits, parts.reap, *self._late, *self._early)
        await end(*[loop.cancel() for loop in loops], *self._rejoining, self._beginning, within_s=CLOSE_S)
