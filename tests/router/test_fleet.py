"""The nodes as arrays say what the nodes say, however they change between two looks."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from skep.model.node import LiveNode, Requirement
from skep.router.fit import eligible
from skep.router.fleet import Fleet
from tests.router.nodes import live, some

NODE = st.tuples(st.integers(0, 5), st.integers(0, 3), st.booleans(), st.booleans())
TAKES = (("slots", 1), ("cpu", 700))


def made(rows: dict[int, tuple[int, int, bool, bool]]) -> list[LiveNode]:
    return [
        live(f"n{at}", free=free, draining=drains, capabilities=("gpu",) if gpu else (), slots=5)._replace(leases=leases)
        for at, (free, leases, drains, gpu) in rows.items()
    ]


@given(st.lists(st.dictionaries(st.integers(0, 8), NODE, max_size=8), min_size=1, max_size=6), st.data())
def test_it_is_the_same_as_if_it_were_looked_at_for_the_first_time(
    looks: list[dict[int, tuple[int, int, bool, bool]]], data: st.DataObject
) -> None:
    fleet = Fleet()
    known: dict[LiveNode | int, LiveNode] = {}
    for rows in looks:
        nodes = [known.setdefault(hash(str(node)), node) for node in made(rows)]  # the same object, where nothing changed
        fleet.sync(nodes)
        fresh = Fleet()
        fresh.sync(nodes)
        assert fleet.ids == fresh.ids == [node.info.id for node in nodes]
        assert fleet.leases == fresh.leases
        for name in ("free", "total", "open", "price", "weight", "hash"):
            assert np.array_equal(getattr(fleet, name), getattr(fresh, name)), name
        gpu = Requirement("run", ("gpu",))
        assert fleet.able(gpu).tolist() == [eligible(gpu, node.info) for node in nodes]
        if nodes:
            fleet.take(np.array([data.draw(st.integers(0, len(nodes) - 1))]), TAKES, np.array([1]))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 2)), max_size=12))
def test_what_there_is_room_for_is_right_after_whatever_was_taken(taken: list[tuple[int, int]]) -> None:
    fleet = Fleet()
    fleet.sync(some(4, slots=30, cpu_milli=20_000))
    fleet.space(TAKES)
    for row, count in taken:
        fleet.take(np.array([row]), TAKES, np.array([count]))
        if count == 2:
            fleet.space((("slots", 1),))
    for takes in (TAKES, (("slots", 1),)):
        space = fleet.space(takes)
        free = {name: fleet.free[at] for at, name in enumerate(("slots", "cpu"))}
        assert space.room.tolist() == np.min([np.maximum(free[name], 0) // units for name, units in takes], axis=0).tolist()
        used = [(fleet.total[at] - fleet.free[at] + units) / fleet.total[at] for at, (_, units) in enumerate(takes)]
        assert np.allclose(space.load, np.max(used, axis=0))


def test_units_that_a_node_does_not_name_are_not_free() -> None:
    fleet = Fleet()
    fleet.sync([live("a")._replace(free={"slots": 2})])
    assert fleet.fits((("slots", 1),)).tolist() == [2]
    assert fleet.fits((("slots", 1), ("memory", 1))).tolist() == [0]
