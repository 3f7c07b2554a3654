"""Lists of runs, the newest first, quick with a million of them.

Each filter that is set has an index in the order of the list: read from the newest on, it is a *stream* of runs. The filter
with the fewest runs leads, the others are checked run by run:

    streams of the leading filter ──► merged ──► do the others hold? ──► page
    (one per state, name or label)

What two large filters share may be little, so a page looks at `LOOKS` runs at most. Then it is short, even empty, but has a
cursor, and the next one goes on from there: a page takes a bounded time, whatever is asked.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from skep.errors import NotFoundError, RefusedError
from skep.record import search
from skep.record.dialect import Transaction
from skep.record.protocol import RunFilter, RunPage, RunRow
from skep.record.read import RUN_COLUMNS, run_row
from skep.record.schema import UNFINISHED

LOOKS: Final = 4_000
"""Runs that one page looks at."""
COUNTED: Final = 2_000
"""How far the runs of a filter are counted, to find the one that leads."""
STREAMS: Final = 64
"""A filter that falls into more streams does not lead."""
DAY_MS: Final = 86_400_000

_LISTED: Final = RUN_COLUMNS.replace(", inputs", ", NULL")


class Stream(NamedTuple):
    """Runs in the order of one index: a condition on `runs`, or on `run_labels`."""

    where: str
    values: tuple[Any, ...] = ()
    labels: bool = False


class Filter(NamedTuple):
    """One thing that a run must be."""

    streams: Sequence[Stream]
    """Together all runs that are so; none: it cannot lead."""
    check: str = ""
    """The same as a condition on the row `r` of a run, or on its place in the list alone, which `{at}` stands for."""
    values: tuple[Any, ...] = ()
    match: Callable[[str, str, bytes], bool] | None = None
    """The same of its id, workflow and labels, where SQL cannot say it."""


class Look(NamedTuple):
    """A run that was looked at: its place in the list, and whether it is wanted."""

    accepted_ms: int
    seq: int
    fits: bool


def page(tx: Transaction, wanted: RunFilter, limit: int, cursor: str) -> RunPage:
    """See `Record.list_runs`."""
    after = _parsed(cursor)
    if after and 0 < wanted.accepted_to_ms <= after[0]:
        after = None  # a cursor of another list: this one begins below it
    filters = _filters(tx, wanted)
    leader = _leader(tx, filters, wanted)
    others = [filter for filter in filters if filter is not leader]
    streams = leader.streams if leader else [Stream("1 = 1")]
    looks = [_looks(tx, stream, others, wanted, after) for stream in streams]
    found, more = collect(heapq.merge(*looks, key=lambda look: (-look.accepted_ms, -look.seq)), max(limit, 1))
    return RunPage(_rows(tx, found), more)


def collect(looks: Iterable[Look], limit: int) -> tuple[list[int], str]:
    """The first wanted runs, and the cursor after them. Pure."""
    found: list[int] = []
    end = last = (0, 0)
    looked = 0
    for accepted_ms, seq, fits in looks:
        if (accepted_ms, seq) == last:
            continue  # in two streams
        if looked == LOOKS:
            return found, _cursor(end if len(found) == limit else last)
        looked += 1
        last = (accepted_ms, seq)
        if fits and len(found) == limit:
            return found, _cursor(end)
        if fits:
            found.append(seq)
            end = last
    return found, ""


def _cursor(place: tuple[int, int]) -> str:
    return f"{place[0]}-{place[1]}"


def _parsed(cursor: str) -> tuple[int, int] | None:
    if not cursor:
        return None
    accepted_ms, _, seq = cursor.partition("-")
    if not (accepted_ms.isdecimal() and seq.isdecimal() and len(cursor) < 40):
        raise RefusedError(f"{cursor!r} is no cursor of a list of runs; give back the one that came with the page before")
    return int(accepted_ms), int(seq)


def _filters(tx: Transaction, wanted: RunFilter) -> list[Filter]:
    found: list[Filter] = []
    for column, value in (
        ("namespace", wanted.namespace),
        ("workflow", wanted.workflow),
        ("schedule", wanted.schedule),
        ("parent_run", wanted.parent),
    ):
        if value:
            # That it is not empty is said again for the partial indexes, which leave out those that have none.
            stream = Stream(f"r.{column} = ? AND r.{column} <> ''", (value,))
            found.append(Filter([stream], f"r.{column} = ?", (value,)))
    if wanted.roots:
        found.append(Filter((), "r.parent_run = ''"))
    if wanted.states:
        states = tuple(sorted(set(wanted.states)))
        check = f"r.state IN ({', '.join('?' * len(states))})"
        found.append(Filter([Stream("r.state = ?", (state,)) for state in states], check, states))
    for label in wanted.labels.items():
        place = "accepted_ms = {at}.accepted_ms AND seq = {at}.seq"
        check = f"EXISTS (SELECT 1 FROM run_labels WHERE name = ? AND value = ? AND {place})"
        found.append(Filter([Stream("l.name = ? AND l.value = ?", label, labels=True)], check, label))
    if wanted.search:
        found.append(_searched(tx, wanted.search))
    return found


def _searched(tx: Transaction, text: str) -> Filter:
    hits = search.find(tx, text)
    match = partial(search.matches, text)
    if not hits.whole:
        return Filter((), match=match)
    streams = [Stream("r.workflow = ?", (name,)) for name in hits.workflows]
    streams += [Stream("l.name = ? AND l.value = ?", pair, labels=True) for pair in hits.labels]
    if hits.ids or not streams:
        inner = "r.seq IN (SELECT seq FROM runs WHERE id >= ? AND id < ?)"
        streams.append(Stream(inner, search.bounds(text.casefold())))
    return Filter(streams, match=match)


def _leader(tx: Transaction, filters: Sequence[Filter], wanted: RunFilter) -> Filter | None:
    able = [filter for filter in filters if 0 < len(filter.streams) <= STREAMS]
    if len(able) <= 1:
        return able[0] if able else None
    return min(able, key=lambda filter: sum(_count(tx, stream, wanted) for stream in filter.streams))


def _count(tx: Transaction, stream: Stream, wanted: RunFilter) -> int:
    table, key = ("run_labels l", "l") if stream.labels else ("runs r", "r")
    within, values = _within(key, wanted.accepted_from_ms, wanted.accepted_to_ms)
    sql = f"SELECT COUNT(*) FROM (SELECT 1 FROM {table} WHERE {stream.where}{within} LIMIT {COUNTED}) AS few"
    row = tx.one(sql, *stream.values, *values)
    return int(row[0]) if row else 0


def _within(key: str, from_ms: int, to_ms: int) -> tuple[str, tuple[int, ...]]:
    """The time in which they were accepted."""
    sql = ""
    values: tuple[int, ...] = ()
    if from_ms:
        sql, values = f" AND {key}.accepted_ms >= ?", (from_ms,)
    if to_ms:
        sql, values = f"{sql} AND {key}.accepted_ms < ?", (*values, to_ms)
    return sql, values


def _looks(
    tx: Transaction, stream: Stream, others: Sequence[Filter], wanted: RunFilter, after: tuple[int, int] | None
) -> Iterator[Look]:
    """The runs of a stream beyond a place in the list, each looked at for what else is wanted of it."""
    table, key = "runs r", "r"
    if stream.labels:  # where labels are all that is asked for, no row of a run is touched
        more = any(filter.match or "r." in filter.check for filter in others)
        table, key = ("run_labels l JOIN runs r ON r.seq = l.seq" if more else "run_labels l"), "l"
    checks = [filter for filter in others if filter.check]
    matches = [filter.match for filter in others if filter.match]
    fits = " AND ".join(filter.check for filter in checks).format(at=key) or "1 = 1"
    seen = ", r.id, r.workflow, r.labels" if matches else ""
    within, times = _within(key, wanted.accepted_from_ms, 0 if after else wanted.accepted_to_ms)
    sql = (
        f"SELECT {key}.accepted_ms, {key}.seq, CASE WHEN {fits} THEN 1 ELSE 0 END{seen} FROM {table}"
        f" WHERE {stream.where}{within}%s ORDER BY {key}.accepted_ms DESC, {key}.seq DESC LIMIT {LOOKS + 2}"
    )
    values = (*(value for filter in checks for value in filter.values), *stream.values, *times)
    # In two parts, or the many runs that were accepted with the last one would be read again for every page.
    parts: list[tuple[str, tuple[int, ...]]] = [("", ())]
    if after:
        parts = [(f" AND {key}.accepted_ms = ? AND {key}.seq < ?", after), (f" AND {key}.accepted_ms < ?", after[:1])]
    for beyond, place in parts:
        for accepted_ms, seq, holds, *row in tx.each(sql % beyond, *values, *place):
            yield Look(accepted_ms, seq, bool(holds) and all(match(*row) for match in matches))


def _rows(tx: Transaction, found: Sequence[int]) -> list[RunRow]:
    rows: dict[int, RunRow] = {}
    for start in range(0, len(found), 500):
        part = found[start : start + 500]
        sql = f"SELECT seq, {_LISTED} FROM runs WHERE seq IN ({', '.join('?' * len(part))})"
        rows.update((seq, run_row(row)) for seq, *row in tx.all(sql, *part))
    return [rows[seq] for seq in found if seq in rows]


def find_run(tx: Transaction, prefix: str) -> str:
    """See `Record.find_run`."""
    if tx.one("SELECT 1 FROM runs WHERE id = ?", prefix):
        return prefix
    folded = prefix.strip().lower()
    sql = "SELECT id FROM runs WHERE id >= ? AND id < ? ORDER BY id LIMIT 4"
    ids = [id for (id,) in tx.all(sql, *search.bounds(folded))] if folded else []
    if not ids:
        raise NotFoundError(f"there is no run {prefix!r}; `skep runs` lists them" if prefix else "name a run")
    if len(ids) > 1:
        some = ", ".join(ids[:3]) + (", …" if len(ids) > 3 else "")
        raise RefusedError(f"several runs begin with {prefix!r}: {some}; give more of the id")
    return str(ids[0])


def count_runs(tx: Transaction, namespace: str, now_ms: int) -> dict[int, int]:
    """See `Record.count_runs`."""
    one, values = (" AND namespace = ?", (namespace,)) if namespace else ("", ())
    if not now_ms:
        row = tx.one("SELECT MAX(finished_ms) FROM runs WHERE state >= 3")
        now_ms = (row[0] if row else 0) or 0
    counts: dict[int, int] = {}
    # Counted in one pass, not grouped: that would sort them first.
    for states, which, since in (
        (range(3), UNFINISHED, ()),
        (range(3, 6), "state >= 3 AND finished_ms > ?", (now_ms - DAY_MS,)),
    ):
        columns = ", ".join(f"COUNT(*) FILTER (WHERE state = {state})" for state in states)
        row = tx.one(f"SELECT {columns} FROM runs WHERE {which}{one}", *since, *values)
        counts |= {state: count for state, count in zip(states, row or (), strict=True) if count}
    return counts
