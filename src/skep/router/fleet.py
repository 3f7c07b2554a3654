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
        self.touched: list[Ints] = []
        """Nodes that something was taken of since the last `sync`."""
        self._spaces: dict[tuple[tuple[str, int], ...], Space] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def sync(self, nodes: Sequence[LiveNode]) -> None:
        """Takes over what the engine says now. A node that is handed in as the same object as the last time is taken to be
        unchanged; so is its NodeInfo."""
        old = self._nodes
        anew = len(nodes) != len(old)
        changed = [] if anew else list(compress(range(len(nodes)), map(is_not, nodes, old)))
        anew = anew or any(nodes[at].info is not old[at].info and nodes[at].info != old[at].info for at in changed)
        if anew:
            self._know(nodes)
        if anew or len(changed) * 2 > len(nodes):
            self._said = np.ascontiguousarray(_free(nodes).T)
            self.leases = [node.leases for node in nodes]
            self.open = np.fromiter((not (node.draining or node.coming) for node in nodes), np.bool_, len(nodes))
        elif changed:
            some = [nodes[at] for at in changed]
            self._said[:, changed] = _free(some).T
            self.open[changed] = [not (node.draining or node.coming) for node in some]
            for at in changed:
                self.leases[at] = nodes[at].leases
        self._nodes = list(nodes)
        self.free = self._said.copy()
        self.touched.clear()
        self._spaces.clear()

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

    def swarms(self, mask: Mask) -> set[str]:
        """The swarms of some nodes."""
        return {self.infos[at].swarm for at in np.flatnonzero(mask).tolist()}

    def space(self, takes: Sequence[tuple[str, int]]) -> Space:
        """What there is for attempts that take so much. Kept up to date while attempts are placed."""
        takes = tuple(takes)
        found = self._spaces.get(takes)
        if found is None:
            found = self._spaces[takes] = Space(self, takes)
        elif found.seen < len(self.touched):
            found.renew(self, np.concatenate(self.touched[found.seen :]))
        found.seen = len(self.touched)
        return found

    def fits(self, takes: Sequence[tuple[str, int]]) -> Ints:
        """How many attempts that take so much each node has room for now."""
        return self.space(takes).room

    def take(self, rows: Ints, takes: Sequence[tuple[str, int]], counts: Ints) -> None:
        """Less is free on these nodes from here on; each is named once."""
        for resource, units in takes:
            self.free[COLUMN[resource], rows] -= units * counts
        self.touched.append(rows)


class Space:
    """What attempts that all take the same find on each node."""

    __slots__ = ("growth", "load", "room", "seen", "takes")

    def __init__(self, fleet: Fleet, takes: tuple[tuple[str, int], ...]) -> None:
        self.takes = takes
        self.seen = 0
        self.growth: Floats = np.zeros(len(fleet))
        """What one more adds to `load`."""
        for resource, units in takes:
            self.growth = np.maximum(self.growth, fleet.share[COLUMN[resource]] * units)
        self.room, self.load = self._measured(fleet, slice(None))
        """How many more there is room for; and the share in use of what is scarcest, once there was one more."""

    def renew(self, fleet: Fleet, rows: Ints) -> None:
        """On some nodes less is free than it was."""
        self.room[rows], self.load[rows] = self._measured(fleet, rows)

    def _measured(self, fleet: Fleet, rows: slice | Ints) -> tuple[Ints, Floats]:
        room: Ints | None = None
        load: Floats | None = None
        for resource, units in self.takes:
            row = COLUMN[resource]
            free = fleet.free[row, rows]
            fits = free if units == 1 else free // units
            used = (fleet.total[row, rows] - free + units) * fleet.share[row, rows]
            room = fits if room is None else np.minimum(room, fits)
            load = used if load is None else np.maximum(load, used)
        if room is None or load is None:
            size = len(fleet.free[0, rows])
            return np.full(size, np.iinfo(np.int32).max, np.int64), np.zeros(size)
        return np.maximum(room, 0), load


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
