"""The policies: each a small function over a `Look` that says what each node would cost."""

from __future__ import annotations

from typing import Final

import numpy as np

from skep.router.fleet import Floats, hash_of
from skep.router.look import Costs, Look, Policy

_UNLIKELY: Final = 1e9
"""A cost beyond all others, for what is taken only when nothing else is left."""


def round_robin(look: Look) -> Costs:
    """One after the other."""
    nodes = len(look.fleet)
    return Costs((np.arange(nodes) - look.turn) % max(nodes, 1) * 1.0, float(nodes))


def weighted(look: Look) -> Costs:
    """In proportion to the nodes' weights, evenly mixed: the node whose share is the furthest behind comes next."""
    step = 1.0 / look.fleet.weight
    return Costs(look.served + step, step)


def least_loaded(look: Look) -> Costs:
    """The node whose scarcest resource has the largest share left."""
    return Costs(look.load, look.growth)


def power_of_two(look: Look) -> Costs:
    """The less loaded of two drawn by lot; for a batch, of twice as many as there are tasks."""
    free = np.flatnonzero(look.room > 0)
    drawn = look.chance.choice(free, min(2 * look.count, len(free)), replace=False) if len(free) else free
    cost = look.load + _UNLIKELY
    cost[drawn] -= _UNLIKELY
    return Costs(cost, look.growth)


def consistent_hash(look: Look) -> Costs:
    """Tasks of one affinity key (else of one kind) go to one node, and to the same one after others came or went: rendezvous
    hashing, by weight. Where that node has no room, the next one in the key's own order takes it."""
    key = np.uint64(hash_of(look.wanted.affinity or look.wanted.kind.name))
    mixed = look.fleet.hash ^ key
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # splitmix64
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    drawn = ((mixed >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return Costs(-np.log(drawn) / look.fleet.weight)


def specialised(look: Look) -> Costs:
    """The first of the preferred nodes that has room; among equals, and where none has, the least loaded."""
    return least_loaded(look)  # preferred nodes are looked at first under every policy


def cheapest(look: Look) -> Costs:
    """The least money for the task: price by predicted time, price alone where nothing is known. Then by load."""
    return Costs(_relative(_money(look), look) + 1e-3 * look.load, 1e-3 * look.growth)


def fastest(look: Look) -> Costs:
    """The earliest predicted end; by load where nothing is known, and among equals."""
    if look.run_s is None:
        return least_loaded(look)
    unit = _least(look.run_s, look)
    done = look.run_s if look.transfer_s is None else look.run_s + look.transfer_s
    return Costs(done / unit + 1e-3 * look.load, 1e-3 * look.growth, 1.0 / unit)


def hybrid(look: Look) -> Costs:
    """The weighted mix; see `Weights`."""
    weights, run_s = look.weights, look.run_s
    terms: dict[str, Floats] = {"load": weights.load * look.load}
    unit, wait = 1.0, 0.0
    if run_s is not None:
        unit = _least(run_s, look)
        wait = weights.completion / unit
        terms["completion"] = run_s * wait
    if look.transfer_s is not None and weights.locality:
        terms["locality"] = look.transfer_s * (weights.locality / unit)
    if look.success is not None and weights.reliability:
        lost = 1.0 / look.success - 1.0
        terms["reliability"] = weights.reliability * (lost if run_s is None else lost * (run_s / unit))
    if look.home >= 0 and weights.affinity:
        terms["affinity"] = np.full(len(look.fleet), weights.affinity)
        terms["affinity"][look.home] = 0.0
    price = weights.cost_sensitive if look.wanted.cost_sensitive else weights.price
    if price and look.fleet.priced:
        terms["price"] = price * _relative(_money(look), look)
    first = sum(terms.values())
    assert isinstance(first, np.ndarray)
    return Costs(first, weights.load * look.growth, wait, terms)


POLICIES: Final[dict[str, Policy]] = {
    "round-robin": round_robin,
    "weighted": weighted,
    "least-loaded": least_loaded,
    "power-of-two": power_of_two,
    "consistent-hash": consistent_hash,
    "specialised": specialised,
    "cheapest": cheapest,
    "fastest": fastest,
    "hybrid": hybrid,
}
"""By the names that users write. More come from the entry points `skep.policies`, handed to the router."""


def _money(look: Look) -> Floats:
    return look.fleet.price if look.run_s is None else look.fleet.price * look.run_s


def _relative(values: Floats, look: Look) -> Floats:
    """In units of the least that is not nothing."""
    positive = look.usable & (values > 0)
    return values / values.min(where=positive, initial=np.inf) if positive.any() else values


def _least(values: Floats, look: Look) -> float:
    """The least of the usable nodes, as a unit: more than 0."""
    return max(float(values.min(where=look.usable, initial=np.inf)), 1e-9)
