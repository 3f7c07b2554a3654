"""Firing: what becomes of times that have come while runs go on, and of those that were missed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skep.flow.firing import MISSED_MS, MOST, Firing, decide_firing
from skep.flow.timetable import next_after, times_between
from skep.model.schedule import ScheduleSpec

START = 1_767_225_600_000
MINUTE = 60_000


def schedule(overlap: str = "skip", catch_up: str = "last", every_ms: int = 10 * MINUTE) -> ScheduleSpec:
    return ScheduleSpec(every_ms=every_ms, start_ms=START, overlap=overlap, catch_up=catch_up)


def minutes(*values: int) -> tuple[int, ...]:
    return tuple(START + value * MINUTE for value in values)


def outcome(fire: tuple[int, ...], cancels: bool, fired: int, following: int, waits: bool = False) -> Firing:
    """In minutes."""
    return Firing(minutes(*fire), cancels, START + fired * MINUTE, START + following * MINUTE, waits)


def decided(spec: ScheduleSpec, now: int, *, due: int = 10, fired: int = 0, running: Any = ()) -> Firing:
    """All in minutes; `due`: since when."""
    return decide_firing(spec, START + due * MINUTE, START + fired * MINUTE, START + now * MINUTE, running)


@pytest.mark.parametrize("overlap", ["skip", "queue", "cancel", "allow"])
def test_on_time_and_alone_it_fires(overlap: str) -> None:
    assert decided(schedule(overlap), 10) == outcome((10,), False, 10, 20)


@pytest.mark.parametrize(
    ("overlap", "expected"),
    [
        ("skip", outcome((), False, 10, 20)),
        ("queue", outcome((), False, 10, 10, waits=True)),
        ("cancel", outcome((10,), True, 10, 20)),
        ("allow", outcome((10,), False, 10, 20)),
    ],
)
def test_while_an_earlier_run_goes_on(overlap: str, expected: Firing) -> None:
    assert decided(schedule(overlap), 10, running=[0]) == expected


@pytest.mark.parametrize("overlap", ["skip", "queue", "cancel"])
def test_the_run_of_the_time_itself_is_no_earlier_run(overlap: str) -> None:
    """It was accepted, and the process died before the schedule moved on."""
    assert decided(schedule(overlap), 10, running=minutes(10)) == outcome((10,), False, 10, 20)


@pytest.mark.parametrize(("catch_up", "expected"), [("skip", ()), ("last", minutes(50)), ("all", minutes(10, 20, 30, 40, 50))])
def test_times_that_passed_while_no_server_ran(catch_up: str, expected: tuple[int, ...]) -> None:
    found = decided(schedule("allow", catch_up), 55)
    assert (found.fire, found.next_ms) == (expected, START + 60 * MINUTE)


def test_a_time_is_missed_when_it_is_more_than_a_minute_late() -> None:
    spec = schedule("allow", "skip")
    due = START + 10 * MINUTE
    assert decide_firing(spec, due, 0, due + MISSED_MS, ()).fire == (due,)
    assert decide_firing(spec, due, 0, due + MISSED_MS + 1, ()).fire == ()


def test_catching_up_is_bounded_to_the_newest() -> None:
    found = decided(schedule("allow", "all"), 10_005)
    assert len(found.fire) == MOST
    assert found.fire[-1] == START + 10_000 * MINUTE


def test_a_queue_goes_one_by_one_in_order_and_does_not_forget() -> None:
    spec = schedule("queue")
    first = decided(spec, 10, running=[0])
    assert first.waits
    second = decide_firing(spec, first.next_ms, first.fired_ms, START + 20 * MINUTE, [0])
    assert second == outcome((), False, 20, 10, waits=True)
    third = decide_firing(spec, second.next_ms, second.fired_ms, START + 25 * MINUTE, [])
    assert third == outcome((10,), False, 20, 20)
    fourth = decide_firing(spec, third.next_ms, third.fired_ms, START + 25 * MINUTE, [0])
    assert fourth == outcome((), False, 20, 20, waits=True)
    fifth = decide_firing(spec, fourth.next_ms, fourth.fired_ms, START + 27 * MINUTE, [])
    assert fifth == outcome((20,), False, 20, 30)


def test_a_queue_after_times_were_missed_is_caught_up_with_as_a_whole() -> None:
    assert decided(schedule("queue", "skip"), 55, fired=20).fire == ()
    assert decided(schedule("queue", "last"), 55, fired=20).fire == minutes(50)
    assert decided(schedule("queue", "all"), 55, fired=20) == outcome((10,), False, 50, 20)


@settings(deadline=None)
@given(
    st.sampled_from(["skip", "queue", "cancel", "allow"]),
    st.sampled_from(["skip", "last", "all"]),
    st.integers(1_000, 5 * MINUTE),
    st.lists(st.tuples(st.integers(0, 20 * MINUTE), st.booleans()), min_size=1, max_size=12),
)
def test_whatever_happens_no_time_fires_twice_nor_out_of_order(
    overlap: str, catch_up: str, every_ms: int, story: list[tuple[int, bool]]
) -> None:
    """Looks at any moments, with an earlier run that goes on or not."""
    spec = schedule(overlap, catch_up, every_ms)
    now_ms, fired_ms, next_ms = START, 0, next_after(spec, START)
    fired: list[int] = []
    for passed_ms, busy in story:
        now_ms += passed_ms
        if next_ms > now_ms:
            continue
        found = decide_firing(spec, next_ms, fired_ms, now_ms, [0] if busy else [])
        fired += found.fire
        assert found.fired_ms >= fired_ms
        assert found.next_ms >= next_ms
        assert not found.waits or overlap == "queue"
        assert found.next_ms > now_ms or overlap == "queue"
        waiting = times_between(spec, found.next_ms - 1, now_ms, 10 * MOST)
        assert len(waiting) <= MOST
        fired_ms, next_ms = found.fired_ms, found.next_ms
    assert fired == sorted(set(fired))
    assert all((at_ms - START) % every_ms == 0 for at_ms in fired)
