"""The ledger of effects, as `work` writes it: which attempt did what, and when. Skep neither writes nor reads it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from skep.model.run import Token


class Line(NamedTuple):
    what: str
    name: str
    attempt: int
    token: str
    run: str
    at_ns: int
    """Of CLOCK_MONOTONIC; 0 where a shell wrote it."""
    more: str = ""


def read(ledger: Path) -> list[Line]:
    """In the order in which they were written."""
    if not ledger.exists():
        return []
    rows = [line.split() for line in ledger.read_text().splitlines()]
    return [Line(r[0], r[1], int(r[2]), r[3], r[4], int(r[5]), r[6] if len(r) > 6 else "") for r in rows]


def shared_locks(lines: Iterable[Line]) -> Iterator[str]:
    """Times at which a lock was held by two: from its first to its last sign of life in it nobody else may have it."""
    spans: defaultdict[str, dict[tuple[str, str, str], list[int]]] = defaultdict(dict)
    for line in lines:
        if line.what == "held":
            span = spans[line.more].setdefault((line.run, line.name, line.token), [line.at_ns, line.at_ns])
            span[1] = max(span[1], line.at_ns)
    for key, of_key in spans.items():
        last_end, last = 0, ("", "", "")
        for who, (begin, end) in sorted(of_key.items(), key=lambda item: item[1][0]):
            if begin < last_end:
                yield f"lock {key}: {who} had it {(last_end - begin) / 1e6:.1f} ms before {last} let it go"
            if end > last_end:
                last_end, last = end, who


def lost_counts(lines: Iterable[Line]) -> Iterator[str]:
    """Attempts of a task that counts by checkpoint which began below what earlier ones, or they themselves, had saved."""
    saved: defaultdict[tuple[str, str], dict[Token, int]] = defaultdict(dict)
    for line in lines:
        if line.what not in ("saved", "loaded"):
            continue
        task, token, value = (line.run, line.name), Token.parse(line.token), int(line.more)
        if line.what == "saved":
            saved[task][token] = value
            continue
        before = max((most for other, most in saved[task].items() if other <= token), default=0)
        if value < before:
            yield f"run {line.run}: {line.name} had saved {before} and began again at {value}"
