"""When runs are started by the clock."""

from __future__ import annotations

from typing import Any

import msgspec


class ScheduleSpec(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A schedule, checked by `skep.flow.timetable`. Exactly one of `cron` and `every_ms`; exactly one of `workflow` and
    `definition`."""

    cron: str = ""
    """Five fields, in the local time of `timezone`."""
    every_ms: int = 0
    """Counted from `start_ms`."""
    timezone: str = "UTC"
    start_ms: int = 0
    """Nothing fires before it. With `every_ms` it is always set."""
    end_ms: int = 0
    """Nothing fires at or after it; 0: no end."""
    overlap: str = "skip"
    """What happens when the run of an earlier time goes on: `skip` this one, `queue` it (one at a time, in order), `cancel` the
    older one, or `allow` both."""
    catch_up: str = "last"
    """Times that passed while no server ran: `skip` them, fire the `last` one, or `all` (at most 100, the newest)."""
    workflow: str = ""
    """A stored definition, `name` or `name@version`; without a version the newest at the time of firing."""
    definition: bytes = b""
    """The canonical JSON of a `WorkflowSpec`."""
    inputs: dict[str, Any] = {}
    priority: int = 0
    labels: dict[str, str] = {}
    base: str = ""
    """Where relative paths of its tasks start, on nodes of the machine where it was made."""


class ScheduleView(msgspec.Struct, kw_only=True):
    """A schedule, as shown."""

    name: str
    namespace: str
    when: str
    """In words, such as `every 5m` or `At 02:30 every day`."""
    cron: str | None = None
    every_ms: int | None = None
    timezone: str = "UTC"
    start_ms: int | None = None
    end_ms: int | None = None
    overlap: str = "skip"
    catch_up: str = "last"
    workflow: str = ""
    """The stored definition, or the name of the inline one."""
    inputs: Any = None
    paused: bool = False
    fired_ms: int | None = None
    next_ms: int | None = None
    upcoming_ms: list[int] = []
    """The next few times."""
    runs: list[str] = []
    """Ids of the last runs, the newest first."""
    trouble: str | None = None
    """Why its last time started no run."""
