"""Durations, sizes and priorities as people write them, turned into the integers the system works with, and back.

Durations are milliseconds, sizes are bytes, priorities are 1 to 10. The arithmetic is decimal, so that `0.1` is exactly
100 ms; what does not divide evenly is rounded up, so that a positive value never becomes zero.
"""

import math
import re
from decimal import ROUND_CEILING, Decimal
from typing import Final

SECOND_MS: Final = 1_000
MINUTE_MS: Final = 60 * SECOND_MS
HOUR_MS: Final = 60 * MINUTE_MS
DAY_MS: Final = 24 * HOUR_MS
WEEK_MS: Final = 7 * DAY_MS
MAX_DURATION_MS: Final = 3_653 * DAY_MS  # ten years, leap days included
MAX_BYTES: Final = 1 << 60
MIN_PRIORITY: Final = 1
MAX_PRIORITY: Final = 10
PRIORITIES: Final = {"low": 3, "normal": 5, "high": 8, "critical": 10}

_MAX_LENGTH: Final = 64  # of a written value; longer than any sensible one
_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_UNITS_MS = {"w": WEEK_MS, "d": DAY_MS, "h": HOUR_MS, "m": MINUTE_MS, "s": SECOND_MS, "ms": 1}
_COMPACT = re.compile(r"\s*".join(rf"(?:(?P<{unit}>{_NUMBER})\s*{unit}(?![a-z]))?" for unit in _UNITS_MS))
_ISO = re.compile(
    rf"P(?:(?P<w>{_NUMBER})W)?(?:(?P<d>{_NUMBER})D)?"
    rf"(?:T(?=[0-9])(?:(?P<h>{_NUMBER})H)?(?:(?P<m>{_NUMBER})M)?(?:(?P<s>{_NUMBER})S)?)?"
)
_SIZE = re.compile(rf"(?P<number>{_NUMBER})\s*(?:(?P<prefix>[kmgtpe])(?P<binary>i)?)?b?", re.IGNORECASE)
_PREFIXES = "KMGTPE"


def parse_duration_ms(value: str | int | float) -> int:
    """Milliseconds of a duration; a number, bare or as text, is seconds.

    Takes `250ms`, `90s`, `5m`, `1h30m`, `2d`, `1w` (units from large to small, each at most once) and ISO 8601 such as
    `PT1H30M` (no years or months: their length varies). Raises ValueError for anything else, also for a negative, boolean or
    not finite value, and for more than ten years.
    """
    text, amount = _written(value), None
    if re.fullmatch(_NUMBER, text):
        amount = Decimal(text) * SECOND_MS
    elif match := _COMPACT.fullmatch(text) or _ISO.fullmatch(text):
        terms = [Decimal(number) * _UNITS_MS[unit] for unit, number in match.groupdict().items() if number]
        amount = sum(terms, Decimal()) if terms else None
    if amount is None or amount > MAX_DURATION_MS:
        raise _refusal(value, "a duration from 0 to 10 years: seconds, or numbers with w, d, h, m, s, ms", "1h30m")
    return _whole(amount)


def format_duration(ms: int) -> str:
    """A duration for people, cut (not rounded) to its two largest units: `340ms`, `1.2s`, `4m10s`, `2h05m`, `3d4h`."""
    if ms < 0:
        return f"-{format_duration(-ms)}"
    if ms < SECOND_MS:
        return f"{ms}ms"
    if ms < MINUTE_MS:
        return _tenths(ms, SECOND_MS) + "s"
    if ms < HOUR_MS:
        return _pair(ms, MINUTE_MS, "m", SECOND_MS, "s", width=2)
    if ms < DAY_MS:
        return _pair(ms, HOUR_MS, "h", MINUTE_MS, "m", width=2)
    return _pair(ms, DAY_MS, "d", HOUR_MS, "h", width=1)


def parse_bytes(value: str | int) -> int:
    """Bytes of a size; a whole number, bare or as text, is bytes.

    Takes decimal suffixes (`8GB`, `8G`, `1.5 GB`: powers of 1000) and binary ones (`512MiB`, `512Mi`: powers of 1024), in any
    case. Raises ValueError for anything else, also for a negative, boolean or float value, and for more than 1 EiB.
    """
    match = None if isinstance(value, float) else _SIZE.fullmatch(_written(value))
    amount = Decimal(match["number"]) * _scale(match["prefix"] or "", match["binary"]) if match else None
    if amount is None or amount > MAX_BYTES:
        raise _refusal(value, "a size from 0 to 1 EiB: bytes, or a number with KB, MB, GB, TB, KiB, MiB, GiB, TiB", "8GB")
    return _whole(amount)


def format_cost(cost: float) -> str:
    """Money in whatever unit: two digits after the point, or as many as show three that are not 0."""
    digits = 2 if not 0 < cost < 0.1 else min(2 - math.floor(math.log10(cost)), 9)
    return f"{cost:,.{digits}f}"


def format_bytes(n: int) -> str:
    """A size for people: a whole number of a decimal (`8GB`) or binary (`512MiB`) unit, else cut to a tenth (`1.2GB`)."""
    if n < 0:
        return f"-{format_bytes(-n)}"
    if n < 1000:
        return f"{n}B"
    prefix = _PREFIXES[min((len(str(n)) - 1) // 3, len(_PREFIXES)) - 1]
    if n % _scale(prefix) and n >= 1024:
        binary = _PREFIXES[min((n.bit_length() - 1) // 10, len(_PREFIXES)) - 1]
        if n % _scale(binary, "i") == 0:
            return f"{n // _scale(binary, 'i')}{binary}iB"
    return f"{_tenths(n, _scale(prefix))}{prefix}B"


def parse_priority(value: int | str) -> int:
    """A priority from 1 to 10, 10 most urgent, or its name: low 3, normal 5, high 8, critical 10. Raises ValueError."""
    text = "" if isinstance(value, float) else _written(value).lower()
    number = PRIORITIES.get(text) or (int(text) if re.fullmatch("[0-9]{1,2}", text) else 0)
    if not MIN_PRIORITY <= number <= MAX_PRIORITY:
        raise _refusal(value, "a priority: a whole number from 1 to 10, or low, normal, high, critical", "8")
    return number


def _written(value: object) -> str:
    """The text to match against; empty, which nothing accepts, for what is neither text nor a number or is far too long."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    if isinstance(value, int) and value.bit_length() > 4 * _MAX_LENGTH:  # str() of a giant integer raises its own error
        return ""
    text = f"{Decimal(repr(value)):f}" if isinstance(value, float) else str(value).strip()  # 1e-05 as 0.00001
    return text if len(text) <= _MAX_LENGTH else ""


def _refusal(value: object, expected: str, example: str) -> ValueError:
    given = repr(value) if isinstance(value, str | float | bool | None) or _written(value) else f"this {type(value).__name__}"
    shown = given if len(given) <= _MAX_LENGTH else given[:_MAX_LENGTH] + "…"
    return ValueError(f"{shown} is not {expected}; for example {example}")


def _whole(amount: Decimal) -> int:
    return int(amount.to_integral_value(ROUND_CEILING))


def _scale(prefix: str, binary: str | None = None) -> int:
    power = _PREFIXES.index(prefix.upper()) + 1 if prefix else 0
    return int((1024 if binary else 1000) ** power)


def _tenths(amount: int, unit: int) -> str:
    whole, tenth = amount // unit, amount % unit * 10 // unit
    return f"{whole}.{tenth}" if tenth else str(whole)


def _pair(ms: int, large_ms: int, large: str, small_ms: int, small: str, width: int) -> str:
    rest = ms % large_ms // small_ms
    return f"{ms // large_ms}{large}" + (f"{rest:0{width}}{small}" if rest else "")
