"""Points in time, as people write and read them: local, and how long ago."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Final

import typer

from skep.model.units import format_duration, parse_duration_ms

EXAMPLES: Final = "2026-03-01T08:00, 2026-03-01, 08:00, or with a zone as in 2026-03-01T08:00Z"
_CLOCK: Final = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])")


def parse_future_ms(text: str | None, option: str, now_ms: int) -> int:
    """A point in time, 0 for none; a bare `08:00` is the next one. Raises BadParameter."""
    return _parse(text, option, now_ms, ahead=True) if text else 0


def parse_past_ms(text: str | None, option: str, now_ms: int) -> int | None:
    """A point in time, or a duration until now; a bare `08:00` is the last one. Raises BadParameter."""
    if not text:
        return None
    try:
        return now_ms - parse_duration_ms(text)
    except ValueError:
        return _parse(text, option, now_ms, ahead=False)


def _parse(text: str, option: str, now_ms: int, ahead: bool) -> int:
    if match := _CLOCK.fullmatch(text.strip()):
        now = datetime.fromtimestamp(now_ms / 1000).astimezone()
        found = now.replace(hour=int(match[1]), minute=int(match[2]), second=0, microsecond=0, tzinfo=None)
        passed = found.timestamp() * 1000 <= now_ms
        if passed == ahead:
            found += timedelta(days=1 if ahead else -1)
        return _ms(found)
    try:
        return _ms(datetime.fromisoformat(text.strip()))
    except (ValueError, OverflowError, OSError):
        more = "" if ahead else ", or how long ago as in 2h"
        raise typer.BadParameter(f"{text!r} is not a point in time; for example {EXAMPLES}{more}", param_hint=option) from None


def _ms(found: datetime) -> int:
    ms = round(found.timestamp() * 1000)
    if ms < 0:
        raise ValueError("before 1970")
    return ms


def local(ms: int | None) -> str:
    """`2026-03-01 08:00:00` in local time; `-` for none."""
    return datetime.fromtimestamp(ms / 1000).isoformat(" ", "seconds") if ms else "-"


def age(ms: int | None, now_ms: int) -> str:
    """`4m ago`, `in 2h`; `-` for none."""
    if not ms:
        return "-"
    if ms > now_ms:
        return f"in {_short(-(-(ms - now_ms) // 1000) * 1000)}"  # what is due in an hour is not due in 59 minutes
    return f"{_short(now_ms - ms)} ago" if now_ms - ms >= 1000 else "now"


def both(ms: int | None, now_ms: int) -> str:
    """`2026-03-01 08:00:00, 4m ago`."""
    return f"{local(ms)}, {age(ms, now_ms)}" if ms else "-"


def _short(ms: int) -> str:
    """In one unit, where two say too much."""
    return re.sub(r"(?<=[a-z])[0-9]+[a-z]$", "", format_duration(ms // 1000 * 1000))
