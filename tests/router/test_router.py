"""The router: batches, holding, balance, and what goes wrong around it."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from skep.model.node import Requirement
from skep.router.fleet import Fleet
from skep.router.look import Costs, Look
from skep.router.predictor import Prediction
from skep.router.router import Router
from skep.router.settings import RouterSettings
from skep.router.wanted import Choice, Kind
from tests.router.nodes import Known, live, some, wanted

GPU = Requirement("run", ("gpu",))


# -- filters


def test_what_no_node_can_ever_run_is_told_apart_from_what_must_wait() -> None:
    router = Router()
    router.sync([live("a", free=0), live("b", draining=True)])
    assert router.route([wanted(), wanted(requirement=GPU)], 0) == [Choice("", "full"), Choice("", "unable")]
    router.sync([])
    assert router.route([wanted()], 0) == [Choice("", "unable")]


def test_nodes_without_slots_run_nothing() -> None:
    router = Router()
    router.sync([live("a", slots=0), live("b", slots=-3, free=-3)])
    assert router.route([wanted()], 0) == [Choice("", "unable")]


def test_swarm_and_region_are_filters() -> None:
    router = Router()
    router.sync([live("a"), live("b", swarm="edge"), live("c", region="eu")])
    tasks = [wanted(swarm="edge"), wanted(region="eu"), wanted(swarm="none")]
    assert [choice.node or choice.why for choice in router.route(tasks, 0)] == ["b", "c", "unable"]


def test_a_swarm_may_have_a_policy_of_its_own() -> None:
    router = Router(RouterSettings(swarms={"edge": "round-robin"}))
    router.sync([live("a", swarm="edge", slots=9), live("b", swarm="edge", slots=99)])
    assert [router.route([wanted()], 0)[0].node for _ in range(4)] == ["a", "b", "a", "b"]


def test_a_node_where_tasks_of_a_type_fail_gets_none_then_one_and_then_all_again() -> None:
    router = Router()
    nodes = some(2)
    router.sync(nodes)
    kind = Kind("w/t", "testing", "run")
    task = wanted()._replace(kind=kind)
    for lease in range(3):
        router.ended(lease, "n01", kind, "succeeded", 10, 0)
        router.ended(-lease - 1, "n00", kind, "failed", 10, 0)
    assert {choice.node for choice in router.route([task] * 3, 0)} == {"n01"}
    router.sync(nodes)
    choices = Counter(choice.node for choice in router.route([task] * 3, 60_000))
    assert choices["n00"] == 1
    router.began("canary", "n00", kind, 60_000)
    router.ended("canary", "n00", kind, "succeeded", 10, 60_010)
    router.sync(nodes)
    assert Counter(choice.node for choice in router.route([task] * 8, 60_020))["n00"] == 4


def test_where_all_nodes_are_shut_off_none_is() -> None:
    router = Router()
    router.sync([live("a", capabilities=("gpu",)), live("b")])
    kind = Kind("w/t", "", "run")
    for lease in range(9):
        router.ended(f"b{lease}", "b", kind, "succeeded", 10, 0)
    for lease in range(4):
        router.ended(f"a{lease}", "a", kind, "failed", 10, 0)
    assert [choice.node for choice in router.route([wanted()] * 2, 0)] == ["b", "b"]
    assert [choice.node for choice in router.route([wanted(requirement=GPU)], 0)] == ["a"]


# -- batches


def test_equal_nodes_under_saturation_get_equal_shares() -> None:
    """Also while they end at random, and the predictions learn from it."""
    chance = np.random.default_rng(3)
    router = Router()
    kind = wanted().kind
    ends: dict[str, list[int]] = {f"n{at:02}": [] for at in range(10)}
    given: Counter[str] = Counter()
    lease = 0
    for now_ms in range(0, 60_000, 50):
        for name, there in ends.items():
            for end_ms in [end_ms for end_ms in there if end_ms <= now_ms]:
                there.remove(end_ms)
                router.ended((name, end_ms), name, kind, "succeeded", 1_000, now_ms)
        router.sync([live(name, free=4 - len(there)) for name, there in ends.items()])
        for choice in router.route([wanted()] * 100, now_ms):
            if choice.node:
                lease += 1
                given[choice.node] += 1
                end_ms = now_ms + int(chance.uniform(900, 1_100) * 1_000) // 1_000
                while end_ms in ends[choice.node]:
                    end_ms += 1
                ends[choice.node].append(end_ms)
                router.began((choice.node, end_ms), choice.node, kind, now_ms)
        assert all(len(there) == 4 for there in ends.values()), "nothing is idle while tasks wait"
    assert min(given.values()) / max(given.values()) >= 0.98


def test_a_thousand_tasks_do_not_all_go_to_the_best_node() -> None:
    router = Router(RouterSettings(hold=False), predictor=Known({"w/t": [1.0, *[3.0] * 9]}))
    router.sync(some(10, slots=100))
    assert Counter(choice.node for choice in router.route([wanted()] * 1_000, 0)) == {f"n{at:02}": 100 for at in range(10)}


def test_the_first_in_line_are_served_first() -> None:
    router = Router()
    router.sync([live("a", slots=3)])
    choices = router.route([wanted("w/first"), wanted("w/second"), wanted("w/second"), wanted("w/third")], 0)
    assert [choice.node for choice in choices] == ["a", "a", "a", ""]


# -- holding


def two(slow_s: float, fast_s: float, spread: float = 0.0) -> Router:
    """One slow node that is free, and a fast one that is busy with a task that just began."""
    router = Router(predictor=Known({"w/t": (slow_s, fast_s)}, spread))
    router.sync([live("slow", slots=1), live("fast", slots=1)])
    assert router.route([wanted()], 0) == [Choice("fast")]
    router.began("first", "fast", wanted().kind, 0)
    router.sync([live("slow", slots=1), live("fast", slots=1, free=0)])
    return router


def test_a_task_waits_for_a_busy_node_that_is_done_with_it_sooner() -> None:
    router = two(slow_s=10, fast_s=2)
    held = router.route([wanted()], 500)[0]
    assert (held.node, held.why, held.node_waited_for) == ("", "held", "fast")
    assert held.wait_s == pytest.approx(1.5, abs=0.01)
    assert two(slow_s=3, fast_s=2).route([wanted()], 500)[0].node == "slow"


def test_only_so_many_wait_as_are_done_sooner_that_way() -> None:
    choices = two(slow_s=10, fast_s=2).route([wanted()] * 6, 0)
    assert [choice.why for choice in choices] == ["held", "held", "held", "", "full", "full"]
    assert choices[3].node == "slow"
    assert [choice.wait_s for choice in choices[:3]] == [2, 4, 6]


def test_tasks_of_other_kinds_stand_in_the_same_line() -> None:
    router = two(slow_s=10, fast_s=2)
    router.predictor.seconds |= {"w/long": (20.0, 7.0), "w/u": (10.0, 2.0)}  # type: ignore[attr-defined]
    choices = router.route([wanted("w/long"), wanted("w/u")], 0)
    assert [choice.node or choice.why for choice in choices] == ["held", "slow"]


def test_a_node_that_overruns_its_prediction_is_believed_less_and_less() -> None:
    for late_ms, why in ((500, "held"), (3_000, "held"), (10_500, "")):
        router = two(slow_s=10, fast_s=2)
        assert router.route([wanted()], 2_000 + late_ms)[0].why == why


def test_nobody_waits_for_what_is_not_sure() -> None:
    assert two(slow_s=5, fast_s=2).route([wanted()], 0)[0].why == "held"
    assert two(slow_s=5, fast_s=2, spread=1.0).route([wanted()], 0)[0].node == "slow"


def test_nobody_waits_without_predictions_or_against_the_settings() -> None:
    router = two(slow_s=10, fast_s=2)
    assert router.route([wanted("w/unknown")], 0)[0].node == "slow"
    router = two(slow_s=10, fast_s=2)
    router.settings = RouterSettings(hold=False)
    assert router.route([wanted()], 0)[0].node == "slow"


def test_nobody_waits_for_a_few_milliseconds() -> None:
    assert two(slow_s=0.03, fast_s=0.01).route([wanted()], 0)[0].node == "slow"


def test_a_node_with_several_slots_is_waited_for_by_its_next_one() -> None:
    router = Router(predictor=Known({"w/t": (10.0, 2.0), "w/long": (50.0, 50.0)}))
    router.sync([live("slow", slots=1), live("fast", slots=2, free=0)])
    router.began("a", "fast", wanted("w/long").kind, 0)
    router.began("b", "fast", wanted().kind, 1_000)
    assert router.route([wanted()], 2_000)[0].wait_s == pytest.approx(1.0, abs=0.01)


def test_attempts_that_ended_unnoticed_are_not_waited_for() -> None:
    router = two(slow_s=10, fast_s=2)
    router.sync([live("slow", slots=1), live("fast", slots=1)])
    assert router.route([wanted()], 100)[0].node == "fast"


def test_a_pass_looks_at_a_bounded_number_of_tasks() -> None:
    router = two(slow_s=1e9, fast_s=2)
    choices = router.route([wanted()] * 5_000, 0)
    held = sum(choice.why == "held" for choice in choices)
    assert held == 2_000
    assert choices[held].node == "slow"


# -- what goes wrong


def nan(look: Look) -> Costs:
    return Costs(np.full(len(look), np.nan))


def short(look: Look) -> Costs:
    return Costs(np.zeros(1))


def nobody(look: Look) -> Costs:
    raise ZeroDivisionError("nobody")


def nothing(look: Look) -> Costs:
    return None  # type: ignore[return-value]


@pytest.mark.parametrize("policy", [nan, short, nobody, nothing])
def test_a_policy_that_does_not_work_is_told_once_and_counted_and_the_least_loaded_node_taken(policy: object) -> None:
    told: list[tuple[str, str]] = []
    router = Router(policies={"own": policy}, failed=lambda *what: told.append(what))  # type: ignore[dict-item]
    router.sync([live("a", free=1), live("b", free=4)])
    assert [router.route([wanted(policy="own")], 0)[0].node for _ in range(3)] == ["b", "b", "b"]
    assert router.failures == {"own": 3}
    assert [name for name, _ in told] == ["own"]
    assert told[0][1]


def test_an_unknown_policy_counts_as_one_that_does_not_work() -> None:
    told: list[tuple[str, str]] = []
    router = Router(failed=lambda *what: told.append(what))
    router.sync(some(2))
    assert router.route([wanted(policy="fastets")], 0)[0].node == "n00"
    assert told == [("fastets", "there is no policy 'fastets'")]


def test_own_policies_are_used_by_name() -> None:
    def last(look: Look) -> Costs:
        return Costs(-look.rows.astype(np.float64))

    router = Router(policies={"last": last})
    router.sync(some(3))
    assert router.route([wanted(policy="last")], 0) == [Choice("n02")]


class Odd:
    """A predictor that does not make sense."""

    def __init__(self, median_s: list[float], spread: float = 0.0) -> None:
        self._median_s, self._spread = median_s, spread

    def predict(self, kind: Kind, fleet: Fleet) -> Prediction | None:
        return Prediction(np.array(self._median_s), np.full(len(self._median_s), self._spread))

    def learn(self, kind: Kind, node: str, ran_s: float, ok: bool) -> None:
        pass


@pytest.mark.parametrize("median_s", [[np.nan] * 2, [0.0, 0.0], [-1.0, -1.0], [np.inf, np.inf], [1.0], [1.0] * 3])
def test_a_prediction_that_makes_no_sense_counts_as_unknown(median_s: list[float]) -> None:
    router = Router(predictor=Odd(median_s))
    router.sync([live("a", free=1), live("b", free=2)])
    assert router.route([wanted()], 0) == [Choice("b")]
    assert router.explain(wanted(), 0).candidates[0].run_s is None


def test_where_only_some_make_no_sense_the_others_count() -> None:
    router = Router(predictor=Odd([np.nan, 2.0, 1.0], spread=np.nan))
    router.sync(some(3))
    assert router.route([wanted()], 0) == [Choice("n02")]


def test_nodes_that_say_nonsense_of_themselves_are_ordinary_ones() -> None:
    for policy in ("hybrid", "cheapest", "weighted", "consistent-hash"):
        router = Router(RouterSettings(policy=policy))
        router.sync([live("a", cost_per_hour=float("nan"), weight=-1.0), live("b", cost_per_hour=-5.0, weight=float("inf"))])
        assert all(choice.node for choice in router.route([wanted()] * 8, 0))
        assert router.failures == {}


def test_a_clock_that_goes_back_breaks_nothing() -> None:
    router = two(slow_s=10, fast_s=2)
    assert router.route([wanted()], -1_000_000)[0].why in ("", "held")
    router.ended("first", "fast", wanted().kind, "succeeded", -5, -2_000_000)
    router.sync(some(2))
    assert router.route([wanted()], -3_000_000)[0].node


def test_ends_that_are_repeated_or_unknown_are_harmless() -> None:
    router = Router()
    router.sync(some(2))
    for result in ("succeeded", "failed", "cancelled", "snoozed", "parked", "lost") * 2:
        router.ended("x", "gone", wanted().kind, result, 1_000, 0)
    assert all(choice.node for choice in router.route([wanted()] * 8, 0))


# -- in the open


def test_an_explanation_says_what_route_then_does() -> None:
    router = two(slow_s=10, fast_s=2)
    told = router.explain(wanted(), 500)
    choice = router.route([wanted()], 500)[0]
    assert (told.node, told.why, told.node_waited_for) == (choice.node, choice.why, choice.node_waited_for)
    assert told.wait_s == choice.wait_s
    assert told.policy == "hybrid"
    first, second = told.candidates
    assert (first.node, first.room, first.run_s, second.node) == ("fast", 0, 2.0, "slow")
    assert second.cost == pytest.approx(sum(second.terms.values()))
    assert set(second.terms) == {"load", "completion"}


def test_an_explanation_takes_nothing() -> None:
    router = Router()
    router.sync([live("a", slots=1)])
    for _ in range(3):
        assert router.explain(wanted(), 0).node == "a"
    assert router.route([wanted()], 0) == [Choice("a")]
    assert router.explain(wanted(), 0).why == "full"


def test_an_explanation_says_why_nodes_are_ruled_out() -> None:
    router = Router()
    router.sync(
        [live("a"), live("b", swarm="s", draining=True), live("c", swarm="s", executors=()), live("d", swarm="s", slots=0)]
    )
    told = router.explain(wanted(swarm="s"), 0)
    assert {one.node: one.why for one in told.ruled_out} == {
        "a": "is not of the swarm s",
        "b": "takes nothing new",
        "c": "does not run `run` tasks",
        "d": "has no slots",
    }
    assert told.why == "full"


def test_an_explanation_of_many_nodes_is_short() -> None:
    router = Router()
    router.sync([*some(60, slots=1), *(live(f"x{at}", capabilities=(), executors=()) for at in range(50))])
    told = router.explain(wanted(), 0, most=10)
    assert (len(told.candidates), told.more, len(told.ruled_out), told.more_ruled_out) == (10, 50, 10, 40)
    assert told.node == router.route([wanted()], 0)[0].node


def test_preferences_are_explained() -> None:
    router = Router()
    router.sync(some(3))
    task = wanted(prefer=("n02",))
    told = router.explain(task, 0)
    assert (told.node, told.candidates[0].preferred) == ("n02", 1)
