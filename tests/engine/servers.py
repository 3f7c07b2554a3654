"""One real server of each program that is found here, per test process; it ends with it."""

from __future__ import annotations

import asyncio
import atexit
import secrets
from functools import cache
from pathlib import Path

from skep.clock import Clock
from skep.engine.redis import RedisEngine, RedisStore, open_epoch
from skep.testing.servers import RedisServer, redis_programs

PROGRAMS = list(dict.fromkeys(redis_programs()))
IDS = [f"{at}-{program.name}" for at, program in enumerate(PROGRAMS)]


@cache
def server(program: Path) -> RedisServer:
    """For all tests of this process that do no harm to it."""
    started = RedisServer(None, "--appendonly", "no", program=program).start()
    atexit.register(started.close)
    return started


async def fresh(url: str, epoch: int, clock: Clock | None = None, engine_id: str = "") -> RedisEngine:
    """An engine that nobody else has."""
    store = await RedisStore.connect(url)
    store.bind(await store.process())
    engine_id = engine_id or secrets.token_hex(6)
    await open_epoch(store, engine_id, epoch)
    engine = RedisEngine(store, engine_id, epoch, clock)
    await engine.start()
    return engine


async def end(engine: RedisEngine) -> None:
    await engine.close()
    await engine.store.close()
    await asyncio.sleep(0)
