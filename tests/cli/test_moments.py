"""Points in time, as people write and read them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime

import pytest
import typer

from skep.cli.moments import age, both, local, parse_future_ms, parse_past_ms

NOON_MS = 1_772_366_400_000  # 2026-03-01T12:00Z


@pytest.fixture(autouse=True)
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Europe/Berlin")
        time.tzset()
        yield
    time.tzset()


def iso(ms: int | None) -> str:
    assert ms is not None
    return datetime.fromtimestamp(ms / 1000).isoformat()


def test_a_clock_time_is_the_next_or_the_last_one() -> None:
    assert iso(parse_future_ms("14:30", "--at", NOON_MS)) == "2026-03-01T14:30:00"
    assert iso(parse_future_ms("13:00", "--at", NOON_MS)) == "2026-03-02T13:00:00"
    assert iso(parse_future_ms("8:00", "--at", NOON_MS)) == "2026-03-02T08:00:00"
    assert iso(parse_past_ms("08:00", "--since", NOON_MS)) == "2026-03-01T08:00:00"
    assert iso(parse_past_ms("14:00", "--since", NOON_MS)) == "2026-02-28T14:00:00"


def test_a_date_is_local_and_a_zone_is_kept() -> None:
    assert parse_future_ms("2026-03-01T13:00", "--at", 0) == NOON_MS
    assert parse_future_ms("2026-03-01T12:00Z", "--at", 0) == NOON_MS
    assert parse_past_ms("2026-03-01", "--since", 0) == NOON_MS - 13 * 3_600_000


def test_the_past_may_be_a_duration() -> None:
    assert parse_past_ms("2h", "--since", NOON_MS) == NOON_MS - 7_200_000
    assert (parse_past_ms(None, "--since", NOON_MS), parse_future_ms(None, "--at", NOON_MS)) == (None, 0)


@pytest.mark.parametrize("text", ["soon", "25:00", "2026-13-01", "99999-01-01", "1969-01-01", "2h"])
def test_what_is_no_time_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="for example"):
        parse_future_ms(text, "--at", NOON_MS)


def test_times_are_told_as_people_say_them() -> None:
    assert local(NOON_MS) == "2026-03-01 13:00:00"
    assert age(NOON_MS - 250_000, NOON_MS) == "4m ago"
    assert age(NOON_MS - 300, NOON_MS) == "now"
    assert age(NOON_MS + 3 * 86_400_000, NOON_MS) == "in 3d"
    assert age(NOON_MS + 3_599_200, NOON_MS) == "in 1h"
    assert age(NOON_MS + 1, NOON_MS) == "in 1s"
    assert age(NOON_MS - 9_300, NOON_MS) == "9s ago"
    assert both(None, NOON_MS) == age(None, 0) == local(0) == "-"
    assert both(NOON_MS - 60_000, NOON_MS) == "2026-03-01 12:59:00, 1m ago"
