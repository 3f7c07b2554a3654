"""An engine that several servers share, in a Redis; imported only where one is named."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from skep.clock import Clock
from skep.engine.redis import RedisEngine, RedisStore, current_epoch, open_epoch, sweep
from skep.engine.redis.store import place_of
from skep.errors import ConflictError, SkepError, StaleEpochError
from skep.record.protocol import EngineRow, Record
from skep.wiring.engines import ENGINE_ID, next_epoch, open_row

log = logging.getLogger(__name__)

BATCH: Final = 5_000
TRIES: Final = 10
OTHER_S: Final = 0.05
"""For another server that has recorded an epoch to tell Redis;"""
OTHERS: Final = 5
"""so often it is given that time."""
PAUSE_S: Final = 0.01
"""Between two looks for what earlier epochs left."""


class RedisSource:
    """An engine in a Redis. It is opened anew when that is another process than the recorded one, when it has lost its epoch,
    or when the record is from before."""

    shared = True

    def __init__(self, url: str) -> None:
        self._url = url
        self.where = place_of(url)
        self._store: RedisStore | None = None
        self._engine: RedisEngine | None = None
        self._sweeping: asyncio.Task[None] | None = None

    async def open(self, record: Record, clock: Clock) -> RedisEngine:
        await self.close()
        store = self._store = await RedisStore.connect(self._url)
        process = await store.process()
        store.bind(process)
        waited, was_slower = 0, False
        for _ in range(TRIES):
            kept = await current_epoch(store, ENGINE_ID)
            mark = await RedisEngine(store, ENGINE_ID, kept).mark() if kept is not None else 0
            row = await record.engine(ENGINE_ID)  # after the mark: it has moved in the record before it moves there
            if row is not None and row.epoch == kept:
                if row.process == process and row.mark >= mark:
                    return await self._begin(store, kept)
                await _save_the_rest(store, record, row)
            elif (
                row is not None
                and row.process == process
                and waited < OTHERS
                and (was_slower if kept is None else kept < row.epoch)
            ):
                waited += 1  # to open one more would have the other one begin again
                await asyncio.sleep(OTHER_S)
                continue
            after = row.epoch if row is not None else 0
            epoch = next_epoch(max(after, kept or 0), clock)
            if await open_row(record, epoch, after, process):
                try:
                    await open_epoch(store, ENGINE_ID, epoch)
                except StaleEpochError:
                    continue  # another server has opened a later one meanwhile
                self._sweeping = asyncio.get_running_loop().create_task(_sweep(store, epoch))
                what = "the engine was opened anew" if row is not None else "an engine was opened"
                log.info("%s in %s, epoch %d", what, store.where, epoch)
                return await self._begin(store, epoch)
            was_slower = True
        raise ConflictError("servers open this engine again and again; do all of them see the same Redis and the same record?")

    async def _begin(self, store: RedisStore, epoch: int) -> RedisEngine:
        engine = self._engine = RedisEngine(store, ENGINE_ID, epoch)
        await engine.start()
        return engine

    async def close(self) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
        engine, self._engine = self._engine, None
        store, self._store = self._store, None
        if engine is not None:
            await engine.close()
        if store is not None:
            await store.close()


async def _sweep(store: RedisStore, epoch: int) -> None:
    """Removes what earlier epochs left, a little at a time. If it does not come to its end, the next opening does it."""
    try:
        cursor = 0
        while True:
            _, cursor = await sweep(store, ENGINE_ID, epoch, cursor)
            if not cursor:
                return
            await asyncio.sleep(PAUSE_S)
    except SkepError as error:
        log.debug("what earlier epochs left in Redis is not removed: %s", error)


async def _save_the_rest(store: RedisStore, record: Record, row: EngineRow) -> None:
    """Copies what is contiguous after the mark: a Redis that was started again from its disk still has it."""
    engine = RedisEngine(store, ENGINE_ID, row.epoch)
    mark = row.mark
    while True:
        events = await engine.events(mark, BATCH)
        if not events or events[0].n != mark + 1:
            return
        try:
            await record.transcribe(ENGINE_ID, row.epoch, mark, events)
        except StaleEpochError:
            return  # another server does it too, and was faster
        mark = events[-1].n
