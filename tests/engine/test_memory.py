"""The memory engine passes the published suite."""

from __future__ import annotations

from skep.engine.memory import MemoryEngine
from skep.engine.protocol import Engine
from skep.testing.engine import EngineConformance


class TestMemoryEngine(EngineConformance):
    async def make(self, epoch: int) -> Engine:
        return MemoryEngine(self.clock, epoch)
