"""The server that stays: one engine on one data directory, restored at the start, with its nodes and its socket."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Final

from skep.client import PROTOCOL
from skep.clock import Clock, SystemClock
from skep.config import socket_path
from skep.engine.memory import MemoryEngine
from skep.errors import RecordError, SkepError
from skep.hub.definitions import Definitions
from skep.hub.events import Events
from skep.hub.feed import Feed
from skep.hub.hub import Hub
from skep.hub.insight import Insight
from skep.hub.nodes import Nodes
from skep.hub.queue import Queue
from skep.hub.schedules import Schedules
from skep.hub.tasks import Tasks
from skep.loop import Loop
from skep.model.node import NodeInfo
from skep.node.detached import listed
from skep.record.protocol import EngineRow
from skep.record.sql import SqlRecord
from skep.server.app import make_app
from skep.server.link import MAX_MESSAGE, Links
from skep.server.listen import Listener
from skep.upkeep.prune import PruneLoop
from skep.upkeep.rejoin import Rejoin
from skep.upkeep.schedule import ScheduleLoop
from skep.upkeep.watch import Watch
from skep.wiring.data import RECORD_FILE, make_private, own, sweep_abandoned
from skep.wiring.locals import LocalNodes
from skep.wiring.parts import Parts

log = logging.getLogger(__name__)

ENGINE_ID: Final = "local"
"""A data directory has one engine that stays."""
CLOSE_S: Final = 10.0
"""For what is still to be recorded."""


class Server:
    """Everything that `skep up` starts but its signals."""

    def __init__(
        self,
        home: Path,
        nodes: Sequence[NodeInfo],
        *,
        keep_ms: int,
        clock: Clock | None = None,
        idle_s: float | None = None,
    ) -> None:
        """`nodes`: those to start here, if they are not there already. `keep_ms`: how long ended runs are kept; 0: for ever.
        `idle_s`: how long a node without work outlives the server, in place of the usual."""
        self.home = home
        self._keep_ms = keep_ms
        self._clock = clock or SystemClock()
        self.record = SqlRecord(home / RECORD_FILE)
        self.hub: Hub
        self.links: Links
        self._lock: IO[str] | None = None
        self._listener: Listener | None = None
        self._loops: list[Loop] = []
        self._watch = Watch(math.inf, lambda trouble: None)
        self._rejoined: asyncio.Task[None] | None = None
        self._local_nodes = LocalNodes(home, nodes, idle_s)

    async def open(self) -> None:
        """Owns the data directory, opens the engine, and answers. Raises DataInUseError, RecordError."""
        make_private(self.home)
        self._lock = own(self.home)
        try:
            await self.record.open()
            await sweep_abandoned(self.record, self.home, self._clock.now_ms())
            await self._start(MemoryEngine(self._clock, await self._open_engine()))
        except BaseException:
            await self.close()
            raise

    async def _open_engine(self) -> int:
        """The engine's next epoch (DESIGN §4)."""
        row = await self.record.engine(ENGINE_ID)
        after = row.epoch if row is not None else 0
        epoch = max(after + 1, self._clock.now_ms() // 1000)
        process = f"{os.getpid()}-{time.monotonic_ns()}"
        opened = EngineRow(id=ENGINE_ID, epoch=epoch, mark=0, process=process, embedded=False)
        if not await self.record.open_engine(opened, after_epoch=after):
            raise RecordError("another process has just opened the engine of this record; is it shared by two machines?")
        return epoch

    async def _start(self, engine: MemoryEngine) -> None:
        parts = Parts(engine, self.record, self._clock, ENGINE_ID, Feed())
        alive = listed(self.home)
        rejoin = Rejoin(engine, parts.load, parts.place, parts.work.report, [node.id for node in alive])
        parts.work.presenter = rejoin
        nodes = Nodes(engine, self.record, self._clock, ENGINE_ID, parts.work.heard)
        parts.work.wants_drain = nodes.wants_drain
        queue = Queue(engine, self.record, parts.load, parts.place, self._clock)
        definitions = Definitions(self.record, self._clock)
        insight = Insight(engine, self.record, self._clock, ENGINE_ID, self.home, PROTOCOL)
        insight.trouble = lambda: self._watch.trouble
        schedule = ScheduleLoop(self.record, self._clock, parts.runs.submit, parts.runs.cancel)
        prune = PruneLoop(self.record, self._clock, self._keep_ms)
        self.hub = Hub(
            runs=parts.runs,
            tasks=Tasks(self.record, parts.catalog, parts.load, self._clock, ENGINE_ID),
            nodes=nodes,
            queue=queue,
            definitions=definitions,
            schedules=Schedules(self.record, self._clock, schedule),
            events=Events(self.record, self._clock, parts.waits),
            insight=insight,
            work=parts.work,
            feed=parts.feed,
            clock=self._clock,
        )
        parts.tellers.append(schedule.told)
        await nodes.open()
        await queue.open()
        self._loops = [*parts.loops, parts.waits, schedule, prune]
        self._watch.over([*parts.loops, parts.waits])
        self._watch.over([schedule, prune], vital=False)
        for loop in parts.loops:
            if loop is not parts.reap:
                loop.start()
        self.links = Links(parts.work)
        self._listener = Listener(make_app(self.hub, self.links.routes), socket_path(self.home), MAX_MESSAGE)
        await self._listener.start()
        insight.state = "rejoin"
        self._rejoined = asyncio.get_running_loop().create_task(self._rejoin(parts, rejoin))
        self._local_nodes.start()

    async def _rejoin(self, parts: Parts, rejoin: Rejoin) -> None:
        """What waits for all runs to be loaded. Time limits come after the outcomes that nodes bring: those were earlier."""
        await parts.load.caught_up.wait()
        for loop in self._loops:
            if loop is not parts.reap:
                loop.start()  # those that run already go on
        await rejoin.run()
        parts.reap.start()
        if self.hub.insight.state == "rejoin":
            self.hub.insight.state = "ready"

    # -- the end

    async def hold(self) -> None:
        """Starts nothing more: it is about to end."""
        self.hub.insight.state = "draining"
        self.hub.queue.hold()
        await self._local_nodes.stop()

    async def close(self) -> None:
        """Stops answering, records what has happened, and leaves the data directory to the next. Nodes are left as they are.
        Harmless when repeated."""
        self._watch.end()
        if self._rejoined is not None:
            self._rejoined.cancel()
            self._rejoined = None
        await self._local_nodes.stop()
        listener, self._listener = self._listener, None
        loops, self._loops = self._loops, []
        if listener is not None:
            await self.links.close()
            await listener.stop()
        try:
            for loop in reversed(loops):
                await loop.stop()
            async with asyncio.timeout(CLOSE_S):
                while loops and await loops[0].run_once():
                    pass
        except (SkepError, TimeoutError) as error:
            log.warning("not all that happened is recorded: %s; it happens again at the next start", error)
        finally:
            await self.record.close()
            if self._lock is not None:
                self._lock.close()
                self._lock = None
