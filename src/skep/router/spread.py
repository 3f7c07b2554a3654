"""A batch over the nodes: the cheapest places for so many equal tasks, without a step of Python for each."""

from __future__ import annotations

import numpy as np

from skep.router.fleet import Floats, Ints

_FEW = 4_096
"""Places that are simply all looked at."""


def spread(first: Floats, step: Floats | float, room: Ints, count: int) -> Ints:
    """How many of `count` equal tasks each node gets, when the next one there costs `first`, the one after that `step` more, and
    so on, and no node gets more than it has `room` for. The total is `count`, or all the room there is."""
    given = np.zeros(len(first), np.int64)
    rows = np.flatnonzero(room > 0)
    if not len(rows):
        return given
    cost = first[rows]
    if count == 1:
        given[rows[cost.argmin()]] = 1
        return given
    if len(rows) > count:  # each task can only go to one of the `count` cheapest nodes
        keep = np.sort(np.argpartition(cost, count - 1)[:count])
        rows, cost = rows[keep], cost[keep]
    caps = np.minimum(room[rows], count)
    if int(caps.sum()) <= count:
        given[rows] = caps
        return given
    steps = step[rows] if isinstance(step, np.ndarray) else np.full(len(rows), step)
    if len(rows) * count > _FEW:
        caps = _bounded(cost, steps, caps, count)
    which = np.repeat(np.arange(len(rows)), caps)
    level = np.arange(len(which)) - np.repeat(np.cumsum(caps) - caps, caps)
    price = cost[which] + steps[which] * level
    # Among equal prices the first round comes first, and then the first node: equal nodes get equal shares.
    best = np.lexsort((which, level, price))[:count] if len(which) <= _FEW else np.argpartition(price, count - 1)[:count]
    given[rows] = np.bincount(which[best], minlength=len(rows))
    return given


def _bounded(cost: Floats, steps: Floats, caps: Ints, count: int) -> Ints:
    """Fewer places, but still the cheapest `count` of them: those up to a price that is found by halving."""
    low, high = float(cost.min()), float((cost + steps * (caps - 1)).max())
    if not np.isfinite(high):
        return caps
    found = caps
    for _ in range(40):
        price = (low + high) / 2
        with np.errstate(divide="ignore", invalid="ignore"):
            levels = np.where(steps > 0, np.floor((price - cost) / steps) + 1, np.where(cost <= price, caps, 0))
        places = np.clip(levels, 0, caps).astype(np.int64)
        total = int(places.sum())
        if total >= count:
            found, high = places, price
            if total <= count + len(cost):
                break
        else:
            low = price
    return found
