"""A batch gets the cheapest places, exactly as if its tasks were placed one after the other."""

from __future__ import annotations

import heapq

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skep.router.spread import least, spread

NODES = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 5), st.integers(0, 40)), min_size=1, max_size=12)


def one_by_one(nodes: list[tuple[int, int, int]], count: int) -> list[float]:
    """What each task costs, when each takes the cheapest place that is left."""
    heap = [(float(first), at, 0) for at, (first, _, room) in enumerate(nodes) if room]
    heapq.heapify(heap)
    prices: list[float] = []
    while heap and len(prices) < count:
        price, at, level = heap[0]
        prices.append(price)
        if level + 1 < nodes[at][2]:
            heapq.heapreplace(heap, (price + nodes[at][1], at, level + 1))
        else:
            heapq.heappop(heap)
    return prices


@given(NODES, st.integers(1, 200))
def test_a_batch_costs_what_its_tasks_cost_one_by_one(nodes: list[tuple[int, int, int]], count: int) -> None:
    first, step, room = (np.array(column) for column in zip(*nodes, strict=True))
    at, given_ = spread(first.astype(float), step.astype(float), room, count)
    assert (given_ <= room[at]).all()
    assert len(set(at.tolist())) == len(at)
    found = [float(first[row] + step[row] * level) for row, some in zip(at, given_, strict=True) for level in range(some)]
    assert sorted(found) == sorted(one_by_one(nodes, count))


def test_it_does_so_where_there_are_too_many_places_to_look_at_all() -> None:
    chance = np.random.default_rng(1)
    first, step = chance.random(3_000), chance.random(3_000) / 100
    room = chance.integers(0, 50, 3_000)
    at, given_ = spread(first, step, room, 2_000)
    found = sorted(first[row] + step[row] * level for row, some in zip(at, given_, strict=True) for level in range(some))
    every = np.sort(np.concatenate([first[row] + step[row] * np.arange(room[row]) for row in range(3_000)]))
    assert found == pytest.approx(every[:2_000].tolist())


def test_equal_nodes_get_equal_shares() -> None:
    _, given_ = spread(np.full(40, 0.25), 0.01, np.full(40, 1_000), 4_000)
    assert set(given_.tolist()) == {100}


def test_nodes_that_cost_infinitely_much_get_nothing() -> None:
    at, given_ = spread(np.array([np.inf, 1.0, np.inf]), 0.0, np.array([5, 5, 5]), 9)
    assert (at.tolist(), given_.tolist()) == ([1], [5])


@given(st.lists(st.integers(0, 6), min_size=2, max_size=300), st.data())
def test_the_lowest_are_found_also_where_many_are_equal(values: list[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(values) - 1))
    found = least(np.array(values, np.float64), count)
    assert len(set(found.tolist())) == count
    assert sorted(values[at] for at in found) == sorted(values)[:count]
