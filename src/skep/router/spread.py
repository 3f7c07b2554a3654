"""A batch over the nodes: the cheapest places for so many equal tasks, without a step of Python for each."""

from __future__ import annotations

import numpy as np

from skep.router.fleet import Floats, Ints

_FEW = 4_096
"""Places that are simply all looked at."""


def spread(first: Floats, step: Floats | float, room: Ints, count: int) -> tuple[Ints, Ints]:
    """Where `count` equal tasks go, when the next one on a node costs `first`, the one after it `step` more, and so on, and no
    node gets more than it has `room` for: which nodes, and how many each. Together `count`, or all the room there is."""
    rows = np.flatnonzero(room > 0)
    cost = first if len(rows) == len(first) else first[rows]
    if not np.isfinite(cost).all():
        rows = rows[np.isfinite(cost)]
        cost = first[rows]
    if not len(rows):
        return rows, rows
    if count == 1:
        return rows[cost.argmin()][None], np.ones(1, np.int64)
    if len(rows) > count:  # each task can only go to one of the `count` cheapest nodes
        keep = least(cost, count)
        rows, cost = rows[keep], cost[keep]
    caps = np.minimum(room[rows], count)
    if int(caps.sum()) <= count:
        return rows, caps
    steps = step[rows] if isinstance(step, np.ndarray) else np.full(len(rows), step)
    if int(caps.sum()) > _FEW:
        caps = _bounded(cost, steps, caps, count)
    which = np.repeat(np.arange(len(rows)), caps)
    level = np.arange(len(which)) - np.repeat(np.cumsum(caps) - caps, caps)
    price = cost[which] + steps[which] * level
    # Among equal prices the first round comes first, and then the first node: equal nodes get equal shares.
    best = np.lexsort((which, level, price.round(12)))[:count]
    given = np.bincount(which[best], minlength=len(rows))
    some = np.flatnonzero(given)
    return rows[some], given[some]


def least(cost: Floats, count: int) -> Ints:
    """Where the `count` lowest of more costs are, in order of place; among equal ones the first. Much faster than to sort, also
    where many are equal."""
    sample = cost[:: max(len(cost) // (8 * count), 1)]
    bound = np.partition(sample, count - 1)[count - 1] if len(sample) > count else cost.max()
    below = np.flatnonzero(cost < bound)
    if len(below) > count:
        limit = np.partition(cost[below], count - 1)[count - 1]
        equal = np.flatnonzero(cost == limit)
        below = below[cost[below] < limit]
    else:
        equal = np.flatnonzero(cost == bound)
    return np.sort(np.concatenate((below, equal[: count - len(below)])))


def _bounded(cost: Floats, steps: Floats, caps: Ints, count: int) -> Ints:
    """Fewer places, but still the cheapest `count` of them: those up to a price that is found by halving."""
    low, high = float(cost.min()), float((cost + steps * (caps - 1)).max())
    rising = steps > 0
    found = caps
    for _ in range(60):
        price = (low + high) / 2
        levels = np.where(cost <= price, caps, 0).astype(np.float64)
        np.divide(price - cost, steps, out=levels, where=rising)
        levels = np.where(rising, np.floor(levels) + 1, levels)
        places = np.clip(levels, 0, caps).astype(np.int64)
        total = int(places.sum())
        if total >= count:
            found, high = places, price
            if total <= count + len(cost):
                break
        else:
            low = price
    return found
