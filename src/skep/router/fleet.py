"""The nodes as arrays, so that one look costs the same for ten of them and for ten thousand."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from itertools import chain, compress
from operator import is_not, itemgetter
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
Hashes = NDArray[np.uint64]

_in_order = itemgetter(*RESOURCES)


class Fleet:
    """Item i of every array is node `ids[i]`; what nodes have by resource is one row a resource. Nodes keep their places
    until some come or go."""

    def __init__(self) -> None:
        self.infos: list[NodeInfo] = []
        self.ids: list[str] = []
        self.at: dict[str, int] = {}
        self.total: Ints = np.zeros((len(RESOURCES), 0), np.int64)
        self.free: Ints = np.zeros((len(RESOURCES), 0), np.int64)
        self.share: Floats = np.zeros((len(RESOURCES), 0))
        """What one unit is of the total, at most 1."""
        self.price: Floats = np.zeros(0)
        """Per hour."""
        self.priced = False
        """Whether any node costs anything."""
        self.weight: Floats = np.zeros(0)
        self.hash: Hashes = np.zeros(0, np.uint64)
        self.open: Mask = np.zeros(0, np.bool_)
        """Takes new work: neither draining nor still presenting what it has."""
        self.version = 0
        """Changes when nodes come, go, or say something else of themselves."""
        self.leases: list[int] = []
        """Attempts on each node, as the engine counts them."""
        self._nodes: list[LiveNode] = []
        self._said: Ints = self.free
        """What was free when the engine last said so."""
        self._able: dict[tuple[Requirement, str, str], Mask] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def sync(self, nodes: Sequence[LiveNode]) -> None:
        """Takes over what the engine says now. A node that is handed in as the same object as the last time is taken to be
        unchanged; so is its NodeInfo."""
        old = self._nodes
        if len(nodes) != len(old):
            self._know(nodes)
            changed: Sequence[int] = range(len(nodes))
        else:
            changed = list(compress(range(len(nodes)), map(is_not, nodes, old)))
            if any(nodes[at].info is not old[at].info and nodes[at].info != old[at].info for at in changed):
                self._know(nodes)
                changed = range(len(nodes))
        if changed:
            if len(changed) * 2 > len(nodes):
                self._said = np.ascontiguousarray(_free(nodes).T)
                self.leases = [node.leases for node in nodes]
                self.open = np.fromiter((not (node.draining or node.coming) for node in nodes), np.bool_, len(nodes))
            else:
                some = [nodes[at] for at in changed]
                self._said[:, changed] = _free(some).T
                self.open[changed] = [not (node.draining or node.coming) for node in some]
                for at in changed:
                    self.leases[at] = nodes[at].leases
        self._nodes = list(nodes)
        self.free = self._said.copy()

    def _know(self, nodes: Sequence[LiveNode]) -> None:
        infos = self.infos = [node.info for node in nodes]
        self.ids = [info.id for info in infos]
        self.at = {name: at for at, name in enumerate(self.ids)}
        totals = [(info.slots, info.cpu_milli, info.memory, info.vram) for info in infos]
        self.total = np.ascontiguousarray(np.array(totals, np.int64).reshape(len(infos), len(RESOURCES)).T)
        self.share = 1.0 / np.maximum(self.total, 1)
        self.price = _sane([info.cost_per_hour for info in infos], 0.0)
        self.priced = bool(self.price.any())
        self.weight = np.maximum(_sane([info.weight for info in infos], 1.0), 1e-9)
        self.hash = np.array([hash_of(name) for name in self.ids], np.uint64)
        self.leases = [node.leases for node in nodes]
        self.version += 1
        self._able.clear()

    def able(self, wanted: Requirement, swarm: str = "", region: str = "") -> Mask:
        """Which nodes could ever run it; only those of a swarm or a region, where one is named."""
        found = self._able.get((wanted, swarm, region))
        if found is None:
            if len(self._able) >= 10_000:
                self._able.clear()
            able = (
                (not swarm or info.swarm == swarm) and (not region or info.region == region) and eligible(wanted, info)
                for info in self.infos
            )
            found = self._able[wanted, swarm, region] = np.fromiter(able, np.bool_, len(self.infos))
            found &= self.total[0] > 0
        return found

    def fits(self, takes: Sequence[tuple[str, int]]) -> Ints:
        """How many attempts that take so much each node has room for now."""
        if not takes:
            return np.full(len(self), np.iinfo(np.int64).max)
        room: Ints | None = None
        for resource, units in takes:
            free = self.free[COLUMN[resource]]
            fit = free if units == 1 else free // units
            room = fit if room is None else np.minimum(room, fit)
        assert room is not None
        return np.maximum(room, 0)

    def load(self, takes: Sequence[tuple[str, int]]) -> tuple[Floats, Floats]:
        """The share in use of what is scarcest of what such an attempt takes, once it had one more; and how much one adds."""
        worst: Floats | None = None
        growth: Floats | None = None
        for resource, units in takes:
            row = COLUMN[resource]
            adds = self.share[row] * units
            used = (self.total[row] - self.free[row]) * self.share[row] + adds
            worst, growth = (
                (used, adds) if worst is None or growth is None else (np.maximum(worst, used), np.maximum(growth, adds))
            )
        if worst is None or growth is None:
            return np.zeros(len(self)), np.zeros(len(self))
        return worst, growth

    def take(self, at: int, takes: Sequence[tuple[str, int]], count: int = 1) -> None:
        """Less is free on that node from here on."""
        for resource, units in takes:
            self.free[COLUMN[resource], at] -= units * count


def hash_of(text: str) -> int:
    """64 bits that spread well, the same everywhere."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def _free(nodes: Sequence[LiveNode]) -> Ints:
    """A row a node."""
    try:
        flat = np.fromiter(chain.from_iterable(_in_order(node.free) for node in nodes), np.int64, len(nodes) * len(RESOURCES))
    except KeyError:
        flat = np.array([node.free.get(name, 0) for node in nodes for name in RESOURCES], np.int64)
    return flat.reshape(len(nodes), len(RESOURCES))


def _sane(values: list[float], default: float) -> Floats:
    """Negative values and those that are no numbers count as the default: a node may say anything of itself."""
    array = np.array(values, np.float64)
    return np.where(np.isfinite(array) & (array >= 0), array, default)
