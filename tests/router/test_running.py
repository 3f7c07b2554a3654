"""How long what runs will still take."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skep.router import running
from skep.router.running import Attempt, Running, left_s
from skep.router.wanted import Kind

SECONDS = st.floats(1e-3, 1e5)


def attempt(node: str, began_ms: int = 0, median_s: float = 10.0) -> Attempt:
    return Attempt(node, Kind("w/t"), began_ms, median_s, 0.1)


@given(SECONDS, st.floats(0, 3), st.floats(0, 1e6))
def test_what_is_left_is_a_number_and_never_less_than_it_is_late_by(median_s: float, spread: float, ran_s: float) -> None:
    left = left_s(median_s, spread, ran_s)
    assert math.isfinite(left)
    assert left >= max(ran_s - median_s, 0)


@given(SECONDS, st.floats(0.01, 2))
def test_what_has_just_begun_takes_its_median(median_s: float, spread: float) -> None:
    assert left_s(median_s, spread, 0) == median_s


def test_what_is_sure_takes_what_is_missing_of_it() -> None:
    assert abs(left_s(100, 0.01, 60) - 40) < 0.1


def test_the_longer_it_is_late_the_longer_it_takes() -> None:
    late = [left_s(10, 0.1, ran_s) for ran_s in (10, 12, 20, 40)]
    assert late == sorted(late)
    assert late[-1] >= 30


def test_the_first_end_on_each_node_is_kept_up_to_date() -> None:
    table = Running()
    table.place({"a": 0, "b": 1})
    table.began(1, attempt("a", 1_000))
    table.began(2, attempt("a", 5_000))
    assert table.ends_s().tolist() == [11.0, math.inf]
    table.ended(1)
    table.ended(1)
    assert table.ends_s().tolist() == [15.0, math.inf]
    table.place({"b": 0})
    assert len(table) == 0
    assert table.ends_s().tolist() == [math.inf]


def test_a_lease_that_begins_again_is_one_attempt() -> None:
    table = Running()
    table.began(1, attempt("a"))
    table.began(1, attempt("b"))
    assert (len(table), table.on("a", 9), len(table.on("b", 9))) == (1, [], 1)


def test_of_attempts_that_nobody_ended_only_the_newest_count_and_the_table_is_bounded() -> None:
    table = Running()
    for lease in range(100):
        table.began(lease, attempt("a", lease))
    assert [one.began_ms for one in table.on("a", 2)] == [98, 99]
    assert len(table) < 20


def test_the_table_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Running()
    monkeypatch.setattr(running, "MOST", 5)
    for lease in range(20):
        table.began(lease, attempt(f"n{lease}"))
    assert len(table) == 5
