"""Nodes: what there are, what they have, and which shall take nothing new."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from skep.clock import Clock
from skep.engine.protocol import Engine
from skep.errors import NotFoundError
from skep.model.node import LiveNode
from skep.model.views import CircuitView, NodeView
from skep.record.protocol import NodeRow, Record

SILENT_MS: Final = 5_000
"""Without a sign of life for so long a node is shown as silent: it takes no work, and at 10 s it is lost."""


class Nodes:
    """The noun of the hub."""

    def __init__(self, engine: Engine, record: Record, clock: Clock, engine_id: str) -> None:
        self._engine = engine
        self._record = record
        self._clock = clock
        self._engine_id = engine_id
        self.circuits: Callable[[], Mapping[str, list[CircuitView]]] = dict
        """By node, where it is not trusted."""

    async def wants_drain(self, node: str) -> bool:
        """Whether it shall take nothing new, also when it comes back."""
        return any(row.id == node and row.draining for row in await self._record.nodes(self._engine_id))

    async def list(self, *, all: bool = False) -> list[NodeView]:
        """Those that are there, by name; `all`: also those that left or were lost."""
        live = {node.info.id: node for node in await self._engine.nodes()}
        recorded = {row.id: row for row in await self._record.nodes(self._engine_id)}
        now_ms = self._clock.now_ms()
        circuits = self.circuits()
        views = [_live(node, now_ms, circuits.get(id, [])) for id, node in live.items()]
        if all:
            views += [_gone(row) for id, row in recorded.items() if id not in live]
        return sorted(views, key=lambda view: view.id)

    async def get(self, node: str) -> NodeView:
        """Raises NotFoundError."""
        views = await self.list(all=True)
        for view in views:
            if view.id == node:
                return view
        raise NotFoundError(f"there is no node {node}; there are {', '.join(view.id for view in views) or 'none'}")

    async def drain(self, node: str, on: bool = True) -> NodeView:
        """Gives it nothing new; what runs there ends. `on` False takes that back. Recorded before it is applied, and so that it
        holds when the node comes back. Raises NotFoundError."""
        await self.get(node)
        await self._record.want_drain(self._engine_id, node, on, self._clock.now_ms())
        await self._engine.drain([node], on)
        return await self.get(node)


def _live(node: LiveNode, now_ms: int, circuits: list[CircuitView]) -> NodeView:
    info, free = node.info, node.free
    silent = bool(node.beat_ms) and now_ms - node.beat_ms > SILENT_MS
    return NodeView(
        id=info.id,
        state="silent" if silent else "draining" if node.draining else "live",
        incarnation=info.incarnation,
        capabilities=list(info.capabilities),
        labels=info.labels,
        executors=list(info.executors),
        swarm=info.swarm,
        region=info.region,
        cost_per_hour=info.cost_per_hour,
        weight=info.weight,
        slots=info.slots,
        slots_free=free["slots"],
        cpu=info.cpu_milli / 1000,
        cpu_free=free["cpu"] / 1000,
        memory=info.memory,
        memory_free=free["memory"],
        vram=info.vram,
        vram_free=free["vram"],
        running=node.leases,
        beat_ms=node.beat_ms,
        server=node.server or None,
        version=info.version or None,
        pid=info.pid or None,
        circuits=circuits,
    )


def _gone(row: NodeRow) -> NodeView:
    return NodeView(id=row.id, state="lost" if row.state == "live" else row.state, incarnation=row.incarnation)
