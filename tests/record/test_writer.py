"""The writer thread: groups, isolation of calls, locks, a full disk, closing."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from skep.errors import NotFoundError, RecordError, RefusedError
from skep.model.event import Event
from skep.record import kept, migrations
from skep.record.dialect import Transaction, Trouble
from skep.record.protocol import EngineRow, NewRun
from skep.record.sql import SqlRecord
from skep.record.sqlite import Sqlite
from skep.record.writer import Writer

NOW = 1_750_000_000_000


@pytest.fixture
async def file(tmp_path: Path) -> AsyncIterator[SqlRecord]:
    record = SqlRecord(tmp_path / "skep.db")
    await record.open()
    yield record
    await record.close()


@pytest.fixture(params=["file", "postgres"])
async def kept_record(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SqlRecord]:
    """One with a writer thread, on either database."""
    record = SqlRecord(tmp_path / "skep.db" if request.param == "file" else request.getfixturevalue("postgres"))
    await record.open()
    yield record
    await record.close()


class Held:
    """A call that keeps the writer busy until it is let go."""

    def __init__(self, record: SqlRecord) -> None:
        self.entered, self.go = threading.Event(), threading.Event()
        self.future = record.call(self.wait)
        assert self.entered.wait(5)

    def wait(self, _: Transaction) -> None:
        self.entered.set()
        assert self.go.wait(5)


def put(record: SqlRecord, n: int) -> Any:
    return record.put_state("n", f"k{n}", b"1", now_ms=NOW, ttl_ms=0)


async def test_calls_that_wait_share_one_commit_and_one_wake_up(
    kept_record: SqlRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(kept_record)
    before = kept_record.writer.commits
    tasks = [asyncio.ensure_future(put(kept_record, n)) for n in range(300)]
    await asyncio.sleep(0)  # each has put its call into the queue
    loop, wakes = asyncio.get_running_loop(), 0
    original = loop.call_soon_threadsafe

    def count(callback: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        nonlocal wakes
        wakes += 1
        return original(callback, *args, **kwargs)

    monkeypatch.setattr(loop, "call_soon_threadsafe", count)
    held.go.set()
    assert await asyncio.gather(*tasks) == [1] * 300
    assert kept_record.writer.commits - before == 2, "the held call's own, and one for all"
    assert wakes == 1


async def test_a_statement_that_fails_is_its_own_calls_alone(kept_record: SqlRecord) -> None:
    """Also where it spoils the transaction, and comes to be known only when something else is asked."""

    def broken(tx: Transaction) -> None:
        tx.tell("INSERT INTO flags (name, value) VALUES (?, ?)", "a", None)

    def half(tx: Transaction) -> int:
        tx.tell("INSERT INTO flags (name, value) VALUES (?, ?)", "before", "1")
        try:
            with tx.savepoint():
                tx.tell("INSERT INTO flags (name, value) VALUES (?, ?)", "inside", "1")
                tx.tell("INSERT INTO flags (name, value) VALUES (?, ?)", "before", "again")
                tx.one("SELECT 1")
        except Exception as error:
            if tx.dialect.trouble(error) is not Trouble.DATA:
                raise
        return tx.run("INSERT INTO flags (name, value) VALUES (?, ?)", "after", "1")

    for _ in range(2):
        held = Held(kept_record)
        tasks = [asyncio.ensure_future(put(kept_record, 1))]
        await asyncio.sleep(0)
        failing, halved = kept_record.call(broken), kept_record.call(half)
        tasks.append(asyncio.ensure_future(put(kept_record, 2)))
        await asyncio.sleep(0)
        held.go.set()
        await asyncio.gather(*tasks)
        assert isinstance(failing.exception(5), RecordError)
        assert halved.result(5) == 1
        assert await kept_record.flags() == {"before": "1", "after": "1"}
        await kept_record._write(lambda tx: tx.tell("DELETE FROM flags"))


async def test_one_failing_call_never_fails_its_neighbours(kept_record: SqlRecord) -> None:
    def half(tx: Transaction) -> None:
        with tx.savepoint():
            kept.put_state(tx, "n", "half", b"1", now_ms=NOW, ttl_ms=0)
            raise ValueError("half-way")

    held = Held(kept_record)
    tasks = [asyncio.ensure_future(put(kept_record, 1)), asyncio.ensure_future(kept_record.command("none", "cancel", b"", NOW))]
    await asyncio.sleep(0)
    failing = kept_record.call(half)
    tasks.append(asyncio.ensure_future(put(kept_record, 2)))
    await asyncio.sleep(0)
    held.go.set()
    one, missing, two = await asyncio.gather(*tasks, return_exceptions=True)
    assert (one, two) == (1, 1)
    assert isinstance(missing, NotFoundError)
    error = failing.exception(5)
    assert isinstance(error, RecordError)
    assert isinstance(error.__cause__, ValueError)
    assert await kept_record.get_state("n", "half", NOW) is None


async def test_runs_that_wait_are_accepted_as_one(kept_record: SqlRecord) -> None:
    def new(id: str, **fields: Any) -> NewRun:
        return NewRun(id=id, engine="e1", workflow="w", definition=b"{}", digest="d", accepted_ms=NOW, **fields)

    held = Held(kept_record)
    before = kept_record.writer.calls
    tasks = [asyncio.ensure_future(kept_record.accept([new(f"r{n}"), new("same")])) for n in range(100)]
    tasks.append(asyncio.ensure_future(kept_record.accept([new("a\0b"), new("last", priority=2**70)])))
    await asyncio.sleep(0)
    tasks[0].cancel()
    held.go.set()
    cancelled, *answers, refused = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(cancelled, asyncio.CancelledError)
    assert answers == [[(f"r{n}", True), ("same", False)] for n in range(1, 100)]
    assert not isinstance(refused, BaseException)
    assert [type(answer) for answer in refused] == [RefusedError, RefusedError]
    assert kept_record.writer.calls - before == 2, "the held call's own, and one for all"
    assert await kept_record.unfinished("e1") == 101


async def test_the_blocking_door(record: SqlRecord) -> None:
    def work() -> int:
        return record.call(kept.put_state, "n", "k", b"1", now_ms=NOW, ttl_ms=0).result(5)

    assert await asyncio.to_thread(work) == 1
    assert await record.get_state("n", "k", NOW) is not None


async def test_a_cancelled_caller_harms_nobody(kept_record: SqlRecord) -> None:
    held = Held(kept_record)
    given_up, kept_on = asyncio.ensure_future(put(kept_record, 1)), asyncio.ensure_future(put(kept_record, 2))
    await asyncio.sleep(0)
    given_up.cancel()
    held.go.set()
    assert await kept_on == 1
    assert given_up.cancelled() or await asyncio.wait([given_up])
    assert await kept_record.get_state("n", "k1", NOW) is not None, "what was asked for is done all the same"


async def test_close_finishes_what_is_queued(tmp_path: Path) -> None:
    record = SqlRecord(tmp_path / "skep.db")
    await record.open()
    held = Held(record)
    futures = [record.call(kept.put_state, "n", f"k{n}", b"1", now_ms=NOW, ttl_ms=0) for n in range(50)]
    closing = asyncio.ensure_future(record.close())
    await asyncio.sleep(0)
    held.go.set()
    await closing
    assert [future.result(0) for future in futures] == [1] * 50
    await record.close()
    with pytest.raises(RecordError, match="not open"):
        await put(record, 1)
    with pytest.raises(RecordError, match="not open"):
        await record.run("r1")


async def test_open_twice_and_again_after_close(tmp_path: Path) -> None:
    record = SqlRecord(tmp_path / "skep.db")
    for _ in range(2):
        await record.open()
        await record.open()
        await put(record, 1)
        await record.close()


async def test_inline_never_suspends() -> None:
    record = SqlRecord(inline=True)
    threads = threading.active_count()
    for step in (record.open(), put(record, 1), record.put_artifact("r", b"x", NOW), record.stats(), record.close()):
        with pytest.raises(StopIteration):
            step.send(None)
    assert threading.active_count() == threads


async def test_a_full_disk_fails_its_calls_and_the_writer_goes_on(file: SqlRecord) -> None:
    await file.open_engine(EngineRow("e1", 1, 0, "p", False), after_epoch=0)
    small = asyncio.wrap_future(file.call(lambda tx: tx.one("PRAGMA max_page_count=1")))  # not below its size
    (pages,) = await small or (0,)
    large = Event(n=2, at_ms=2, kind="succeeded", run="r1", task=0, output=b"x" * 1_000_000)
    events = [Event(n=1, at_ms=1, kind="loaded", run="r1"), large]
    held = Held(file)
    failing = [asyncio.ensure_future(call) for call in (put(file, 1), file.transcribe("e1", 1, 0, events))]
    await asyncio.sleep(0)
    held.go.set()
    for error in await asyncio.gather(*failing, return_exceptions=True):
        assert isinstance(error, RecordError)
        assert "the disk is full. Free some space" in str(error)
    await asyncio.wrap_future(file.call(lambda tx: tx.one(f"PRAGMA max_page_count={pages + 10_000}")))
    assert await file.get_state("n", "k1", NOW) is None, "nothing of the transaction was kept"
    await file.transcribe("e1", 1, 0, events)
    assert await file.outputs("r1", [0]) == {0: large.output}
    assert (await file.stats())["rejected_events"] == 0


def test_a_lock_that_stays_is_an_error_after_bounded_tries(tmp_path: Path) -> None:
    path = tmp_path / "skep.db"
    writer = Writer(Sqlite(path, busy_ms=1))
    writer.open()
    writer.call(migrations.ensure).result(5)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    call = lambda tx: kept.put_state(tx, "n", "k", b"1", now_ms=NOW, ttl_ms=0)  # noqa: E731
    with pytest.raises(RecordError, match="another process keeps it locked"):
        writer.call(call).result(5)
    other.execute("COMMIT")
    other.close()
    assert writer.call(call).result(5) == 1
    writer.close()


def test_a_lock_that_goes_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "skep.db"
    writer = Writer(Sqlite(path, busy_ms=2_000))
    writer.open()
    writer.call(migrations.ensure).result(5)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    future = writer.call(lambda tx: kept.put_state(tx, "n", "k", b"1", now_ms=NOW, ttl_ms=0))
    assert not future.done()
    other.execute("COMMIT")
    assert future.result(5) == 1
    other.close()
    writer.close()
