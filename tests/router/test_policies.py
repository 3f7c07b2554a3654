"""Each policy does what its name says; none sends a node more than it has room for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skep.model.node import LiveNode, Requirement
from skep.router.policies import POLICIES
from skep.router.router import Router
from skep.router.settings import RouterSettings, Weights
from skep.router.wanted import Wanted
from tests.router.nodes import Known, live, some, wanted


def names(policy: str, nodes: Sequence[LiveNode], tasks: Sequence[Wanted], seconds: Sequence[float] = ()) -> list[str]:
    """Where the tasks go, one after the other, each in a pass of its own while nothing ends."""
    router = Router(RouterSettings(policy=policy, hold=False), predictor=Known({"w/t": seconds} if seconds else {}))
    router.sync(nodes)
    return [router.route([task], 0)[0].node for task in tasks]


def test_round_robin_goes_round() -> None:
    assert names("round-robin", some(3), [wanted()] * 7) == ["n00", "n01", "n02", "n00", "n01", "n02", "n00"]


def test_round_robin_goes_round_in_a_batch_as_well() -> None:
    router = Router(RouterSettings(policy="round-robin"))
    router.sync(some(3))
    router.route([wanted()], 0)
    assert Counter(choice.node for choice in router.route([wanted()] * 7, 0)) == {"n01": 3, "n02": 2, "n00": 2}


@pytest.mark.parametrize("batch", [1, 40])
def test_weighted_gives_shares_by_weight(batch: int) -> None:
    nodes = [live(name, slots=1_000, weight=weight) for name, weight in (("gpu", 2.0), ("cpu", 1.0), ("edge", 1.0))]
    router = Router(RouterSettings(policy="weighted"))
    router.sync(nodes)
    found = Counter(choice.node for _ in range(400 // batch) for choice in router.route([wanted()] * batch, 0))
    assert found == {"gpu": 200, "cpu": 100, "edge": 100}


def test_weighted_mixes_evenly() -> None:
    nodes = [live("a", slots=100, weight=2.0), live("b", slots=100, weight=1.0)]
    assert "".join(names("weighted", nodes, [wanted()] * 9)).count("aaa") == 0


def test_least_loaded_takes_the_largest_share_left() -> None:
    nodes = [live("small", slots=2), live("large", slots=8, free=5)]
    assert names("least-loaded", nodes, [wanted()] * 3) == ["small", "large", "large"]


def test_least_loaded_looks_at_what_is_scarcest() -> None:
    nodes = [live("a", slots=8, cpu_milli=1_000), live("b", slots=8, cpu_milli=8_000)]
    task = wanted(requirement=Requirement("run", (), 500))
    assert names("least-loaded", nodes, [task] * 3) == ["b"] * 3


def test_power_of_two_takes_the_less_loaded_of_two() -> None:
    """The most loaded node is never drawn together with a worse one."""
    nodes = [live("full", slots=100, free=1), *some(9, slots=100)]
    assert "full" not in names("power-of-two", nodes, [wanted()] * 200)


def test_power_of_two_keeps_equal_nodes_nearly_even() -> None:
    found = Counter(names("power-of-two", some(10, slots=1_000), [wanted()] * 2_000))
    assert max(found.values()) - min(found.values()) < 20


KEYS = [f"session-{at}" for at in range(60)]


@given(st.integers(2, 12), st.integers(0, 11))
def test_consistent_hash_moves_only_what_must_move(count: int, gone: int) -> None:
    nodes = some(count, slots=1_000)
    left = nodes.pop(gone % count)
    router = Router(RouterSettings(policy="consistent-hash"))
    before: dict[str, str] = {}
    for fleet, found in (([*nodes, left], before), (nodes, after := dict[str, str]())):
        router.sync(fleet)
        found.update(
            zip(KEYS, (choice.node for choice in router.route([wanted(affinity=key) for key in KEYS], 0)), strict=True)
        )
    assert all(after[key] == node for key, node in before.items() if node != left.info.id)


def test_consistent_hash_spreads_keys_by_weight() -> None:
    nodes = [live("a", slots=9_999, weight=2.0), live("b", slots=9_999), live("c", slots=9_999)]
    found = Counter(names("consistent-hash", nodes, [wanted(affinity=f"k{at}") for at in range(4_000)]))
    assert found["a"] == pytest.approx(2_000, rel=0.1)
    assert found["b"] == pytest.approx(1_000, rel=0.15)


def test_consistent_hash_takes_the_keys_next_node_where_the_first_is_full() -> None:
    nodes = some(4, slots=1)
    order = names("consistent-hash", nodes, [wanted(affinity="k")] * 4)
    assert sorted(order) == ["n00", "n01", "n02", "n03"]
    rest = [node for node in nodes if node.info.id != order[0]]
    assert names("consistent-hash", rest, [wanted(affinity="k")] * 3) == order[1:]


@pytest.mark.parametrize("policy", ["specialised", "hybrid", "round-robin"])
def test_preferred_nodes_come_first_in_their_order_and_others_when_they_are_full(policy: str) -> None:
    nodes = [*some(2, slots=1), live("walnut", slots=2), live("acacia", slots=1, labels={"wood": "hard"})]
    found = names(policy, nodes, [wanted(prefer=("walnut", "wood=hard"))] * 5)
    assert found[:3] == ["walnut", "walnut", "acacia"]
    assert sorted(found[3:]) == ["n00", "n01"]


def test_a_preferred_node_that_drains_or_is_dead_is_passed_over() -> None:
    nodes = [live("a", draining=True), live("c")]
    assert names("specialised", nodes, [wanted(prefer=("a", "b", "c"))]) == ["c"]


def test_what_a_task_type_prefers_can_be_set_for_the_fleet() -> None:
    router = Router(RouterSettings(prefer={"testing": ("n02",)}))
    router.sync(some(4))
    task = wanted()
    assert router.route([task._replace(kind=task.kind._replace(type="testing"))], 0)[0].node == "n02"


def test_cheapest_takes_the_least_money_for_the_task() -> None:
    nodes = [live("fast", cost_per_hour=3.0), live("slow", cost_per_hour=2.0)]
    assert names("cheapest", nodes, [wanted()], (1.0, 2.0)) == ["fast"]
    assert names("cheapest", nodes, [wanted()]) == ["slow"]


def test_fastest_takes_the_earliest_end() -> None:
    assert names("fastest", some(3, slots=1), [wanted()] * 3, (3.0, 1.0, 2.0)) == ["n01", "n02", "n00"]


def test_hybrid_takes_the_fastest_and_among_equals_the_least_loaded() -> None:
    assert names("hybrid", some(3), [wanted()] * 5, (2.0, 1.0, 1.0)) == ["n01", "n02", "n01", "n02", "n01"]


def test_hybrid_goes_where_the_inputs_are_unless_it_is_much_slower_there() -> None:
    near = wanted(near=(("n01", 1_000_000_000),))
    assert names("hybrid", some(2), [near], (5.0, 9.0)) == ["n01"]
    assert names("hybrid", some(2), [near], (5.0, 30.0)) == ["n00"]


def test_hybrid_keeps_the_tasks_of_one_key_together_while_there_is_room() -> None:
    nodes = some(3, slots=2)
    found = names("hybrid", nodes, [wanted(affinity="talk"), wanted(), wanted(affinity="talk"), wanted(affinity="talk")])
    assert found[0] == found[2] != found[3]


def test_hybrid_avoids_nodes_where_attempts_fail() -> None:
    router = Router()
    router.sync(some(2))
    kind = wanted().kind
    for lease in range(40):
        router.ended(lease, "n01", kind, "succeeded", 1_000, 0)
        router.ended(-lease, "n00", kind, "succeeded" if lease % 2 else "failed", 1_000, 0)
    assert router.route([wanted()], 0)[0].node == "n01"


def test_money_counts_as_much_as_its_weight_says() -> None:
    nodes = [live("rapid", cost_per_hour=16.0), live("slow", cost_per_hour=1.0)]
    known = Known({"w/t": (1.0, 4.0)})
    found = {}
    for weight in (0.0, 4.0):
        router = Router(RouterSettings(weights=Weights(price=weight)), predictor=known)
        router.sync(nodes)
        found[weight] = router.route([wanted()], 0)[0].node
    assert found == {0.0: "rapid", 4.0: "slow"}


def test_who_is_sensitive_to_cost_gets_the_cheapest_node_that_meets_the_deadline() -> None:
    nodes = [live("rapid", cost_per_hour=16.0), live("fast", cost_per_hour=4.0), live("slow", cost_per_hour=1.0)]
    router = Router(predictor=Known({"w/t": (10.0, 20.0, 40.0)}))
    for due_ms, node in ((0, "slow"), (60_000, "slow"), (30_000, "fast"), (15_000, "rapid"), (1_000, "rapid")):
        router.sync(nodes)
        assert router.route([wanted(cost_sensitive=True, due_ms=due_ms)], 0)[0].node == node


@pytest.mark.parametrize("policy", POLICIES)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.booleans()), min_size=1, max_size=6),
    st.lists(st.sampled_from(("w/a", "w/b", "w/c")), max_size=20),
    st.booleans(),
)
def test_no_node_gets_more_than_it_has_room_for_and_nothing_is_left_over(
    policy: str, fleet: list[tuple[int, int, bool]], tasks: list[str], known: bool
) -> None:
    nodes = [
        live(f"n{at}", slots=slots, free=min(free, slots), draining=drains) for at, (slots, free, drains) in enumerate(fleet)
    ]
    seconds = {name: [float(1 + at) for at in range(len(nodes))] for name in ("w/a", "w/b")} if known else {}
    router = Router(RouterSettings(policy=policy, hold=False), predictor=Known(seconds), chance=np.random.default_rng(1))
    router.sync(nodes)
    choices = router.route([wanted(name, affinity=name[-1:] if name == "w/c" else "") for name in tasks], 0)
    room = {node.info.id: 0 if node.draining else node.free["slots"] for node in nodes}
    taken = Counter(choice.node for choice in choices if choice.node)
    assert all(taken[name] <= room[name] for name in taken)
    assert sum(taken.values()) == min(len(tasks), sum(room.values()))
    assert router.failures == {}
