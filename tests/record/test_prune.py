"""Retention: what goes, what stays, and that it goes in steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from skep.errors import NotFoundError, RefusedError
from skep.model.event import Event
from skep.model.node import LogChunk
from skep.model.run import Token
from skep.model.state import RunState
from skep.model.wait import Wait
from skep.record import prune, schema
from skep.record.protocol import DecisionRow, Fence, NewRun, RunFilter, Signal
from skep.record.sql import SqlRecord

EPOCH = 1_750_000_000
NOW = 1_750_000_000_000
DAY = prune.DAY_MS
New = Callable[..., NewRun]


async def fill(record: SqlRecord, story: Any, tasks: int = 25) -> None:
    """Rows of `r1` in every table that has rows of runs."""
    story.tell("loaded", count=tasks)
    for task in range(tasks):
        story.end("succeeded", story.grant(task), output=b"1")
        if task % 5 == 0:
            await record.transcribe("e1", EPOCH, *story.take())
    story.tell("parked", task=3, attempt=1, reason="approval", data=Wait(kind="approval").encode())
    story.tell("parked", task=4, reason="map", first=tasks, count=2)
    story.tell("ended", state=int(RunState.SUCCEEDED))
    await record.transcribe("e1", EPOCH, *story.take())
    await record.append_logs([LogChunk("r1", task, 1, "out", 0, NOW, b"x") for task in range(tasks)])
    await record.keep_decisions([DecisionRow("r1", task, task, b"d") for task in range(tasks)])
    await record.save_checkpoint(Fence("r1", 0, Token(EPOCH, 1)), b"c", NOW)
    await record.command("r1", "cancel", b"", NOW)
    await record.put_artifact("r1", b"data", NOW)


async def left(record: SqlRecord, run: str = "r1") -> dict[str, int]:
    def count(tx: Any) -> dict[str, int]:
        return {table: tx.one(f"SELECT COUNT(*) FROM {table} WHERE run_id = ?", run)[0] for table in schema.KEYS}

    return await record._write(count)


@pytest.mark.parametrize("rows", [1, 7, 2_000])
async def test_a_run_goes_with_everything_in_steps(
    ready_record: SqlRecord, new_run: New, story: Any, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prune, "ROWS", rows)
    await ready_record.accept([new_run("r2", labels={"team": "a"})])
    await ready_record._write(lambda tx: tx.run("UPDATE runs SET state = 3, finished_ms = 5 WHERE id = 'r2'"))
    await fill(ready_record, story)
    assert all((await left(ready_record)).values()), "each of these tables is put to the test"
    assert await ready_record.prune(ended_before_ms=NOW + DAY, now_ms=NOW, limit=10) == 2
    assert not any((await left(ready_record)).values())
    assert (await ready_record.list_runs(RunFilter())).runs == []
    tables = ("runs", "run_labels", "pruned", "definitions")
    assert await ready_record._write(lambda tx: [tx.all(f"SELECT * FROM {table}") for table in tables]) == [[], [], [], []]


async def test_what_a_process_left_half_done_is_finished(ready_record: SqlRecord, new_run: New, story: Any) -> None:
    await fill(ready_record, story)
    assert await ready_record._write(prune.take_runs, NOW + DAY, 10) == 1
    with pytest.raises(NotFoundError):
        await ready_record.run("r1")
    (refused,) = await ready_record.accept([new_run("r1")])
    assert isinstance(refused, RefusedError), "what is left would become its own"
    assert await ready_record.prune(ended_before_ms=0, now_ms=NOW, limit=10) == 0
    assert not any((await left(ready_record)).values())
    assert await ready_record.accept([new_run("r1")]) == [("r1", True)]


async def test_a_child_stays_as_long_as_its_parent_goes_on(ready_record: SqlRecord, new_run: New) -> None:
    await ready_record.accept([new_run("child", parent=("r1", 0)), new_run("orphan", parent=("gone", 0))])
    await ready_record._write(lambda tx: tx.run("UPDATE runs SET state = 3, finished_ms = 5 WHERE id <> 'r1'"))
    assert await ready_record.prune(ended_before_ms=NOW, now_ms=NOW, limit=10) == 1
    assert (await ready_record.run("child")).parent == ("r1", 0)
    await ready_record._write(lambda tx: tx.run("UPDATE runs SET state = 4, finished_ms = 9 WHERE id = 'r1'"))
    assert await ready_record.prune(ended_before_ms=NOW, now_ms=NOW, limit=1) == 1
    assert await ready_record.prune(ended_before_ms=NOW, now_ms=NOW, limit=10) == 1


@pytest.mark.parametrize("rows", [1, 2_000])
async def test_what_is_old_by_itself_goes(ready_record: SqlRecord, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prune, "ROWS", rows)
    old, now = NOW - 8 * DAY, NOW
    told = [
        Event(n=1, at_ms=old, kind="registered", node="gone", count=1),
        Event(n=2, at_ms=old, kind="lost", node="gone", count=1),
        Event(n=3, at_ms=old, kind="registered", node="there", count=1),
        Event(n=4, at_ms=now, kind="registered", node="new", count=1),
        Event(n=5, at_ms=now, kind="lost", node="new", count=1),
    ]
    for event in told:
        await ready_record.transcribe("e1", EPOCH, event.n - 1, [event])
    for id, at_ms in (("old1", old), ("old2", old), ("new", now)):
        await ready_record.send(Signal(id=id, namespace="n", name="e", key="", data=b"", at_ms=at_ms))
    for key, ttl_ms in (("a", 5), ("b", 6), ("c", 0)):
        await ready_record.put_state("n", key, b"1", now_ms=old, ttl_ms=ttl_ms)
    assert await ready_record.prune(ended_before_ms=now - DAY, now_ms=now, limit=10) == 0
    assert [node.id for node in await ready_record.nodes("e1")] == ["new", "there"]
    assert [event.n for _, event in await ready_record.events("e1", Token(0, 0), 9)] == [4, 5]
    assert [signal.id for signal in await ready_record.signals("n", "e", "", 0, 9)] == ["new"]
    assert await ready_record._write(lambda tx: tx.all("SELECT name FROM values_kept")) == [("c",)]
