"""The simulation: what it computes where that is known beforehand, and what must hold whatever it is given."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skep.errors import RefusedError
from skep.testing.lab.simulate.bound import Bounds
from skep.testing.lab.simulate.fleetfile import Arrivals, Failures, FleetFile
from skep.testing.lab.simulate.measure import jain, percentile
from skep.testing.lab.simulate.play import ESTIMATES, LEARNED, NAMES, PERFECT, Played, Player, play
from skep.testing.lab.simulate.trace import ALONE, trace_of
from skep.testing.lab.simulate.work import Work
from tests.testing.lab.simulate.fleets import fleet, instance, task, work

ONE = fleet({"name": "one"})
KNOWING = Player("hybrid", PERFECT)
TWO = fleet({"name": "slow"}, {"name": "fast", "speed": 2})


def played(
    fleet: FleetFile,
    *works: Work,
    player: Player = KNOWING,
    arrivals: Arrivals = ALONE,
    seed: int = 1,
    noise: float = 0.0,
    keep: bool = False,
) -> Played:
    trace = trace_of(works, fleet, arrivals, seed=seed, noise=noise, work_ms=10_000)
    return play(player, fleet.nodes, trace, seed=seed, keep=keep)


def test_a_chain_takes_as_long_as_its_tasks_on_the_fastest_node() -> None:
    flow = work({"a": task(3), "b": task(4, "a"), "c": task(5, "b")})
    found = played(TWO, flow).measured
    assert (found.makespan_ms, found.attempts, found.lost, found.failed) == (6_000, 3, 0, 0)
    assert found.utilisation == pytest.approx(0.5)


def test_the_longest_way_goes_first() -> None:
    flow = work({"short": task(2), "long": task(2), "after": task(6, "long")})
    assert played(ONE, flow).measured.makespan_ms == 10_000
    spans = played(ONE, flow, keep=True).spans
    assert [span.step for span in sorted(spans, key=lambda span: span.start_ms)] == [1, 2, 0]


def test_who_waits_for_the_fast_node_is_held_back() -> None:
    flow = work({"a": task(10), "b": task(10)})
    four = fleet({"name": "slow"}, {"name": "fast", "speed": 4})
    assert played(four, flow).measured.makespan_ms == 5_000  # both on the fast one, for 2.5 s each
    assert played(four, flow, player=Player("round-robin")).measured.makespan_ms == 10_000


def test_a_type_has_a_speed_of_its_own() -> None:
    gpu = fleet({"name": "gpu", "speed": {"default": 1, "training": 5}})
    assert played(gpu, work({"a": task(10, type="training"), "b": task(10, "a")})).measured.makespan_ms == 12_000


def test_cost_is_the_time_in_use_by_the_price() -> None:
    priced = fleet({"name": "a", "cost_per_hour": 3.6, "slots": 2})
    found = played(priced, work({"a": task(1_000), "b": task(1_000)})).measured
    assert found.cost == pytest.approx(1.0)  # two slots of two, for 1,000 s


def test_a_map_has_children_and_a_wait_takes_no_node() -> None:
    flow = work(
        {
            "wait": {"wait_for": {"event": "go"}, "estimated_duration": "5s"},
            "each": {**task(2, "wait"), "map": [1, 2, 3]},
            "end": task(1, "each"),
        }
    )
    found = played(ONE, flow).measured
    assert (found.makespan_ms, found.attempts) == (5_000 + 3 * 2_000 + 1_000, 4)


def test_what_only_a_run_knows_is_assumed_and_said() -> None:
    flow = work({"list": {"run": "ls"}, "each": {**task(1), "map": "${{ tasks.list.output }}"}})
    assert flow.children == {1: 10}
    assert [text.partition(":")[0] for text in flow.assumed] == [
        "list without `estimated_duration`",
        "each over what only a run knows",
    ]
    assert played(ONE, flow).measured.attempts == 11


def test_a_lost_nodes_attempts_run_again() -> None:
    flow = work({f"t{at}": task(20) for at in range(6)})
    losing = replace(TWO, failures=Failures(lost=1, back_after_ms=5_000))
    found = played(losing, flow, player=Player("least-loaded"), keep=True)
    measured = found.measured
    assert measured.failed == 0
    assert measured.lost == sum(span.lost for span in found.spans) == 1
    assert measured.attempts == 7


def test_runs_that_can_never_end_are_told() -> None:
    flow = work({"a": task(20, requires=["gpu"]), "b": task(20, "a", requires=["gpu"])})
    fragile = fleet({"name": "gpu", "capabilities": ["gpu"]}, {"name": "cpu"})
    losing = replace(fragile, failures=Failures(lost=1))
    traces = {seed: trace_of([flow], losing, ALONE, seed=seed, noise=0, work_ms=10_000) for seed in range(8)}
    seeds = [seed for seed, trace in traces.items() if trace.losses[0].node == "gpu"]
    with pytest.raises(RefusedError, match="1 of 1 runs never end: the nodes that could run their tasks are lost"):
        played(losing, flow, seed=seeds[0])


@pytest.mark.parametrize("predictions", [PERFECT, LEARNED, ESTIMATES])
def test_the_same_seed_gives_the_same(predictions: str) -> None:
    losing = replace(fleet({"name": "a", "count": 4}, {"name": "b", "count": 4, "speed": 3}), failures=Failures(lost=2))
    flows = instance("1000genome"), instance("montage")
    how: dict[str, Any] = {"arrivals": Arrivals("poisson", 20_000, 8), "noise": 0.3, "player": Player("hybrid", predictions)}
    first, again, other = (played(losing, *flows, seed=seed, keep=True, **how) for seed in (5, 5, 6))
    assert first == again
    assert first != other


def test_learning_from_earlier_runs_helps() -> None:
    flow, two = instance("helloworld"), fleet({"name": "slow", "count": 8}, {"name": "fast", "count": 4, "speed": 4})
    trace = trace_of([flow], two, ALONE, seed=1, noise=0, work_ms=1)
    new = play(Player("hybrid", LEARNED, 0), two.nodes, trace).measured
    learned = play(Player("hybrid", LEARNED, 3), two.nodes, trace, earlier=[trace] * 3).measured
    assert learned.makespan_ms < new.makespan_ms


# -- whatever it is given


@st.composite
def flows(draw: st.DrawFn) -> Work:
    tasks: dict[str, Any] = {}
    for at in range(draw(st.integers(1, 12))):
        ups = draw(st.sets(st.sampled_from(sorted(tasks)), max_size=3)) if tasks else set()
        kind = draw(st.sampled_from(["", "training"]))
        tasks[f"t{at}"] = task(draw(st.integers(0, 60_000)) / 1000, *sorted(ups), **({"type": kind} if kind else {}))
    return work(tasks)


@st.composite
def fleets(draw: st.DrawFn) -> FleetFile:
    groups = [
        {
            "name": f"g{at}",
            "count": draw(st.integers(1, 3)),
            "slots": draw(st.integers(1, 3)),
            "speed": {"default": draw(st.sampled_from([0.5, 1, 3])), "training": draw(st.sampled_from([1, 7]))},
        }
        for at in range(draw(st.integers(1, 3)))
    ]
    return fleet(*groups)


@settings(max_examples=60, deadline=None)
@given(
    fleet=fleets(),
    works=st.lists(flows(), min_size=1, max_size=3),
    policy=st.sampled_from(NAMES),
    predictions=st.sampled_from([PERFECT, LEARNED, ESTIMATES]),
    arrivals=st.sampled_from([ALONE, Arrivals("every", 7_000), Arrivals("poisson", 9_000, 5)]),
    noise=st.sampled_from([0.0, 0.3]),
    lost=st.booleans(),
)
def test_nobody_is_faster_than_the_bound_and_every_task_runs(
    fleet: FleetFile, works: list[Work], policy: str, predictions: str, arrivals: Arrivals, noise: float, lost: bool
) -> None:
    fleet = replace(fleet, failures=Failures(lost=int(lost), back_after_ms=3_000))
    trace = trace_of(works, fleet, arrivals, seed=3, noise=noise, work_ms=10_000)
    found = play(Player(policy, predictions), fleet.nodes, trace, seed=3, keep=True)
    measured = found.measured
    assert measured.makespan_ms >= Bounds(fleet.nodes).lower_bound_ms(trace.runs)
    assert measured.attempts == sum(run.work.size for run in trace.runs) + measured.lost
    assert (measured.runs, measured.failed) == (len(trace.runs), 0)
    busy: dict[tuple[str, int], int] = {}
    for span in sorted(found.spans, key=lambda span: (span.start_ms, span.end_ms)):
        assert span.start_ms >= busy.get((span.node, span.slot), 0)  # a slot runs one after the other
        busy[span.node, span.slot] = span.end_ms
    assert measured.utilisation <= 1.0 + 1e-9
    assert 0 < measured.fairness <= 1.0 + 1e-9


def test_measures() -> None:
    assert [percentile([1, 2, 3, 4], percent) for percent in (0, 50, 95, 100)] == [1, 2, 4, 4]
    assert jain([2, 2, 2]) == pytest.approx(1.0)
    assert jain([1, 0, 0, 0]) == pytest.approx(0.25)
