"""Predictions: learned from what ended, also for nodes where a task never ran."""

from __future__ import annotations

import json

import numpy as np
import pytest

from skep.router import evidence, learned
from skep.router.fleet import Fleet, Floats
from skep.router.learned import LearnedPredictor
from skep.router.wanted import Kind
from tests.router.nodes import some

SPEEDS = np.array([1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4], np.float64)


def fleet(count: int = 16) -> Fleet:
    made = Fleet()
    made.sync(some(count))
    return made


def kind(name: str, type_: str = "", size: int = 0, estimate_ms: int = 0) -> Kind:
    return Kind(name, type_, "run", size, estimate_ms)


class World:
    """Tasks that take `work` seconds, divided by the speed of the node, with noise."""

    def __init__(self, noise: float = 0.0, tasks: int = 60) -> None:
        self.chance = np.random.default_rng(7)
        self.noise = noise
        self.work = np.exp(self.chance.uniform(-2, 5, tasks))
        self.fleet = fleet()
        self.predictor = LearnedPredictor()

    def run(self, speeds: Floats = SPEEDS) -> None:
        """Every task once, anywhere."""
        for at, work in enumerate(self.work):
            node = int(self.chance.integers(16))
            took_s = work / speeds[node] * np.exp(self.chance.normal(0, self.noise))
            self.predictor.learn(kind(f"w/{at}"), f"n{node:02}", round(took_s, 3), True)

    def errors(self, speeds: Floats = SPEEDS) -> Floats:
        """How far off the predictions are, of each task on every node: 0.1 is 10 %."""
        found = []
        for at, work in enumerate(self.work):
            prediction = self.predictor.predict(kind(f"w/{at}"), self.fleet)
            assert prediction is not None
            found.append(np.abs(np.log(prediction.median_s * speeds / work)))
        return np.array(found)


def test_nothing_is_known_of_what_never_ran() -> None:
    assert LearnedPredictor().predict(kind("w/t"), fleet()) is None


def test_after_three_runs_every_task_is_predicted_on_every_node() -> None:
    world = World()
    for _ in range(3):
        world.run()
    assert np.median(world.errors()) < 0.15
    assert np.quantile(world.errors(), 0.9) < 0.35


def test_it_gets_better_with_every_run_and_noise_only_blurs_it() -> None:
    world = World(noise=0.2)
    found = []
    for _ in range(8):
        world.run()
        found.append(float(np.median(world.errors())))
    assert found[7] < found[2] < found[0]
    assert found[7] < 0.12


def test_a_node_that_never_ran_a_task_is_judged_by_its_pace_elsewhere() -> None:
    predictor, nodes = LearnedPredictor(), fleet(3)
    for _ in range(4):
        for at in range(10):
            predictor.learn(kind(f"w/{at}"), "n00", 1.0 + at, True)
            predictor.learn(kind(f"w/{at}"), "n01", (1.0 + at) / 4, True)
    predictor.learn(kind("w/new"), "n00", 100.0, True)
    found = predictor.predict(kind("w/new"), nodes)
    assert found is not None
    assert found.median_s[0] / found.median_s[1] == pytest.approx(4, rel=0.2)
    assert found.spread[2] > found.spread[0]
    assert found.hope is not None
    assert found.hope[2] < found.hope[1] < 1


def test_a_node_may_suit_one_type_better_than_others() -> None:
    predictor, nodes = LearnedPredictor(), fleet(2)
    for _ in range(10):
        for at in range(4):
            for type_, factor in (("training", 6.0), ("testing", 1.0)):
                predictor.learn(kind(f"{type_}/{at}", type_), "n00", 10.0, True)
                predictor.learn(kind(f"{type_}/{at}", type_), "n01", 10.0 / factor, True)
    for type_, factor in (("training", 6.0), ("testing", 1.0)):
        predictor.learn(kind(f"{type_}/x", type_), "n00", 10.0, True)
        found = predictor.predict(kind(f"{type_}/x", type_), nodes)
        assert found is not None
        assert found.median_s[0] / found.median_s[1] == pytest.approx(factor, rel=0.35)


def test_what_its_author_expects_counts_until_more_is_known() -> None:
    predictor, nodes = LearnedPredictor(), fleet(2)
    said = kind("w/t", estimate_ms=5_000)
    first = predictor.predict(said, nodes)
    assert first is not None
    assert first.median_s.tolist() == pytest.approx([5.0, 5.0])
    for _ in range(5):
        predictor.learn(said, "n00", 60.0, True)
    then = predictor.predict(said, nodes)
    assert then is not None
    assert then.median_s[0] == pytest.approx(60, rel=0.1)
    assert then.spread[0] < first.spread[0]


def test_a_kind_that_never_ran_is_expected_to_be_like_others_of_its_type() -> None:
    predictor, nodes = LearnedPredictor(), fleet(1)
    for at in range(8):
        predictor.learn(kind(f"w/{at}", "testing"), "n00", 30.0, True)
    found = predictor.predict(kind("w/new", "testing"), nodes)
    assert found is not None
    assert found.median_s[0] == pytest.approx(30, rel=0.2)
    assert predictor.predict(kind("w/new", "training"), nodes) is None


def test_the_size_of_the_input_counts() -> None:
    predictor, nodes = LearnedPredictor(), fleet(1)
    chance = np.random.default_rng(1)
    for _ in range(200):
        size = 2 ** int(chance.integers(10, 20))
        predictor.learn(kind("w/t", size=size), "n00", size / 2**10 * float(np.exp(chance.normal(0, 0.1))), True)
    small, large = (predictor.predict(kind("w/t", size=size), nodes) for size in (2**11, 2**18))
    assert small is not None
    assert large is not None
    assert np.log2(large.median_s[0] / small.median_s[0]) == pytest.approx(7, abs=1)


def test_quantiles_hold_what_they_say() -> None:
    predictor, nodes = LearnedPredictor(), fleet(1)
    chance = np.random.default_rng(2)
    for _ in range(100):
        predictor.learn(kind("w/t"), "n00", float(np.exp(chance.normal(1, 0.3))), True)
    found = predictor.predict(kind("w/t"), nodes)
    assert found is not None
    took = np.exp(chance.normal(1, 0.3, 2_000))
    assert (took <= found.quantile(1.28)[0]).mean() == pytest.approx(0.9, abs=0.07)


def test_a_node_that_has_become_slower_is_noticed_soon() -> None:
    world = World(tasks=30)
    for _ in range(6):
        world.run()
    changed = SPEEDS.copy()
    changed[15] = 1.0
    for _ in range(12):
        at = int(world.chance.integers(30))
        world.predictor.learn(kind(f"w/{at}"), "n15", float(world.work[at]), True)
    assert np.median(world.errors(changed)[:, 15]) < 0.4


def test_a_task_that_has_changed_is_learned_anew() -> None:
    world = World(tasks=10)
    for _ in range(6):
        world.run()
    for _ in range(8):
        node = int(world.chance.integers(16))
        world.predictor.learn(kind("w/3"), f"n{node:02}", float(world.work[3] * 10 / SPEEDS[node]), True)
    world.work[3] *= 10
    assert np.median(world.errors()[3]) < 0.4


def test_success_is_told_for_nodes_where_attempts_failed() -> None:
    predictor, nodes = LearnedPredictor(), fleet(2)
    for at in range(30):
        predictor.learn(kind("w/t"), "n00", 1.0, True)
        predictor.learn(kind("w/t"), "n01", 1.0, at % 2 == 0)
    found = predictor.predict(kind("w/t"), nodes)
    assert found is not None
    assert found.success is not None
    assert found.success[0] == 1
    assert found.success[1] == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize("ran_s", [0.0, -1.0, float("nan"), float("inf"), 1e300])
def test_odd_durations_break_nothing(ran_s: float) -> None:
    predictor, nodes = LearnedPredictor(), fleet(1)
    predictor.learn(kind("w/t"), "n00", 1.0, True)
    predictor.learn(kind("w/t"), "n00", ran_s, True)
    found = predictor.predict(kind("w/t"), nodes)
    assert found is not None
    assert np.isfinite(found.median_s).all()
    assert (found.median_s > 0).all()


def test_what_was_learned_is_kept_over_a_restart() -> None:
    world = World()
    for _ in range(4):
        world.run()
    world.predictor.learn(kind("w/1"), "n03", 1.0, False)
    fresh = LearnedPredictor()
    fresh.restore(json.loads(json.dumps(world.predictor.state())))
    for at in range(60):
        was, found = (one.predict(kind(f"w/{at}"), world.fleet) for one in (world.predictor, fresh))
        assert was is not None
        assert found is not None
        assert np.abs(np.log(found.median_s / was.median_s)).max() < 0.1
        assert found.success is not None
    fresh.learn(kind("w/1"), "n03", 1.0, True)


def test_the_state_of_another_version_is_refused() -> None:
    with pytest.raises(ValueError, match="expected predictions of version 1, found 7"):
        LearnedPredictor().restore({"version": 7})


def test_it_keeps_a_bounded_number_of_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learned, "KINDS", 50)
    monkeypatch.setattr(learned, "TYPES", 5)
    world = World(tasks=1)
    for at in range(500):
        world.predictor.learn(kind(f"w/{at}", f"type-{at % 20}"), f"n{at % 16:02}", 1.0, True)
        for node in range(0, 16, 4):
            world.predictor.learn(kind(f"w/{at}", f"type-{at % 20}"), f"n{node:02}", 1.0, True)
    state = world.predictor.state()
    assert len(state["kinds"]) <= 50
    assert len(state["types"]) <= 6
    assert len(state["pairs"]) <= 50 * evidence.PAIRS_A_KIND
    found = world.predictor.predict(kind("w/499", "type-19"), world.fleet)
    assert found is not None
    assert found.median_s == pytest.approx(np.ones(16), rel=0.3)


def test_nodes_may_come_and_go_and_stand_in_any_order() -> None:
    predictor = LearnedPredictor()
    for at in range(40):
        predictor.learn(kind(f"w/{at % 10}"), "n01", 1.0, True)
        predictor.learn(kind(f"w/{at % 10}"), "n02", 4.0, True)
    other = Fleet()
    nodes = some(30)
    other.sync([nodes[2], nodes[29], nodes[1]])
    found = predictor.predict(kind("w/1"), other)
    assert found is not None
    assert found.median_s[[0, 2]] == pytest.approx([4.0, 1.0], rel=0.15)
    other.sync(nodes)
    found = predictor.predict(kind("w/1"), other)
    assert found is not None
    assert found.median_s[[2, 1]] == pytest.approx([4.0, 1.0], rel=0.15)
