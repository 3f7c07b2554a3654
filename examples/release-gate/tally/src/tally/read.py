"""Where values come from: a column of a CSV file, a pattern in a log, or whole lines."""

import csv
import math
import re
from collections.abc import Iterable, Sequence


def column(text: Iterable[str], name: str) -> list[str]:
    """The cells of one column of a CSV file with a header line; empty cells are left out."""
    rows = csv.DictReader(text)
    header = rows.fieldnames or []
    if name not in header:
        raise ValueError(f"no column {name!r}; the file has {', '.join(header) or 'none'}")
    return [cell for row in rows if (cell := (row[name] or "").strip())]


def matches(text: Iterable[str], pattern: str) -> list[str]:
    """What the pattern finds, at most once a line: its first group, else the whole match."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"bad pattern {pattern!r}: {error}") from error
    group = 1 if compiled.groups else 0
    found = (compiled.search(line) for line in text)
    return [value for match in found if match and (value := match.group(group))]


def lines(text: Iterable[str]) -> list[str]:
    """Every line that is not blank."""
    return [stripped for line in text if (stripped := line.strip())]


def numbers(values: Sequence[str]) -> list[float] | None:
    """The values as finite numbers, or None if they are not all that."""
    try:
        parsed = [float(value) for value in values]
    except ValueError:
        return None
    return parsed if all(map(math.isfinite, parsed)) else None
