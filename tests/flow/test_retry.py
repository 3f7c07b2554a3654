"""Retries: who gets one, and how long it waits."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skep.flow.retry import NEVER, retry_in_ms
from skep.model.node import ErrorInfo
from skep.model.spec import RetryPolicy

TROUBLE = ErrorInfo("app.errors.Busy", "try later", parents=("TransientError", "Exception"))
POLICIES = st.builds(
    RetryPolicy,
    limit=st.integers(0, 1_000),
    delay_ms=st.integers(0, 10**11),
    factor=st.floats(1, 1_000),
    max_delay_ms=st.integers(0, 10**11),
    jitter=st.floats(0, 1),
)


def policy(**given: Any) -> RetryPolicy:
    return RetryPolicy(**({"limit": 5, "delay_ms": 100, "jitter": 0.0} | given))


def test_there_are_as_many_retries_as_the_limit_says() -> None:
    assert [retry_in_ms(policy(limit=2), failures, TROUBLE, 0.5) for failures in range(4)] == [100, 200, -1, -1]
    assert retry_in_ms(None, 0, TROUBLE, 0.5) == -1
    assert retry_in_ms(policy(limit=0), 0, TROUBLE, 0.5) == -1


def test_the_wait_grows_up_to_the_longest() -> None:
    waits = [retry_in_ms(policy(factor=3.0, max_delay_ms=1_000), failures, None, 0.5) for failures in range(5)]
    assert waits == [100, 300, 900, 1_000, 1_000]


@given(POLICIES, st.integers(0, 2_000), st.floats(0, 1, exclude_max=True))
def test_the_wait_is_bounded_whatever_the_policy(rule: RetryPolicy, failures: int, chance: float) -> None:
    wait = retry_in_ms(rule, failures, None, chance)
    if failures >= rule.limit:
        assert wait == -1
    else:
        assert 0 <= wait <= rule.max_delay_ms * (1 + rule.jitter)
        assert wait >= int(min(rule.delay_ms, rule.max_delay_ms) * (1 - rule.jitter))


@pytest.mark.parametrize(("chance", "wait"), [(0.0, 80), (0.5, 100), (0.75, 110)])
def test_jitter_is_a_share_of_the_wait_to_both_sides(chance: float, wait: int) -> None:
    assert retry_in_ms(policy(jitter=0.2), 0, None, chance) == wait


def test_a_delay_that_the_failure_asks_for_is_kept_at_the_least() -> None:
    assert retry_in_ms(policy(), 0, TROUBLE, 0.5, asked_ms=700) == 700
    assert retry_in_ms(policy(), 0, TROUBLE, 0.5, asked_ms=7) == 100
    assert retry_in_ms(policy(limit=0), 0, TROUBLE, 0.5, asked_ms=700) == -1


@pytest.mark.parametrize(
    ("rule", "retried"),
    [
        (policy(only=("app.errors.Busy",)), True),
        (policy(only=("Busy",)), True),
        (policy(only=("TransientError",)), True),
        (policy(only=("ValueError",)), False),
        (policy(never=("Busy",)), False),
        (policy(never=("Exception",)), False),
        (policy(never=("ValueError",)), True),
        (policy(only=("Busy",), never=("TransientError",)), False),
    ],
)
def test_errors_are_chosen_by_name_or_by_a_base_class(rule: RetryPolicy, retried: bool) -> None:
    assert (retry_in_ms(rule, 0, TROUBLE, 0.5) >= 0) == retried


@pytest.mark.parametrize("kind", sorted(NEVER))
def test_what_another_attempt_cannot_mend_gets_none(kind: str) -> None:
    assert retry_in_ms(policy(only=(kind,)), 0, ErrorInfo(kind, ""), 0.5) == -1
