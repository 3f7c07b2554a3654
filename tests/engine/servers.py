"""One real server of each program that is found here, per test process; it ends with it."""

from __future__ import annotations

import asyncio
import atexit
import secrets
from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path
from typing import TypeVar

from skep.clock import Clock
from skep.engine.redis import RedisEngine, RedisStore, open_epoch
from skep.errors import EngineGoneError, SkepError
from skep.testing.servers import RedisServer, redis_programs

T = TypeVar("T")
PATIENCE_S = 30.0
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


async def until(ask: Callable[[], Awaitable[T]], passing: type[Exception] = SkepError) -> T:
    """Asks until it is answered. Raises what is not `passing`, or no longer after a while."""
    end_s = asyncio.get_running_loop().time() + PATIENCE_S
    for pause_s in [0.02] * 10_000:
        try:
            return await ask()
        except (passing, OSError) as error:
            if isinstance(error, EngineGoneError) or asyncio.get_running_loop().time() > end_s:
                raise
        await asyncio.sleep(pause_s)
    raise AssertionError("never")
