"""Fair shares, proved on a small fleet that runs in no time: slots, and namespaces that want them."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Mapping
from time import perf_counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skep.router.fair import FairShare, Offer

SLOT_MS = 600_000
"""What a step of priority is worth, as scores have it."""
DEEP = range(200)
NAMES = st.sampled_from("abcdef")
WEIGHTS = st.dictionaries(NAMES, st.floats(0.1, 10), min_size=2)


class Fleet:
    """`used` are slots times milliseconds by namespace."""

    def __init__(self, slots: int, weights: Mapping[str, float], takes: Mapping[str, int] | None = None) -> None:
        self.fair = FairShare()
        self.fair.weights = weights
        self.free = slots
        self.takes = takes or {}
        self.now_ms = 0
        self.running: Counter[str] = Counter()
        self.used: Counter[str] = Counter()
        self.started: Counter[str] = Counter()
        self._ends: list[tuple[int, str, int]] = []

    def run(self, until_ms: int, lasts_ms: Mapping[str, int], wants: Callable[[str], bool] = lambda _: True) -> None:
        """Until then, every namespace of `lasts_ms` wants all that it can get, but for when it does not."""
        while self.now_ms < until_ms:
            names = [name for name in lasts_ms if wants(name)]
            offers = [Offer(name, DEEP, self.running[name], self.takes.get(name, 1)) for name in names]
            turn = self.fair.round(offers, self.now_ms)
            for number, _ in turn:
                name, _, _, slots = offers[number]
                if slots > self.free:
                    turn.full()
                    continue
                self._begin(name, slots, lasts_ms[name])
            self._pass(until_ms)

    def _begin(self, name: str, slots: int, lasts_ms: int) -> None:
        self.free -= slots
        self.running[name] += slots
        self.started[name] += 1
        self.fair.started(name, slots)
        heapq.heappush(self._ends, (self.now_ms + lasts_ms, name, slots))

    def _pass(self, until_ms: int) -> None:
        then_ms = min(self._ends[0][0] if self._ends else until_ms, until_ms)
        for name, slots in self.running.items():
            self.used[name] += slots * (then_ms - self.now_ms)
        self.now_ms = then_ms
        while self._ends and self._ends[0][0] <= then_ms:
            _, name, slots = heapq.heappop(self._ends)
            self.running[name] -= slots
            self.free += slots

    def shares(self) -> dict[str, float]:
        total = sum(self.used.values())
        return {name: used / total for name, used in self.used.items()}


def ideal(weights: Mapping[str, float]) -> dict[str, float]:
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


# -- shares


@settings(max_examples=25, deadline=None)
@given(WEIGHTS, st.integers(1, 12), st.data())
def test_shares_come_to_the_weights_however_long_tasks_take(weights: dict[str, float], slots: int, data: st.DataObject) -> None:
    """Also with fewer slots than namespaces, and with a share of less than a slot."""
    lasts = {name: data.draw(st.integers(100, 2_000)) for name in weights}
    fleet = Fleet(slots, weights)
    fleet.run(100_000, lasts)
    longest = max(lasts.values()) / 100_000
    assert fleet.shares() == pytest.approx(ideal(weights), abs=0.01 + 3 * longest)


@pytest.mark.parametrize("slots", [1, 2, 3, 8, 64])
def test_one_of_weight_three_has_three_times_the_slots_of_another(slots: int) -> None:
    fleet = Fleet(slots, {"b": 3.0})
    fleet.run(300_000, {"a": 100, "b": 1_500})
    assert fleet.shares() == pytest.approx({"a": 0.25, "b": 0.75}, abs=0.02)


def test_large_tasks_have_their_share_too() -> None:
    fleet = Fleet(8, {}, takes={"a": 4})
    fleet.run(200_000, {"a": 100, "b": 130})
    assert fleet.shares() == pytest.approx({"a": 0.5, "b": 0.5}, abs=0.1)


def test_what_one_does_not_want_goes_to_the_others_and_is_not_owed_later() -> None:
    fleet = Fleet(10, {})
    lasts_ms = {"a": 100, "b": 100}
    fleet.run(60_000, lasts_ms, wants=lambda name: name == "a")
    assert fleet.shares() == {"a": 1.0}
    fleet.used.clear()
    fleet.run(120_000, lasts_ms)
    assert fleet.shares() == pytest.approx({"a": 0.5, "b": 0.5}, abs=0.01)


def test_who_comes_late_starts_at_once_and_a_flood_of_another_does_not_matter() -> None:
    """Its ten tasks, among 100,000 that waited before them, have the first ten of the slots that become free."""
    fleet = Fleet(100, {})
    fleet.run(10_050, {"flood": 100})
    first = fleet.fair.round([Offer("flood", range(100_000), 100), Offer("late", range(900_000, 900_010), 0)], 10_050)
    assert [number for number, _ in (next(first) for _ in range(10))] == [1] * 10


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0.1, 10), min_size=2, max_size=8), st.integers(1, 3))
def test_nobody_starves(weights: list[float], slots: int) -> None:
    names = {f"n{at}": weight for at, weight in enumerate(weights)}
    fleet = Fleet(slots, names)
    lightest = min(ideal(names).values())
    fleet.run(round(3 * 100 / lightest) + 2_000, dict.fromkeys(names, 100))
    assert min(fleet.started[name] for name in names) > 0


def test_one_for_whom_no_node_has_room_takes_nothing_from_the_others() -> None:
    """Neither now, nor from what it saves up meanwhile."""
    fleet = Fleet(4, {}, takes={"large": 5})
    fleet.run(60_000, {"large": 100, "b": 100, "c": 100})
    assert fleet.shares() == pytest.approx({"b": 0.5, "c": 0.5}, abs=0.01)
    fleet.takes = {}
    fleet.used.clear()
    fleet.run(62_000, {"large": 100, "b": 100})
    assert fleet.shares()["b"] >= 0.25, "one task more than its half, at the most"


def test_a_clock_that_goes_back_is_no_harm() -> None:
    fair = FairShare()
    for now_ms in (5_000, 1_000, 2_000):
        assert list(fair.round([Offer("a", range(2), 0)], now_ms)) == [(0, 0), (0, 1)]


# -- inside of a namespace

SCORES = st.lists(st.integers(-(10**13), 10**13), max_size=8).map(sorted)


@given(st.lists(st.tuples(NAMES, SCORES, st.integers(1, 3)), max_size=8), WEIGHTS)
def test_everything_is_given_once_and_in_order(classes: list[tuple[str, list[int], int]], weights: dict[str, float]) -> None:
    running = Counter({name: at for at, (name, _, _) in enumerate(classes)})
    fair = FairShare()
    fair.weights = weights
    offers = [Offer(name, scores, running[name], slots) for name, scores, slots in classes]
    given_ = list(fair.round(offers, 0))
    assert sorted(given_) == [(number, at) for number, offer in enumerate(offers) for at in range(len(offer.scores))]
    for name in running:
        scores = [offers[number].scores[at] for number, at in given_ if offers[number].namespace == name]
        assert scores == sorted(scores), "whatever class they are of"


def test_of_one_that_is_full_no_more_is_given_and_its_namespace_loses_nothing() -> None:
    offers = [Offer("a", [1, 2, 3], 0), Offer("a", [4], 0), Offer("b", [9, 9], 0)]
    turn = FairShare().round(offers, 0)
    assert next(turn) == (0, 0)
    turn.full()
    assert [*turn] == [(1, 0), (2, 0), (2, 1)]


def test_low_priority_ends_though_urgent_work_never_does() -> None:
    """One slot; an urgent task every 10 s, each of 10 s. Priority 1 has its turn 90 minutes after it came."""
    fair, low, waits_ms = FairShare(), -SLOT_MS, 0
    while waits_ms < 200 * 60_000:
        waits_ms += 10_000
        (number, _), *_ = fair.round([Offer("a", [waits_ms - 10 * SLOT_MS], 0), Offer("a", [low], 0)], waits_ms)
        if number == 1:
            break
    assert waits_ms == pytest.approx(90 * 60_000, abs=20_000)


# -- speed


def test_a_large_round_is_cheap() -> None:
    """A hundredth of what it may take: 100,000 candidates a second."""
    offers = [Offer(f"n{at}", range(100), at) for at in range(100)]
    began = perf_counter()
    assert sum(1 for _ in FairShare().round(offers, 0)) == 10_000
    assert perf_counter() - began < 1
