"""The server that stays: an engine, a record, nodes and listeners, restored at the start."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Final

from skep.clock import Clock, SystemClock
from skep.config import socket_path
from skep.errors import SkepError, StaleEpochError
from skep.hub.feed import Feed
from skep.hub.hub import Hub
from skep.hub.keys import Keys
from skep.ids import new_id
from skep.loop import Loop, end
from skep.model.node import NodeInfo
from skep.node.detached import listed
from skep.record.sql import SqlRecord
from skep.server.app import make_app
from skep.server.link import MAX_MESSAGE, Links
from skep.server.listen import Listener
from skep.server.network import Network
from skep.upkeep.watch import Watch
from skep.wiring.data import RECORD_FILE, make_private, own, sweep_abandoned
from skep.wiring.engines import ENGINE_ID, EngineSource, MemorySource
from skep.wiring.era import Era
from skep.wiring.locals import LocalNodes
from skep.wiring.presence import Presence

log = logging.getLogger(__name__)

CLOSE_S: Final = 10.0
"""For what is still to be recorded."""
OPEN_S: Final = 30.0
"""For one try to open the engine anew."""
TRIES: Final = 20
PAUSE_S: Final = 0.5
"""Between two tries to open the engine anew."""


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
        source: EngineSource | None = None,
        record: SqlRecord | None = None,
        network: Network | None = None,
    ) -> None:
        """`nodes`: those to start here, if they are not there already. `keep_ms`: how long ended runs are kept; 0: for ever.
        `idle_s`: how long a node without work outlives the server, in place of the usual. `source`: of the engine; None: in
        memory. `record`: None: in the data directory. `network`: None: it is only there on its socket."""
        self.home = home
        self._keep_ms = keep_ms
        self._clock = clock or SystemClock()
        self.record = record or SqlRecord(home / RECORD_FILE)
        self._source = source or MemorySource()
        self.network = network
        self._keys = Keys(self.record, self._clock)
        self.name = new_id(self._clock.now_ms())
        """Among the servers of its engine."""
        self._started_ms = self._clock.now_ms()
        self.links: Links
        self._feed = Feed()
        self._era: Era | None = None
        self._lock: IO[str] | None = None
        self._listener: Listener | None = None
        self._reopening: asyncio.Task[None] | None = None
        self._guard = Loop(self._look_at_engine, "engine")
        self._presence = Presence(self.record, self._clock, self.name)
        self._local_nodes = LocalNodes(home, nodes, idle_s)

    @property
    def hub(self) -> Hub:
        """Of now: it changes when the engine is opened anew."""
        assert self._era is not None
        return self._era.hub

    async def open(self) -> None:
        """Owns the data directory, opens the engine, and answers. Raises RecordError, and what its engine raises."""
        make_private(self.home)
        self._lock = own(self.home)
        try:
            await self.record.open()
            if self.network is not None:
                await self.network.bind(self._keys, MAX_MESSAGE)
            await sweep_abandoned(self.record, self.home, self._clock.now_ms())
            era = await self._first_era()
            self.links = Links(era.parts.work)
            self._app = make_app(era.hub, self.links.routes)
            self._listener = Listener(self._app, socket_path(self.home), MAX_MESSAGE)
            await self._listener.start()
            self._keys.on_revoked = self.links.dismiss
            if self.network is not None:
                await self.network.start(self._app, self.home)
            self._local_nodes.start()
            if self._source.shared:
                self._presence.serves(era.engine.epoch)
                self._presence.start()
                self._guard.start()
        except BaseException:
            await self.close()
            raise

    async def _first_era(self) -> Era:
        """Other servers may start at this very moment, and open the engine once more."""
        for _ in range(TRIES):
            try:
                return await self._next_era()
            except StaleEpochError as error:
                log.info("the engine is opened by several servers at once: %s", error)
                await asyncio.sleep(PAUSE_S)
        return await self._next_era()

    async def _next_era(self) -> Era:
        engine = await self._source.open(self.record, self._clock)
        era = Era(
            engine,
            self.record,
            self._clock,
            ENGINE_ID,
            self._feed,
            Watch(math.inf, lambda trouble: None, lambda: self._stale(era)),
            server=self.name,
            shared=self._source.shared,
            home=self.home,
            keep_ms=self._keep_ms,
            keys=self._keys,
            places=(self._source.where, self.record.where),
            started_ms=self._started_ms,
            url=self.network.url if self.network is not None else "",
            expected=await self._expected(),
        )
        try:
            await era.start()
        except BaseException:
            await era.abandon()
            raise
        self._era = era
        return era

    async def _expected(self) -> set[str]:
        """Nodes that may come with work under way: those of this machine that live, and those of others of which nobody has
        recorded that they left."""
        alive = {node.id for node in listed(self.home)}
        ours = self._local_nodes.ids
        live = {row.id for row in await self.record.nodes(ENGINE_ID) if row.state in ("live", "draining")}
        return alive | (live - ours)

    # -- an engine that is opened anew

    def _stale(self, era: Era | None) -> None:
        """The engine that an era knows is there no more."""
        if self._source.shared and self._reopening is None and self._lock is not None and era is self._era:
            self._reopening = asyncio.get_running_loop().create_task(self._reopen(), name="skep-reopen")
            self._reopening.add_done_callback(self._reopened)

    async def _reopen(self) -> None:
        era = self._era
        assert era is not None
        log.warning("the engine was lost or opened anew: everything is loaded again from the record")
        era.hub.insight.state = "opening"
        await era.abandon()
        told = ""
        while True:
            try:
                async with asyncio.timeout(OPEN_S):
                    era = await self._next_era()
                break
            except (SkepError, TimeoutError) as error:
                if str(error) != told:
                    told = str(error)
                    log.warning("the engine cannot be opened yet, and is tried again: %s", error)
                await asyncio.sleep(PAUSE_S)
        self._app.state.hub = era.hub
        self.links.serve_for(era.parts.work)
        self._presence.serves(era.engine.epoch)

    def _reopened(self, task: asyncio.Task[None]) -> None:
        self._reopening = None
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error("a fault of Skep's own while the engine was opened anew; it is tried again", exc_info=error)
        if error is not None or task.cancelled():
            self._stale(self._era)  # does nothing once the server closes

    async def _look_at_engine(self) -> bool:
        """Whoever met with an engine that is there no more, and could not say so: this one does."""
        era = self._era
        if era is not None and self._reopening is None:
            try:
                await era.engine.mark()
            except StaleEpochError:
                self._stale(era)
            except SkepError:
                pass  # that it does not answer is told by the loops
        return False

    # -- the end

    async def hold(self) -> None:
        """Starts nothing more: it is about to end."""
        if self._era is not None:
            await self._era.hold()
        await self._local_nodes.stop()

    async def close(self) -> None:
        """Stops answering, records what has happened, and leaves the data directory to the next. Nodes are left as they are.
        Harmless when repeated."""
        lock, self._lock = self._lock, None
        await self._guard.stop()
        await end(self._reopening)
        await self._local_nodes.stop()
        listener, self._listener = self._listener, None
        if self.network is not None:
            await self.network.stop()
        era, self._era = self._era, None
        if listener is not None:
            await self.links.close()
            await listener.stop()
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._presence.leave()
                if era is not None:
                    await era.stop()
        except (SkepError, TimeoutError) as error:
            log.warning("not all that happened is recorded: %s; it happens again at the next start", error)
        finally:
            await self._source.close()
            await self.record.close()
            if lock is not None:
                lock.close()
