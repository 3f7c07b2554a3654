"""Plans of faults: the same of the same seed, within their time, and never two on one subject at once."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from skep.testing.chaos.faults import ALL
from skep.testing.chaos.plan import Fault, Kind, plan

KINDS = [attack.kind for attack in ALL.values()]
COUNTS = {"node": 3, "server": 2, "redis": 1, "postgres": 1, "fleet": 1}


def of(seed: int, seconds: float = 300, kinds: list[Kind] = KINDS) -> list[Fault]:
    return plan(seed, seconds, kinds, COUNTS)


def test_a_seed_is_a_plan() -> None:
    assert of(1) == of(1)
    assert of(1) != of(2)


@pytest.mark.parametrize("seed", range(5))
def test_a_plan_keeps_to_its_time_and_to_what_there_is(seed: int) -> None:
    on = {kind.name: kind for kind in KINDS}
    found = of(seed)
    assert found
    for fault in found:
        kind = on[fault.kind]
        assert kind.shortest_s - 0.001 <= fault.for_s <= kind.longest_s
        assert fault.at_s > 0
        assert fault.at_s + fault.for_s <= 300.01
        assert 0 <= fault.subject < COUNTS[kind.on]


@pytest.mark.parametrize("seed", range(5))
def test_faults_that_last_never_hit_the_same_subject(seed: int) -> None:
    on = {kind.name: kind.on for kind in KINDS}
    by_subject: dict[tuple[str, int], list[Fault]] = {}
    for fault in of(seed):
        by_subject.setdefault((on[fault.kind], fault.subject), []).append(fault)
    for faults in by_subject.values():
        for first, second in pairwise(faults):
            assert first.at_s + first.for_s <= second.at_s


def test_every_kind_comes_in_a_long_plan() -> None:
    counted = Counter(fault.kind for fault in of(1, 1_800))
    assert counted.keys() == {kind.name for kind in KINDS}


def test_at_most_three_at_once() -> None:
    found = of(4, 1_800)
    most = max(sum(other.at_s <= fault.at_s < other.at_s + other.for_s for other in found) for fault in found)
    assert 2 <= most <= 3


def test_a_time_too_short_has_no_faults() -> None:
    assert of(1, 0.1) == []
    assert of(1, 60, []) == []
