"""The fold of a batch equals the fold of its parts."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from skep.model.event import Event
from skep.model.wait import Wait
from skep.record import costs, migrations, runs, transcribe
from skep.record.dialect import Transaction
from skep.record.fold import ALL_SO_FAR, STEPS, fold
from skep.record.protocol import EngineRow, NewRun
from skep.record.sqlite import Sqlite

EPOCH = 100
TABLES = ("runs", "tasks", "attempts", "expansions", "waits", "nodes", "rejected", "engines")
WAITS = [b"", Wait(kind="approval").encode(), Wait(kind="event", event="e", key="k" * 2_000, timeout_ms=9).encode(), b"broken"]


@st.composite
def events(draw: st.DrawFn) -> list[Event]:
    """Any events at all, sensible or not: the equality must not hang on what an engine would say."""
    told = []
    for n in range(1, draw(st.integers(1, 25)) + 1):
        kind = draw(st.sampled_from(sorted(STEPS)))
        fields: dict[str, Any] = {"run": draw(st.sampled_from(["r1", "r2"])), "task": draw(st.integers(-1, 2))}
        if draw(st.booleans()):
            fields |= {"attempt": draw(st.integers(1, 2)), "token": draw(st.integers(0, n)), "token_epoch": EPOCH}
        if draw(st.booleans()):
            fields["tasks"] = tuple(draw(st.lists(st.integers(0, 2), max_size=3)))
        if draw(st.booleans()):
            fields |= {"started_ms": n * 10, "ran_ms": 3, "due_ms": draw(st.sampled_from([0, 999]))}
        if draw(st.booleans()):
            fields |= {"first": draw(st.integers(3, 9)), "count": draw(st.integers(1, 9))}
        fields |= {"state": draw(st.integers(3, 6)), "reason": draw(st.sampled_from(["", "why", "node_lost"]))}
        fields |= {"data": draw(st.sampled_from(WAITS)), "command": draw(st.integers(0, 3))}
        fields |= {"output": draw(st.sampled_from([b"", b"o"])), "error": draw(st.sampled_from([b"", b"e"]))}
        told.append(Event(n=n, at_ms=1_000 + n, kind=kind, node="n", **fields))
    return told


EMPTY = (0, "", b"", ALL_SO_FAR)


def database() -> Transaction:
    tx = Sqlite(None).connect()
    tx.begin()
    migrations.ensure(tx)
    runs.open_engine(tx, EngineRow("e1", EPOCH, 0, "p", False), 0)
    costs.set_price(tx, "e1", "n", 7 * 10**12, 1)
    runs.accept(
        tx, [NewRun(id=id, engine="e1", workflow="w", definition=b"{}", digest="d", accepted_ms=1) for id in ("r1", "r2")]
    )
    return tx


def dump(tx: Transaction) -> dict[str, list[Any]]:
    """All rows, with the empty and the absent made one: readers do not tell them apart."""
    return {
        table: [
            tuple(None if value in EMPTY else value for value in row)
            for row in tx.all(f"SELECT * FROM {table} ORDER BY 1, 2, 3")
        ]
        for table in TABLES
    }


@settings(max_examples=120, deadline=None)
@given(told=events(), cuts=st.sets(st.integers(1, 24)))
def test_a_batch_equals_its_parts(told: list[Event], cuts: set[int]) -> None:
    whole, single, parts = database(), database(), database()
    transcribe.transcribe(whole, "e1", EPOCH, 0, told)
    for event in told:
        transcribe.transcribe(single, "e1", EPOCH, event.n - 1, [event])
    edges = [0, *sorted(cut for cut in cuts if cut < len(told)), len(told)]
    for start, end in pairwise(edges):
        transcribe.transcribe(parts, "e1", EPOCH, start, told[start:end])
    try:
        assert dump(whole) == dump(single) == dump(parts)
    finally:
        for tx in (whole, single, parts):
            tx.rollback()
            tx.close()


def test_a_granted_and_ended_pair_is_one_row_of_each() -> None:
    grants = [Event(n=n, at_ms=n, kind="granted", run="r", task=n, attempt=1, token=n, node="x") for n in range(1, 101)]
    ends = [Event(n=g.n + 100, at_ms=200, kind="succeeded", run="r", task=g.task, attempt=1, token=g.n) for g in grants]
    changes = fold(EPOCH, grants + ends)
    assert (len(changes.tasks), len(changes.attempts), len(changes.chunks)) == (100, 100, 1)
    assert {attempt.state for attempt in changes.attempts.values()} == {"succeeded"}
    assert {(attempt.first_epoch, attempt.first_n) for attempt in changes.attempts.values()} == {(EPOCH, g.n) for g in grants}
