"""Prices: what an hour of each node costs, recorded before anything is granted to it."""

from __future__ import annotations

from skep.clock import Clock
from skep.model.node import NodeInfo
from skep.record.protocol import Record


class Prices:
    """Of the nodes of an engine."""

    def __init__(self, record: Record, clock: Clock, engine_id: str) -> None:
        self._record = record
        self._clock = clock
        self._engine_id = engine_id

    async def joins(self, info: NodeInfo) -> None:
        """Records what the node says. Nothing where it costs nothing, and never did."""
        if info.cost_per_hour or info.id in await self._record.priced(self._engine_id):
            cost = max(info.cost_per_hour, 0.0)
            await self._record.set_price(self._engine_id, info.id, cost, info.slots, self._clock.now_ms())
