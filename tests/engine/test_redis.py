"""The Redis engine passes the published suite, on every server that is found here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from skep.engine.protocol import Engine
from skep.engine.redis import RedisEngine
from skep.testing.engine import EngineConformance
from tests.engine.servers import IDS, PROGRAMS, end, fresh, server


@pytest.mark.parametrize("program", PROGRAMS, ids=IDS)
class TestRedisEngine(EngineConformance):
    @pytest_asyncio.fixture(autouse=True)
    async def places(self, program: Path) -> AsyncIterator[None]:
        self.program = program
        self.made: list[RedisEngine] = []
        yield
        for engine in self.made:
            await end(engine)

    async def make(self, epoch: int) -> Engine:
        self.made.append(await fresh(server(self.program).url, epoch, self.clock))
        return self.made[-1]
