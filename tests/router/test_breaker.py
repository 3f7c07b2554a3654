"""A circuit opens on evidence against a node, not against the tasks, and closes when a canary comes back."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skep.router.breaker import CLOSED, FIRST_MS, HALF_OPEN, LONGEST_MS, OPEN, Breaker, Circuit

TYPE = "testing"


class Fleet:
    """A breaker, and ends that are told to it in order."""

    def __init__(self) -> None:
        self.breaker = Breaker()
        self.now_ms = 1_000_000
        self.lease = 0
        for node in ("a", "b", "c"):
            for _ in range(10):
                self.end(node)

    def end(self, node: str, ok: bool | None = True, ratio: float = 1.0) -> None:
        self.lease += 1
        self.breaker.began(self.lease, node, TYPE, self.now_ms)
        self.breaker.ended(self.lease, node, TYPE, ok, self.now_ms, ran_s=ratio, expected_s=1.0)

    def circuit(self, node: str) -> Circuit:
        return self.breaker.circuits().get((node, TYPE)) or Circuit()

    def barred(self) -> dict[str, bool]:
        return self.breaker.barred(TYPE, self.now_ms)


def test_three_failures_in_a_row_open_a_circuit_where_hardly_anything_fails() -> None:
    fleet = Fleet()
    for opened in (False, False, True):
        fleet.end("a", ok=False)
        assert (fleet.circuit("a").state == OPEN) is opened
    assert fleet.barred() == {"a": True}
    assert "failed" in fleet.circuit("a").why


def test_it_opens_for_one_type_only() -> None:
    fleet = Fleet()
    for _ in range(5):
        fleet.end("a", ok=False)
    assert fleet.breaker.barred("other", fleet.now_ms) == {}


def test_where_everything_fails_everywhere_it_is_not_the_node() -> None:
    fleet = Fleet()
    for _ in range(100):
        for node in ("a", "b", "c"):
            fleet.end(node, ok=False)
    assert fleet.barred() == {}


def test_a_node_without_others_to_compare_with_stays() -> None:
    breaker = Breaker()
    for lease in range(50):
        breaker.ended(lease, "only", TYPE, False, 0)
    assert breaker.barred(TYPE, 0) == {}


def opened() -> Fleet:
    fleet = Fleet()
    for _ in range(3):
        fleet.end("a", ok=False)
    return fleet


def test_after_a_while_one_task_is_tried_and_its_success_closes_it() -> None:
    fleet = opened()
    fleet.now_ms += FIRST_MS - 1
    assert fleet.barred() == {"a": True}
    fleet.now_ms += 1
    assert fleet.barred() == {"a": False}
    fleet.breaker.try_on("a", TYPE, fleet.now_ms)
    assert fleet.barred() == {"a": True}, "one at a time"
    fleet.end("a")
    assert fleet.barred() == {}
    assert fleet.circuit("a").state == CLOSED


def test_a_canary_that_fails_doubles_the_while() -> None:
    fleet = opened()
    for turn in range(1, 10):
        fleet.now_ms += LONGEST_MS
        assert fleet.barred() == {"a": False}
        fleet.end("a", ok=False)
        assert fleet.circuit("a").state == OPEN
        assert fleet.circuit("a").for_ms == min(FIRST_MS * 2**turn, LONGEST_MS)


def test_a_canary_that_was_cancelled_says_nothing_and_another_may_go() -> None:
    fleet = opened()
    fleet.now_ms += FIRST_MS
    assert fleet.barred() == {"a": False}
    fleet.end("a", ok=None)
    assert fleet.barred() == {"a": False}
    assert fleet.circuit("a").state == HALF_OPEN


def test_ends_of_what_began_before_it_opened_do_not_close_it() -> None:
    fleet = opened()
    fleet.breaker.ended("old", "a", TYPE, True, fleet.now_ms)
    assert fleet.barred() == {"a": True}


def test_a_clock_that_goes_back_only_makes_it_wait_longer() -> None:
    fleet = opened()
    fleet.now_ms -= 10_000_000
    assert fleet.barred() == {"a": True}
    fleet.now_ms += FIRST_MS
    assert fleet.barred() == {"a": False}


def test_a_node_that_has_become_twice_as_slow_is_marked() -> None:
    fleet = Fleet()
    for _ in range(5):
        fleet.end("a", ratio=2.0)
        fleet.end("b")
    assert fleet.circuit("a").slow
    assert "as long as predicted" in fleet.circuit("a").why
    assert not fleet.circuit("b").slow
    assert fleet.barred() == {}, "it gets less by its predictions, and goes on"
    for _ in range(250):
        fleet.end("a")
    assert not fleet.circuit("a").slow, "by now it is simply like that"


def test_one_that_is_much_slower_is_taken_out() -> None:
    fleet = Fleet()
    for _ in range(6):
        fleet.end("a", ratio=20.0)
    assert fleet.barred() == {"a": True}


def test_when_everything_takes_longer_it_is_not_the_node() -> None:
    fleet = Fleet()
    for _ in range(60):
        for node in ("a", "b", "c"):
            fleet.end(node, ratio=2.0)
    assert not any(fleet.circuit(node).slow for node in ("a", "b", "c"))
    assert fleet.barred() == {}


def test_a_node_that_left_is_judged_anew() -> None:
    fleet = opened()
    fleet.breaker.forget("a")
    assert fleet.barred() == {}
    assert ("a", TYPE) not in fleet.breaker.circuits()


STEPS = st.lists(
    st.tuples(
        st.sampled_from(("a", "b", "c")), st.sampled_from((True, False, None, "try", "back", "wait")), st.integers(0, 400_000)
    ),
    max_size=120,
)


@given(STEPS)
def test_whatever_happens_a_circuit_is_in_one_of_its_states_and_opens_again_to_trial(
    steps: list[tuple[str, object, int]],
) -> None:
    fleet = Fleet()
    acts: dict[object, Callable[[str, int], object]] = {
        "try": lambda node, _: fleet.breaker.try_on(node, TYPE, fleet.now_ms),
        "back": lambda _, ms: setattr(fleet, "now_ms", fleet.now_ms - ms),
        "wait": lambda _, ms: setattr(fleet, "now_ms", fleet.now_ms + ms),
    }
    for node, what, ms in steps:
        if what in acts:
            acts[what](node, ms)
        else:
            fleet.end(node, ok=what)  # type: ignore[arg-type]
        barred = fleet.barred()
        for name in ("a", "b", "c"):
            circuit = fleet.circuit(name)
            assert (name in barred) == (circuit.state != CLOSED)
            assert circuit.state in (CLOSED, OPEN, HALF_OPEN)
            assert circuit.for_ms <= LONGEST_MS
    fleet.barred()
    fleet.now_ms += 10 * LONGEST_MS  # also a canary of which nobody hears is given up
    assert not any(fleet.barred().values())


@pytest.mark.parametrize("ok", [True, False, None])
def test_an_end_that_nobody_knows_of_is_harmless(ok: bool | None) -> None:
    Breaker().ended("x", "nowhere", "", ok, 0, ran_s=float("nan"), expected_s=0.0)
