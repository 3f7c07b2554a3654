"""The policies: each a small function over a `Look` that says what each node would cost."""

from __future__ import annotations

from typing import Final

import numpy as np

from skep.router.fleet import Floats, hash_of
from skep.router.look import Costs, Look, Policy

IN_TIME: Final = 0.1
"""How much completion still counts of its weight for tasks that are sensitive to cost and have a deadline."""
LAST: Final = 1e9
"""A cost beyond all others, for what is taken only when nothing else is left."""


def round_robin(look: Look) -> Costs:
    """One after the other."""
    nodes = len(look.fleet)
    return Costs(((look.rows - look.turn) % nodes).astype(np.float64), float(nodes))


def weighted(look: Look) -> Costs:
    """In proportion to the nodes' weights, evenly mixed: the node whose share is the furthest behind comes next."""
    step: Floats = 1.0 / look.weight
    return Costs(look.served + step, step)


def least_loaded(look: Look) -> Costs:
    """The node whose scarcest resource has the largest share left."""
    return Costs(look.load, look.growth)


def power_of_two(look: Look) -> Costs:
    """The less loaded of two drawn by lot; for a batch, the least loaded of twice as many as there are tasks."""
    free = np.flatnonzero(look.room > 0)
    drawn = look.chance.choice(free, min(2 * look.count, len(free)), replace=False) if len(free) else free
    cost = look.load + LAST
    cost[drawn] = look.load[drawn]
    return Costs(cost, look.growth)


def consistent_hash(look: Look) -> Costs:
    """Tasks of one affinity key (else of one kind) go to one node, and still to the same one after others came or went:
    rendezvous hashing, by weight. Where that node has no room, the next one in the key's own order takes them."""
    mixed = look.fleet.hash[look.rows] ^ np.uint64(hash_of(look.wanted.affinity or look.wanted.kind.name))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # splitmix64
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    drawn = ((mixed >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return Costs(-np.log(drawn) / look.weight)


def specialised(look: Look) -> Costs:
    """The first of the preferred nodes that has room; among equals, and where none has, the least loaded. What is preferred
    comes first under every policy."""
    return least_loaded(look)


def cheapest(look: Look) -> Costs:
    """The least money for the task: price by predicted time, price alone where nothing is known. Then by load."""
    return Costs(_relative(look.money) + 1e-3 * look.load, 1e-3 * look.growth)


def fastest(look: Look) -> Costs:
    """The earliest predicted end; by load where nothing is known, and among equals."""
    if look.run_s is None:
        return least_loaded(look)
    wait = 1.0 / _least(look.run_s)
    done = look.run_s if look.transfer_s is None else look.run_s + look.transfer_s
    return Costs(done * wait + 1e-3 * look.load, 1e-3 * look.growth, wait)


def hybrid(look: Look) -> Costs:
    """The weighted mix; see `Weights`."""
    weights, run_s = look.weights, look.run_s
    terms: dict[str, Floats] = {"load": weights.load * look.load}
    unit, wait = 1.0, 0.0
    if run_s is not None:
        unit = _least(run_s)
        in_time = look.wanted.cost_sensitive and look.wanted.due_ms > 0  # then it need not be soon as well
        wait = weights.completion * (IN_TIME if in_time else 1.0) / unit
        terms["completion"] = run_s * wait
    if look.transfer_s is not None and weights.locality:
        terms["locality"] = look.transfer_s * (weights.locality / unit)
    if look.success is not None and weights.reliability:
        lost = 1.0 / look.success - 1.0
        terms["reliability"] = weights.reliability * (lost if run_s is None else lost * (run_s / unit))
    if look.home >= 0 and weights.affinity:
        terms["affinity"] = np.where(look.rows == look.home, 0.0, weights.affinity)
    price = weights.cost_sensitive if look.wanted.cost_sensitive else weights.price
    if price and look.fleet.priced:
        terms["price"] = price * _relative(look.money)
    first, *more = terms.values()
    for term in more:
        first = first + term
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


def _relative(values: Floats) -> Floats:
    """In units of the least that is not nothing."""
    positive = values > 0
    return values / values.min(where=positive, initial=np.inf) if positive.any() else values


def _least(values: Floats) -> float:
    """The least of them, as a unit: more than 0."""
    return max(float(values.min(initial=np.inf)), 1e-9)
