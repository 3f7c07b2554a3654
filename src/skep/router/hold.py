"""Holding tasks back: the virtual list scheduling that tells which tasks should wait for a busy node.

Each task in turn goes to the place where it costs least, which may be a slot that is still taken: then it waits for it, and the
slot is taken for that much longer in the eyes of the tasks behind it.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from skep.router.fleet import Ints
from skep.router.look import Costs, Look, lateness
from skep.router.settings import RouterSettings

Queue = list[float]
"""When the busy slots of a node will be free, in seconds from now: a heap, the next one first."""


class Place(NamedTuple):
    """Where one task goes, or what it waits for."""

    row: int
    """Of the fleet."""
    wait_s: float = -1.0
    """-1: it goes there now."""


class Scheduled(NamedTuple):
    """What came of it."""

    places: list[Place]
    taken: dict[int, int]
    """Row → how many tasks go there now."""
    lined_up: dict[int, int]
    """Row → how many of these stand in its queue already."""


def contenders(look: Look, costs: Costs, at: Ints, given: Ints, settings: RouterSettings) -> Ints:
    """Items of nodes that will have no room left but could be worth waiting for, when `given` tasks go to the items `at`."""
    assert look.median_s is not None
    assert look.run_s is not None
    step = costs.step[at] if isinstance(costs.step, np.ndarray) else costs.step
    dearest = float((costs.first[at] + step * (given - 1)).max())
    left = look.room.copy()
    left[at] -= given
    known = costs.first + costs.wait * (look.median_s - look.run_s)
    return np.flatnonzero((left <= 0) & (known + costs.wait * settings.least_gain_s < dearest))


def waiting_cost(look: Look, costs: Costs, item: int, wait_s: float, settings: RouterSettings) -> float:
    """What it costs to wait so long for a node: more than it seems, as long as the predictions are not sure."""
    assert look.median_s is not None
    assert look.run_s is not None
    assert look.spread is not None
    done_s = wait_s + float(look.median_s[item])
    doubt_s = settings.doubt * float(look.spread[item]) * done_s + settings.least_gain_s
    cost = float(costs.first[item]) + costs.wait * (done_s + doubt_s - float(look.run_s[item]))
    late = lateness(look, wait_s + doubt_s)
    return cost if late is None else cost + float(late[item] - costs.terms["deadline"][item])


def schedule(
    look: Look,
    costs: Costs,
    at: Ints,
    given: Ints,
    waits: Ints,
    queue_of: Callable[[int], Queue],
    settings: RouterSettings,
    most: int,
) -> Scheduled:
    """Places for up to `look.count` tasks, in their order. It ends when the free places that `given` names are all taken, or
    after `most` tasks. `queue_of` a row of the fleet gives its queue, which is changed."""
    assert look.median_s is not None
    rows, median_s = look.rows, look.median_s
    free = dict(zip(at.tolist(), given.tolist(), strict=True))
    left = sum(free.values())
    could = set(waits.tolist())
    steps = costs.step if isinstance(costs.step, np.ndarray) else np.full(len(look), costs.step)

    taken: dict[int, int] = {}
    lined_up: dict[int, int] = {}

    def later(item: int) -> tuple[float, int, float]:
        row = int(rows[item])
        queue = queue_of(row)
        for _ in range(taken.get(row, 0) - lined_up.get(row, 0)):
            heapq.heappush(queue, float(median_s[item]))
        lined_up[row] = taken.get(row, 0)
        return (waiting_cost(look, costs, item, queue[0], settings), item, queue[0]) if queue else (math.inf, item, 0.0)

    places = [(float(costs.first[item]), item, -1.0) for item in free]
    places += [later(item) for item in could if look.room[item] <= 0]
    heapq.heapify(places)
    chosen: list[Place] = []
    while left and len(chosen) < most:
        cost, item, wait_s = places[0]
        row = int(rows[item])
        chosen.append(Place(row, wait_s))
        if wait_s >= 0:
            heapq.heapreplace(queue_of(row), wait_s + float(median_s[item]))
            heapq.heapreplace(places, later(item))
            continue
        taken[row] = taken.get(row, 0) + 1
        left -= 1
        free[item] -= 1
        if free[item]:
            heapq.heapreplace(places, (cost + float(steps[item]), item, -1.0))
        elif item in could:
            heapq.heapreplace(places, later(item))
        else:
            heapq.heappop(places)
    return Scheduled(chosen, taken, lined_up)
