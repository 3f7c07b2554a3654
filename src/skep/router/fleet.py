"""The nodes as arrays, so that one look costs the same for ten of them and for ten thousand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from skep.model.node import LiveNode, NodeInfo, Requirement
from skep.router.fit import eligible

RESOURCES: Final = ("slots", "cpu", "memory", "vram")
COLUMN: Final = {resource: at for at, resource in enumerate(RESOURCES)}

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Fleet:
    """Row i of every array is node `ids[i]`. Rows keep their places until nodes come or go."""

    def __init__(self) -> None:
        self.infos: list[NodeInfo] = []
        self.ids: list[str] = []
        self.at: dict[str, int] = {}
        self.total: Ints = np.zeros((0, len(RESOURCES)), np.int64)
        self.free: Ints = np.zeros((0, len(RESOURCES)), np.int64)
        self.price: Floats = np.zeros(0)
        """Per hour."""
        self.weight: Floats = np.zeros(0)
        self.open: Mask = np.zeros(0, np.bool_)
        """Takes new work: neither draining nor still presenting what it has."""
        self._able: dict[Requirement, Mask] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def sync(self, nodes: Sequence[LiveNode]) -> None:
        """Takes over what the engine says now."""
        infos = [node.info for node in nodes]
        if len(infos) != len(self.infos) or any(new is not old for new, old in zip(infos, self.infos, strict=True)):
            if infos != self.infos:
                self._know(infos)
            self.infos = infos
        self.free = np.array([[node.free.get(name, 0) for name in RESOURCES] for node in nodes], np.int64)
        self.free = self.free.reshape(len(nodes), len(RESOURCES))
        self.open = np.fromiter((not (node.draining or node.coming) for node in nodes), np.bool_, len(nodes))

    def _know(self, infos: list[NodeInfo]) -> None:
        self.ids = [info.id for info in infos]
        self.at = {name: at for at, name in enumerate(self.ids)}
        totals = [(info.slots, info.cpu_milli, info.memory, info.vram) for info in infos]
        self.total = np.array(totals, np.int64).reshape(len(infos), len(RESOURCES))
        self.price = np.array([info.cost_per_hour for info in infos], np.float64)
        self.weight = np.array([info.weight for info in infos], np.float64)
        self._able.clear()

    def able(self, wanted: Requirement) -> Mask:
        """Which nodes could ever run it."""
        found = self._able.get(wanted)
        if found is None:
            found = self._able[wanted] = np.fromiter((eligible(wanted, info) for info in self.infos), np.bool_, len(self.infos))
        return found

    def fits(self, takes: Sequence[tuple[str, int]]) -> Ints:
        """How many attempts that take so much each node has room for now."""
        if not takes:
            return np.full(len(self), np.iinfo(np.int64).max)
        columns = [COLUMN[resource] for resource, _ in takes]
        units = np.array([units for _, units in takes], np.int64)
        room: Ints = np.maximum((self.free[:, columns] // units).min(axis=1), 0)
        return room

    def take(self, at: int, takes: Sequence[tuple[str, int]], count: int = 1) -> None:
        """Less is free on that node from here on."""
        for resource, units in takes:
            self.free[at, COLUMN[resource]] -= units * count

    def give(self, at: int, takes: Sequence[tuple[str, int]], count: int = 1) -> None:
        """It is free again."""
        self.take(at, takes, -count)
