"""How long it took until what a fault had hit went on.

node      from the kill of a node to the next start of each task that it was running, elsewhere
silent    the same for a node that stood still or was cut off, as far as its tasks were lost by that
place     from the fault of a server or a store to the next task that was placed
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from skep.model.run import Token
from skep.testing.chaos.effects import Line
from skep.testing.chaos.ledger import Entry
from skep.testing.chaos.story import Story

NODE: Final = frozenset({"node-kill"})
SILENT: Final = frozenset({"node-late", "node-stall", "partition", "node-silent", "node-cut"})
PLACE: Final = frozenset(
    {"server-kill", "leader-kill", "server-stall", "redis-kill", "redis-flush", "redis-empty", "redis-older"}
)
LONGEST_NS: Final = 60_000_000_000
"""Beyond which the next start has nothing to do with it."""


class Span(NamedTuple):
    """An execution of a task: when it began, and whether and when it came to its end."""

    run: str
    name: str
    token: Token
    begin_ns: int
    end_ns: int | None


def measure(entries: Sequence[Entry], lines: Sequence[Line], stories: Mapping[str, Story | None]) -> dict[str, list[float]]:
    """Milliseconds, by what was hit."""
    found: dict[str, list[float]] = {"node": [], "silent": [], "place": []}
    spans = _spans(lines)
    nodes = _nodes(stories)
    placed = sorted(
        told.event.at_ms
        for story in stories.values()
        if story is not None
        for told in story.events
        if told.event.kind == "granted"
    )
    lasting = _lasting(entries)
    for fault, _ in lasting:
        if fault.kind in NODE | SILENT:
            times = found["node" if fault.kind in NODE else "silent"]
            times += [ns / 1e6 for ns in _elsewhere(fault, spans, nodes) if _alone(fault, ns, lasting)]
        elif fault.kind in PLACE and (at := bisect_left(placed, fault.at_ms)) < len(placed):
            took_ms = placed[at] - fault.at_ms
            found["place"] += [float(took_ms)] if _alone(fault, took_ms * 1_000_000, lasting) else []
    return found


def _lasting(entries: Sequence[Entry]) -> list[tuple[Entry, int]]:
    """Faults, and when each was taken back (of CLOCK_MONOTONIC)."""
    found: list[tuple[Entry, int]] = []
    for at, entry in enumerate(entries):
        if entry.what == "fault":
            same = (e.at_ns for e in entries[at:] if e.what == "healed" and (e.kind, e.subject) == (entry.kind, entry.subject))
            found.append((entry, next(same, entry.at_ns)))
    return found


def _alone(fault: Entry, took_ns: int, lasting: Sequence[tuple[Entry, int]]) -> bool:
    return not any(
        other is not fault and other.at_ns < fault.at_ns + took_ns and healed_ns > fault.at_ns for other, healed_ns in lasting
    )


def _spans(lines: Sequence[Line]) -> dict[tuple[str, str], list[Span]]:
    """Of each task, in the order of their tokens. Shells do not tell the time, and are left out."""
    locked = {(line.run, line.name) for line in lines if line.what == "held"}
    began: dict[tuple[str, str, Token], int] = {}
    ended: dict[tuple[str, str, Token], int] = {}
    for line in lines:
        if line.at_ns and line.what in ("start", "end"):
            (began if line.what == "start" else ended).setdefault((line.run, line.name, Token.parse(line.token)), line.at_ns)
    found: defaultdict[tuple[str, str], list[Span]] = defaultdict(list)
    for (run, name, token), at_ns in sorted(began.items()):
        if (run, name) not in locked:
            found[run, name].append(Span(run, name, token, at_ns, ended.get((run, name, token))))
    return found


def _nodes(stories: Mapping[str, Story | None]) -> dict[tuple[str, str, Token], str]:
    """On which node each lease was that was lost."""
    found: dict[tuple[str, str, Token], str] = {}
    for story in stories.values():
        if story is None:
            continue
        names = {task.index: task.name for task in story.tasks}
        granted: dict[int, tuple[Token, str]] = {}
        for told in story.events:
            event = told.event
            if event.kind == "granted":
                granted[event.task] = told.at, event.node
            elif event.kind == "returned" and event.task in granted:
                token, node = granted[event.task]
                found[story.run, names.get(event.task, ""), token] = node
    return found


def _elsewhere(
    fault: Entry, spans: Mapping[tuple[str, str], Sequence[Span]], nodes: Mapping[tuple[str, str, Token], str]
) -> Iterator[int]:
    for (run, name), of_task in spans.items():
        for span, after in pairwise(of_task):
            hit = span.begin_ns < fault.at_ns and (span.end_ns is None or span.end_ns > fault.at_ns)
            took_ns = after.begin_ns - fault.at_ns
            if hit and 0 < took_ns < LONGEST_NS and nodes.get((run, name, span.token)) == fault.subject:
                yield took_ns
