"""Timetables: what people write, when it fires, and how it is told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skep.errors import SpecError
from skep.flow.timetable import LATEST_MS, build_schedule, describe, next_after, times_between, upcoming
from skep.model.authoring import build_workflow
from skep.model.schedule import ScheduleSpec
from skep.model.spec import WorkflowSpec

BERLIN = ZoneInfo("Europe/Berlin")
NOW = int(datetime(2026, 10, 1, 12, tzinfo=UTC).timestamp()) * 1000
HOUR = 3_600_000
DAY = 24 * HOUR
SPEC = build_workflow({"name": "w", "tasks": {"a": {"run": "true"}}, "required": ["x"]})


def at(text: str, zone: ZoneInfo = BERLIN) -> int:
    """Milliseconds of a moment; `+01:00` and the like tell the two hours of autumn apart."""
    moment = datetime.fromisoformat(text)
    return round((moment if moment.tzinfo else moment.replace(tzinfo=zone)).timestamp() * 1000)


def cron(text: str, zone: str = "Europe/Berlin", **given: Any) -> ScheduleSpec:
    return ScheduleSpec(cron=text, timezone=zone, workflow="w", **given)


# -- the clocks change


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30 2 * * *", ["02:30+02:00"]),
        ("0,30 2 * * *", ["02:00+02:00", "02:30+02:00"]),
        ("15 2,3 * * *", ["02:15+02:00", "03:15+01:00"]),
        ("30 * * * *", ["00:30+02:00", "01:30+02:00", "02:30+02:00", "02:30+01:00", "03:30+01:00"]),
        ("*/30 2 * * *", ["02:00+02:00", "02:30+02:00", "02:00+01:00", "02:30+01:00"]),
    ],
)
def test_autumn(text: str, expected: list[str]) -> None:
    """A time of the day fires once; every hour, or every half of one, goes on as time passes."""
    times = times_between(cron(text), at("2026-10-25T00:00"), at("2026-10-25T04:00"), 100)
    assert times == [at(f"2026-10-25T{moment}") for moment in expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30 2 * * *", ["03:00"]),
        ("0,30 2 * * *", ["03:00"]),
        ("15 2,3 * * *", ["03:00", "03:15"]),
        ("30 * * * *", ["00:30", "01:30", "03:30"]),
        ("*/30 2 * * *", []),
    ],
)
def test_spring(text: str, expected: list[str]) -> None:
    """A time of the day that is jumped over fires after the jump, and only once; an hour that does not pass has no times."""
    times = times_between(cron(text), at("2026-03-29T00:00"), at("2026-03-29T04:00"), 100)
    assert times == [at(f"2026-03-29T{moment}") for moment in expected]


def test_the_second_of_two_equal_hours_is_after_the_time_that_has_been() -> None:
    second = at("2026-10-25T02:15+01:00")
    assert next_after(cron("30 2 * * *"), second) == at("2026-10-26T02:30")


CRONS = st.sampled_from(
    ["* * * * *", "*/7 * * * *", "30 2 * * *", "0,30 2,3 * * *", "5 */2 * * *", "0 0 1 * *", "15 1 * * MON", "0 12 L * *"]
)
ZONES = st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"])
MOMENTS = st.integers(at("2024-01-01T00:00"), at("2030-01-01T00:00"))


@settings(deadline=None)
@given(CRONS, ZONES, MOMENTS)
def test_times_are_the_same_from_wherever_they_are_asked(text: str, zone: str, after_ms: int) -> None:
    spec = cron(text, zone)
    first, second, third = upcoming(spec, after_ms, 3)
    assert after_ms < first < second < third
    assert next_after(spec, first - 1) == first
    assert next_after(spec, first) == second
    assert next_after(spec, (first + second) // 2) == second
    assert times_between(spec, after_ms, third, 10) == [first, second, third]
    assert times_between(spec, after_ms, third, 2) == [second, third]


@settings(deadline=None)
@given(MOMENTS)
def test_a_daily_time_fires_once_a_day_whatever_the_clocks_do(after_ms: int) -> None:
    days = [datetime.fromtimestamp(ms / 1000, BERLIN).date() for ms in upcoming(cron("30 2 * * *"), after_ms, 400)]
    assert [later - earlier for earlier, later in pairwise(days)] == [timedelta(days=1)] * 399


# -- intervals


@settings(deadline=None)
@given(st.integers(1_000, 10 * DAY), st.integers(0, 400 * DAY))
def test_intervals_count_from_the_start_and_do_not_drift(every_ms: int, late_ms: int) -> None:
    spec = ScheduleSpec(every_ms=every_ms, start_ms=NOW)
    found = next_after(spec, NOW + late_ms)
    assert found > NOW + late_ms
    assert (found - NOW) % every_ms == 0
    assert found - (NOW + late_ms) <= every_ms


def test_nothing_fires_before_the_start_nor_at_the_end() -> None:
    spec = ScheduleSpec(every_ms=HOUR, start_ms=NOW, end_ms=NOW + 2 * HOUR)
    assert next_after(spec, 0) == NOW
    assert upcoming(spec, NOW - DAY, 10) == [NOW, NOW + HOUR]
    assert next_after(spec, NOW + HOUR) == 0
    bounded = cron("0 * * * *", start_ms=NOW, end_ms=NOW + HOUR)
    assert upcoming(bounded, 0, 10) == [NOW]


def test_the_newest_of_many_times() -> None:
    minutes = cron("* * * * *")
    year = times_between(minutes, NOW - 5 * 365 * DAY, NOW, 100)
    assert year == [NOW - left * 60_000 for left in reversed(range(100))]
    assert times_between(minutes, NOW - 1, NOW, 100) == [NOW]
    assert times_between(minutes, NOW, NOW, 100) == []
    assert times_between(minutes, NOW - DAY, NOW, 0) == []


def test_rare_days() -> None:
    leap = upcoming(cron("0 0 29 2 *", "UTC"), NOW, 2)
    assert [datetime.fromtimestamp(ms / 1000, UTC).year for ms in leap] == [2028, 2032]
    assert next_after(cron("0 0 1 1 *"), LATEST_MS + DAY) == 0


# -- what people write


def built(**options: Any) -> ScheduleSpec:
    return build_schedule({"workflow": "w"} | options, NOW)


def test_all_options() -> None:
    spec = built(
        cron=" 30  2 * * mon ",
        timezone="Europe/Berlin",
        start="2026-11-01",
        end="2027-01-01T00:00:00Z",
        overlap="queue",
        catch_up="all",
        workflow="deploy@3",
        inputs={"x": [1, None]},
        priority="high",
        labels={"team": "a", "n": 1},
    )
    assert spec == ScheduleSpec(
        cron="30 2 * * MON",
        timezone="Europe/Berlin",
        start_ms=at("2026-11-01T00:00"),
        end_ms=at("2027-01-01T00:00+00:00"),
        overlap="queue",
        catch_up="all",
        workflow="deploy@3",
        inputs={"x": [1, None]},
        priority=8,
        labels={"team": "a", "n": "1"},
    )


def test_durations_from_now() -> None:
    spec = built(every="5m", start="1h", end="P1D")
    assert (spec.every_ms, spec.start_ms, spec.end_ms) == (300_000, NOW + HOUR, NOW + DAY)
    assert built(every=90, start=None, cron=None).start_ms == NOW
    assert next_after(built(every="5m"), NOW) == NOW + 300_000


def test_short_names_of_crons() -> None:
    assert built(cron="@daily").cron == "0 0 * * *"
    assert built(cron="@Weekly").cron == "0 0 * * 0"


@pytest.mark.parametrize("key", ["spec", "definition"])
def test_a_workflow_written_out(key: str) -> None:
    given_twice = [SPEC, {"name": "w", "tasks": [{"name": "a", "executor": "run", "call": "true"}], "required": ["x"]}]
    for given_spec in given_twice:
        spec = build_schedule({"every": "1h", key: given_spec, "inputs": {"x": 1}}, NOW)
        assert WorkflowSpec.decode(spec.definition) == SPEC
        assert spec.workflow == ""


@pytest.mark.parametrize(
    ("options", "problems"),
    [
        ({"cron": "0 0 30 2 *"}, ["cron: '0 0 30 2 *' never fires: no month has such a day"]),
        ({"cron": "0 0 31 4,6 *"}, ["cron: '0 0 31 4,6 *' never fires: no month has such a day"]),
        ({"cron": "61 * * * *"}, ["cron: found '61 * * * *', expected a cron expression (bad minute)"]),
        ({"cron": "*/0 * * * *"}, ["cron: found '*/0 * * * *', expected a cron expression (bad minute)"]),
        ({"cron": "0 * * * * *"}, ["cron: found '0 * * * * *', expected five fields"]),
        ({"cron": "@dayly"}, ["cron: found '@dayly', expected five fields, or one of @hourly"]),
        ({"cron": "9" * 5_000 + " * * * *"}, ["cron: found '9999"]),
        ({"cron": 5}, ["cron: found the number 5, expected a cron expression"]),
        ({"every": "10ms"}, ["every: found '10ms', expected an interval of at least 1s, such as 5m"]),
        ({"every": "often"}, ["every: 'often' is not a duration"]),
        ({}, ["says no time, expected exactly one of `cron` and `every`"]),
        ({"every": "5m", "cron": "* * * * *"}, ["found `cron` and `every`, expected exactly one of `cron` and `every`"]),
        ({"every": "5m", "workflow": None}, ["says no workflow, expected exactly one of `workflow` and `spec`"]),
        ({"every": "5m", "spec": SPEC}, ["found `workflow` and `spec`", "inputs.x: is required: give it a value"]),
        (
            {"every": "5m", "workflow": "a@b"},
            ["workflow: found 'a@b', expected the name of a stored workflow, or name@version"],
        ),
        ({"every": "5m", "workflow": None, "spec": {"name": 1}}, ["spec: is no workflow"]),
        ({"every": "5m", "end": "2020-01-01"}, ["never fires: its end has passed"]),
        ({"cron": "0 0 1 1 *", "end": "1d"}, ["never fires: At 00:00 on January 1 comes to no time between"]),
        ({"every": "5m", "start": "12026-01-01"}, ["start: found '12026-01-01', expected a point in time"]),
        ({"every": "5m", "start": "9999-01-02"}, ["start: is too far away"]),
        (
            {"every": "5m", "zone": 1, "timezone": "Mars/Base", "overlap": "skp", "catch_up": 1, "end": "later", "inputs": 3},
            [
                "zone: a schedule has no such key",
                "timezone: found 'Mars/Base', expected a time zone such as UTC or Europe/Berlin",
                "overlap: found 'skp', expected one of skip, queue, cancel, allow; did you mean 'skip'?",
                "catch_up: found the number 1, expected one of skip, last, all",
                "end: found 'later', expected a point in time such as 2026-03-01T08:00, or a duration from now such as 2h",
                "inputs: found the number 3, expected a mapping from names to values",
            ],
        ),
    ],
)
def test_what_is_wrong_is_refused_with_its_place(options: dict[str, Any], problems: list[str]) -> None:
    with pytest.raises(SpecError) as caught:
        built(**options)
    told = [str(problem) for problem in caught.value.problems]
    assert len(told) == len(problems)
    assert all(one.startswith(expected) for one, expected in zip(told, problems, strict=True)), told


# -- in words


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (ScheduleSpec(every_ms=300_000), "every 5m"),
        (cron("30 2 * * *"), "At 02:30 every day (Europe/Berlin)"),
        (cron("*/5 9-17 * * MON-FRI", "UTC"), "Every fifth minute from 09:00 through 17:59 on Monday through Friday"),
    ],
)
def test_in_words(spec: ScheduleSpec, words: str) -> None:
    assert describe(spec) == words
