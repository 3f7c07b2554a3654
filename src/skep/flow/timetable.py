"""When a schedule fires: read from what people write, worked out, and told in words. Pure: the time is handed in.

Cron has five fields and is meant in the local time of a time zone. A time that the clocks jump over in spring fires when they
have jumped; one that they show twice in autumn fires the first time only. A field of minutes or hours that starts with `*`
means every minute or hour that passes, whatever the clocks show. Intervals count from the start, in time that really passes,
and do not drift.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, tzinfo
from functools import lru_cache
from itertools import islice
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

import msgspec
from cronsim import CronSim, CronSimError

from skep.errors import Problem, SpecError
from skep.flow.plan import check_inputs, compile_plan
from skep.model import kinds
from skep.model.fields import Fault, Field, Found, Kind, Table, nearest, show_path, wrong
from skep.model.schedule import ScheduleSpec
from skep.model.spec import WorkflowSpec
from skep.model.units import MAX_DURATION_MS, MINUTE_MS, SECOND_MS, format_duration

OVERLAP: Final = ("skip", "queue", "cancel", "allow")
CATCH_UP: Final = ("skip", "last", "all")
EVERY_LEAST_MS: Final = SECOND_MS
LATEST_MS: Final = 253_370_764_800_000
"""Start of the year 9999: no schedule goes beyond it."""
_MOST_CRON: Final = 200
"""Characters of a cron expression."""
_ALIASES: Final = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}


# -- what people write


def _parse_cron(value: Any) -> str:
    if not isinstance(value, str) or len(value) > _MOST_CRON:
        raise wrong(value, "a cron expression: five fields, such as `30 2 * * *`")
    text = " ".join(_ALIASES.get(value.strip().lower(), value).upper().split())
    if text.startswith("@"):
        raise wrong(value, f"five fields, or one of {', '.join(_ALIASES)}{nearest(value, _ALIASES)}")
    if len(text.split()) != 5:
        raise wrong(value, "five fields: minute, hour, day of the month, month, day of the week; such as `30 2 * * *`")
    try:
        if next(_cron_times(text, "UTC", 0), None) is None:
            raise CronSimError("no day is like that")
    except (CronSimError, AssertionError, ValueError) as error:
        if _valid_fields(text):
            raise Fault([((), f"{value!r} never fires: no month has such a day")]) from None
        raise wrong(value, f"a cron expression ({str(error).lower() or 'unreadable'})") from None
    return text


def _valid_fields(cron: str) -> bool:
    """Whether each field is right by itself: then it is their company that is impossible."""
    minute, hour, day, month, weekday = cron.split()
    alone = (f"{minute} * * * *", f"* {hour} * * *", f"* * {day} * *", f"* * * {month} *", f"* * * * {weekday}")
    try:
        return all(next(_cron_times(one, "UTC", 0), None) is not None for one in alone)
    except (CronSimError, AssertionError, ValueError):
        return False


def _parse_every(value: Any) -> int:
    every_ms: int = kinds.DURATION.parse(value)
    if EVERY_LEAST_MS <= every_ms <= MAX_DURATION_MS:
        return every_ms
    raise wrong(value, f"an interval of at least {format_duration(EVERY_LEAST_MS)}, such as 5m")


def _parse_zone(value: Any) -> str:
    if isinstance(value, str) and value:
        try:
            _zone(value)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            pass
        else:
            return value
    missing = "" if available_timezones() else "; this system knows none: install the Python package tzdata"
    raise wrong(value, f"a time zone such as UTC or Europe/Berlin{missing}")


def _parse_moment(value: Any) -> int | datetime:
    """A duration from now, in milliseconds, or a point in time."""
    if isinstance(value, datetime):
        return value
    if isinstance(value, str) and value[4:5] == "-":
        try:
            return datetime.fromisoformat(value.strip())
        except ValueError:
            pass
    else:
        try:
            return int(kinds.DURATION.parse(value))
        except Fault:
            pass
    raise wrong(value, "a point in time such as 2026-03-01T08:00, or a duration from now such as 2h")


def _parse_spec(value: Any) -> WorkflowSpec:
    if isinstance(value, WorkflowSpec):
        return value
    if not isinstance(value, Mapping):
        raise wrong(value, "a workflow")
    try:
        return msgspec.convert(value, WorkflowSpec)
    except msgspec.ValidationError as error:
        raise Fault([((), f"is no workflow: {error}")]) from None


def _parse_inputs(value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return dict(kinds.parse_json(value))
    raise wrong(value, "a mapping from names to values")


_ZONE: Final = Kind(_parse_zone, {"type": "string"})
_MOMENT: Final = Kind(_parse_moment, {"type": ["string", "number"]})
_NAMED: Final = kinds.matching(rf"{kinds.NAME}(?:@[1-9][0-9]*)?", "the name of a stored workflow, or name@version")
OPTIONS: Final = Table(
    "a schedule",
    Field("cron", "cron", Kind(_parse_cron, {"type": "string"}), "Five fields, or @daily and the like."),
    Field("every", "every_ms", Kind(_parse_every, kinds.DURATION.schema), "Interval, counted from `start`."),
    Field("timezone", "timezone", _ZONE, "Whose local time cron means; UTC by default."),
    Field("start", "start", _MOMENT, "Nothing fires before it: ISO 8601, or a duration from now."),
    Field("end", "end", _MOMENT, "Nothing fires at or after it."),
    Field("overlap", "overlap", kinds.choice(*OVERLAP), "When the run of an earlier time goes on."),
    Field("catch_up", "catch_up", kinds.choice(*CATCH_UP), "Times that passed while no server ran."),
    Field("workflow", "workflow", _NAMED, "Stored workflow: name, or name@version."),
    Field("spec", "spec", Kind(_parse_spec, {"type": "object"}), "The workflow itself, checked.", alias="definition"),
    Field("inputs", "inputs", Kind(_parse_inputs, {"type": "object"}), "Inputs of each run."),
    Field("priority", "priority", kinds.PRIORITY, "Priority of each run."),
    Field("labels", "labels", kinds.TEXTS, "Labels of each run."),
    Field("base", "base", kinds.TEXT, "Where relative paths of its tasks start."),
)


def build_schedule(options: Mapping[str, Any], now_ms: int) -> ScheduleSpec:
    """The schedule that these options describe; those that are None count as absent. Raises SpecError with every problem
    found, also when nothing would ever fire."""
    faults: list[Found] = []
    given = {key: value for key, value in options.items() if value is not None}
    read = OPTIONS.read(given, faults)
    for one, other, missing in (("cron", "every", "says no time"), ("workflow", "spec", "says no workflow")):
        if _has(given, one) == _has(given, other):
            both = f"found `{one}` and `{other}`"
            faults.append(((), f"{both if _has(given, one) else missing}, expected exactly one of `{one}` and `{other}`"))
    zone = _zone(read.get("timezone", "UTC"))
    for name in ("start", "end"):
        moment = read.pop(name, None)
        read[f"{name}_ms"] = now_ms if moment is None and name == "start" and "every" in given else _ms(moment, zone, now_ms)
        if read[f"{name}_ms"] > LATEST_MS:
            faults.append(((name,), "is too far away, expected a time before the year 9999"))
    workflow: WorkflowSpec | None = read.pop("spec", None)
    if workflow is not None:
        read["definition"] = workflow.encode()
    problems = [Problem(show_path(path), message) for path, message in faults]
    if workflow is not None:
        problems += _workflow_problems(workflow, read.get("inputs", {}))
    if problems:
        raise SpecError(problems)
    spec = ScheduleSpec(**{key: value for key, value in read.items() if value is not None})
    if not next_after(spec, now_ms):
        raise SpecError.at("", _why_never(spec, now_ms))
    return spec


def _has(given: Mapping[str, Any], key: str) -> bool:
    return any(name in given for name in OPTIONS.names_of(key))


def _ms(moment: int | datetime | None, zone: tzinfo, now_ms: int) -> int:
    if moment is None:
        return 0
    if isinstance(moment, int):
        return now_ms + moment
    local = moment if moment.tzinfo is not None else moment.replace(tzinfo=zone)
    return max(round(local.timestamp() * 1000), 1)


def _workflow_problems(workflow: WorkflowSpec, inputs: Mapping[str, Any]) -> list[Problem]:
    try:
        compile_plan(workflow)
        check_inputs(workflow, inputs)
    except SpecError as error:
        return list(error.problems)
    return []


def _why_never(spec: ScheduleSpec, now_ms: int) -> str:
    if spec.end_ms and spec.end_ms <= now_ms:
        return "never fires: its end has passed"
    if spec.end_ms:
        return f"never fires: {describe(spec)} comes to no time between its start and its end"
    return f"never fires: {describe(spec)} comes to no time in 50 years"


# -- its times


def next_after(spec: ScheduleSpec, after_ms: int) -> int:
    """The first time that comes after `after_ms`; 0: never again."""
    return next(_times(spec, after_ms), 0)


def times_between(spec: ScheduleSpec, after_ms: int, until_ms: int, limit: int) -> list[int]:
    """The newest times after `after_ms` and up to `until_ms`, at most `limit`, the oldest of them first."""
    window_ms = MINUTE_MS
    while True:  # a year of minutes is not counted for the last hundred: from the end back, ever further
        first_ms = max(until_ms - window_ms, after_ms)
        found: list[int] = []
        for at_ms in _times(spec, first_ms):
            if at_ms > until_ms:
                break
            found.append(at_ms)
        if len(found) >= limit or first_ms == after_ms:
            return found[-limit:] if limit else []
        window_ms *= 4


def upcoming(spec: ScheduleSpec, after_ms: int, count: int) -> list[int]:
    """The next few times."""
    return list(islice(_times(spec, after_ms), count))


def _times(spec: ScheduleSpec, after_ms: int) -> Iterator[int]:
    """All times after `after_ms`, in order."""
    first_ms = max(after_ms, spec.start_ms - 1)
    times = _cron_times(spec.cron, spec.timezone, first_ms) if spec.cron else _interval_times(spec, first_ms)
    for at_ms in times:
        if (spec.end_ms and at_ms >= spec.end_ms) or at_ms > LATEST_MS:
            return
        yield at_ms


def _interval_times(spec: ScheduleSpec, after_ms: int) -> Iterator[int]:
    at_ms = spec.start_ms + max((after_ms - spec.start_ms) // spec.every_ms + 1, 0) * spec.every_ms
    while True:
        yield at_ms
        at_ms += spec.every_ms


def _cron_times(cron: str, zone: str, after_ms: int) -> Iterator[int]:
    if after_ms > LATEST_MS:
        return
    last_ms = after_ms
    for at in CronSim(cron, datetime.fromtimestamp(after_ms // 1000, _zone(zone))):
        at_ms = int(at.timestamp()) * 1000
        if at_ms > last_ms:  # the hour that is shown twice has been, and two that were jumped over are the same moment
            last_ms = at_ms
            yield at_ms


@lru_cache(maxsize=64)
def _zone(name: str) -> tzinfo:
    """UTC is the object of which the cron library knows that its clocks never change; it needs no database either."""
    return UTC if name == "UTC" else ZoneInfo(name)


# -- in words


def describe(spec: ScheduleSpec) -> str:
    """When it fires, for people: `every 5m`, `At 02:30 every day (Europe/Berlin)`."""
    if not spec.cron:
        return f"every {format_duration(spec.every_ms)}"
    zone = "" if spec.timezone == "UTC" else f" ({spec.timezone})"
    return CronSim(spec.cron, datetime.fromtimestamp(0, UTC)).explain() + zone
