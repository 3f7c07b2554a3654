"""Where tasks go: only where they fit, spread over what is free, never more than there is."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skep.model.node import LiveNode, NodeInfo, Requirement
from skep.router.fit import eligible, has, least_loaded, shortfall, unroutable


def node(name: str = "n", draining: bool = False, free: dict[str, int] | None = None, **info: Any) -> LiveNode:
    made = NodeInfo(name, **({"slots": 4, "cpu_milli": 4_000, "memory": 1_000, "vram": 1_000} | info))
    whole = {"slots": made.slots, "cpu": made.cpu_milli, "memory": made.memory, "vram": made.vram}
    return LiveNode(made, whole | (free or {}), 0, draining)


NODES = st.lists(
    st.builds(
        lambda slots, cpu, memory, draining, gpu, share: node(
            draining=draining,
            slots=slots,
            cpu_milli=cpu,
            memory=memory,
            capabilities=("cpu", "gpu") if gpu else ("cpu",),
            free={"slots": int(slots * share), "cpu": int(cpu * share), "memory": int(memory * share)},
        ),
        st.integers(0, 20),
        st.integers(0, 8_000),
        st.integers(0, 5_000),
        st.booleans(),
        st.booleans(),
        st.floats(0, 1),
    ),
    max_size=6,
).map(lambda nodes: [one._replace(info=NodeInfo(f"n{at}", **facts(one.info))) for at, one in enumerate(nodes)])


def facts(info: NodeInfo) -> dict[str, Any]:
    return {key: getattr(info, key) for key in ("slots", "cpu_milli", "memory", "vram", "capabilities")}


WANTED = st.builds(
    Requirement,
    executor=st.just("run"),
    requires=st.sampled_from([(), ("gpu",)]),
    cpu_milli=st.integers(0, 3_000),
    memory=st.integers(0, 2_000),
)


@given(WANTED, st.integers(0, 60), NODES)
def test_no_node_is_ever_given_more_than_it_has_free(wanted: Requirement, count: int, nodes: list[LiveNode]) -> None:
    before = {one.info.id: dict(one.free) for one in nodes}
    chosen = least_loaded(wanted, count, nodes)
    taken = Counter(chosen)
    takes = dict(wanted.takes())
    for one in nodes:
        left = {name: free - takes.get(name, 0) * taken[one.info.id] for name, free in before[one.info.id].items()}
        assert one.free == left
        assert all(units >= 0 for units in left.values())
        if taken[one.info.id]:
            assert eligible(wanted, one.info)
            assert not one.draining
    room = sum(
        min(before[one.info.id][name] // units for name, units in takes.items())
        for one in nodes
        if eligible(wanted, one.info) and not one.draining
    )
    assert len(chosen) == min(count, room), "as many as fit, and no fewer"


@pytest.mark.parametrize("cpu_milli", [0, 500])
def test_equal_nodes_get_equal_shares(cpu_milli: int) -> None:
    nodes = [node(f"n{at}", slots=8, cpu_milli=8_000) for at in range(4)]
    assert set(Counter(least_loaded(Requirement("run", (), cpu_milli), 20, nodes)).values()) == {5}


def test_the_node_with_the_most_left_of_its_scarcest_resource_comes_first() -> None:
    nodes = [node("tight", slots=100, free={"cpu": 1_000}), node("wide", slots=4, free={"slots": 3})]
    assert least_loaded(Requirement("run", (), 1_000), 1, nodes) == ["wide"]


def test_larger_nodes_get_more() -> None:
    nodes = [node("small", slots=2), node("large", slots=6)]
    assert Counter(least_loaded(Requirement("run"), 4, nodes)) == {"large": 3, "small": 1}


def test_a_node_that_is_over_committed_already_gets_nothing() -> None:
    over = node(free={"slots": -2})
    assert least_loaded(Requirement("run"), 3, [over]) == []
    assert over.free["slots"] == -2


@pytest.mark.parametrize(
    ("word", "there"),
    [("gpu", True), ("zone", True), ("zone=eu", True), ("zone=us", False), ("ssd", False), ("eu", False), ("=", False)],
)
def test_a_word_is_a_capability_a_label_or_the_value_of_a_label(word: str, there: bool) -> None:
    info = NodeInfo("n", capabilities=("cpu", "gpu"), labels={"zone": "eu"})
    assert has(info, word) == there


@pytest.mark.parametrize(
    ("wanted", "lack"),
    [
        (Requirement("run"), ""),
        (Requirement("agent"), "does not run `agent` tasks"),
        (Requirement("run", ("gpu", "cpu", "ssd")), "lacks gpu, ssd"),
        (Requirement("run", (), 4_001), "has too little cpu"),
        (Requirement("run", (), 0, 1_001), "has too little memory"),
        (Requirement("run", (), 0, 0, 1_001), "has too little vram"),
    ],
)
def test_what_a_node_lacks_is_said_in_words(wanted: Requirement, lack: str) -> None:
    assert shortfall(wanted, node().info) == lack


def test_what_no_node_can_run_is_refused_with_every_reason() -> None:
    nodes = [node(f"n{at}").info for at in range(7)]
    assert unroutable(Requirement("run"), nodes) == ""
    assert unroutable(Requirement("run"), []) == "there are no nodes"
    assert unroutable(Requirement("run", ("gpu",)), nodes) == "; ".join(f"n{at} lacks gpu" for at in range(5))
    assert unroutable(Requirement("run", ("gpu",)), [*nodes, node(capabilities=("gpu",)).info]) == ""
