"""The ledger of effects, as `work` writes it: which attempt did what, and when. Skep neither writes nor reads it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple


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
    """Attempts of a task that counts by checkpoint which began below what was saved."""
    saved: defaultdict[tuple[str, str], int] = defaultdict(int)
    for line in lines:
        task = (line.run, line.name)
        if line.what == "saved":
            saved[task] = max(saved[task], int(line.more))
        elif line.what == "loaded" and int(line.more) < saved[task]:
            yield f"run {line.run}: {line.name} had saved {saved[task]} and began again at {line.more}"
