"""PostgreSQL goes away and comes back: nothing is lost, nothing done twice, and nobody is left with a broken connection."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import psycopg
import pytest

from skep.errors import RecordError, RecordUnavailableError
from skep.model.event import Event
from skep.record import connection, pipeline
from skep.record.connection import PATIENCE_S
from skep.record.dialect import Transaction
from skep.record.postgres import Postgres
from skep.record.protocol import Accepted, EngineRow, NewRun, RunFilter
from skep.record.sql import SqlRecord
from skep.testing.servers import PostgresServer

EPOCH = 1_750_000_000
NOW = 1_750_000_000_000
New = Callable[..., NewRun]


@pytest.fixture(scope="module")
def lasting() -> Iterator[PostgresServer]:
    """One whose data outlives `kill -9`: of the process, not of the machine, so nothing needs to be synced."""
    with PostgresServer(fsync="off") as server:
        yield server


@pytest.fixture
async def record(lasting: PostgresServer) -> AsyncIterator[SqlRecord]:
    if not lasting.running:
        lasting.start()
    name = f"outage_{time.monotonic_ns()}"
    with psycopg.connect(lasting.url, autocommit=True) as direct:
        direct.execute(f"CREATE SCHEMA {name}")
    made = SqlRecord(f"{lasting.url}?options=-csearch_path%3D{name}")
    await made.open()
    await made.open_engine(EngineRow("e1", EPOCH, 0, "p1", False), after_epoch=0)
    yield made
    await made.close()


def hang_up(connection: psycopg.Connection[Any]) -> None:
    """As a broken line does: neither side says anything more."""
    with socket.socket(fileno=os.dup(connection.pgconn.socket)) as line:
        line.shutdown(socket.SHUT_RDWR)


def put(record: SqlRecord, n: int) -> Any:
    return record.put_state("n", f"k{n}", b"1", now_ms=NOW, ttl_ms=0)


async def test_a_short_restart_goes_unnoticed(record: SqlRecord, lasting: PostgresServer, new_run: New) -> None:
    await record.accept([new_run()])
    assert await record.own("e1")
    lasting.kill()
    calls = [asyncio.ensure_future(put(record, 1)), asyncio.ensure_future(record.run("r1"))]
    await asyncio.to_thread(lasting.start)
    assert await calls[0] == 1
    assert (await calls[1]).id == "r1"
    assert await record.own("e1"), "taken anew"


async def test_while_it_is_gone_calls_fail_soon_and_afterwards_all_goes_on(
    record: SqlRecord, lasting: PostgresServer, new_run: New
) -> None:
    await record.accept([new_run()])
    events = [Event(n=1, at_ms=NOW, kind="loaded", run="r1", count=1)]
    lasting.stop()
    began = time.monotonic()
    calls = [record.accept([new_run("r2")]), record.run("r1"), record.transcribe("e1", EPOCH, 0, events), record.own("e1")]
    for error in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(error, RecordUnavailableError)
        assert "does not answer" in str(error)
    assert time.monotonic() - began < PATIENCE_S * 2 + 1
    await asyncio.to_thread(lasting.start)
    await record.transcribe("e1", EPOCH, 0, events)
    assert await record.accept([new_run("r2")]) == [("r2", True)]
    assert len((await record.list_runs(RunFilter())).runs) == 2


async def test_a_record_is_not_opened_while_it_is_gone(record: SqlRecord, lasting: PostgresServer) -> None:
    lasting.stop()
    with pytest.raises(RecordUnavailableError, match=re.escape(f"record postgresql://skep@127.0.0.1:{lasting.port}/skep")):
        await SqlRecord(lasting.url).open()
    await asyncio.to_thread(lasting.start)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_commit_whose_answer_is_lost_is_looked_for(
    record: SqlRecord, new_run: New, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection breaks with the COMMIT: before it reached the server, or after it was done there."""
    commit = pipeline.PostgresTransaction._leave
    broken: list[str] = []

    def leave(tx: pipeline.PostgresTransaction) -> None:
        if broken or tx._connection is None:
            return commit(tx)
        broken.append(when)
        if when == "after":
            commit(tx)
        hang_up(tx._connection)
        if when == "after":
            raise psycopg.OperationalError("the connection was lost")
        return commit(tx)

    monkeypatch.setattr(pipeline.PostgresTransaction, "_leave", leave)
    assert await record.accept([new_run()]) == [("r1", True)], "once, and told as it is"
    assert broken
    made = await record.command("r1", "pause", b"", NOW)
    assert made.number == 1
    broken.clear()
    assert (await record.command("r1", "resume", b"", NOW)).number == 2
    broken.clear()
    assert await record.open_engine(EngineRow("e1", EPOCH + 1, 0, "p2", False), after_epoch=EPOCH)


async def test_a_commit_of_which_nothing_can_be_known_is_told_so(
    record: SqlRecord, lasting: PostgresServer, new_run: New, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "PATIENCE_S", 0.2)
    commit = pipeline.PostgresTransaction._leave

    def leave(tx: pipeline.PostgresTransaction) -> None:
        lasting.kill()
        assert tx._connection is not None
        hang_up(tx._connection)
        commit(tx)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline.PostgresTransaction, "_leave", leave)
        with pytest.raises(RecordUnavailableError, match="may be recorded or not"):
            await record.accept([new_run()])
    await asyncio.to_thread(lasting.start)
    (answer,) = await record.accept([new_run()])
    assert answer == ("r1", True) or answer == ("r1", False)


async def test_work_goes_on_through_restarts_without_loss(record: SqlRecord, lasting: PostgresServer, new_run: New) -> None:
    """Writers that repeat what was not acknowledged: each value is counted once."""
    done: list[int] = []
    stop = asyncio.Event()

    async def work(n: int) -> None:
        count = 0
        while not stop.is_set():
            id = f"r{n}-{count}"
            try:
                (answer,) = await record.accept([new_run(id)])
            except RecordUnavailableError:
                continue
            assert isinstance(answer, Accepted)
            assert answer.id == id
            count += 1
        done.append(count)

    workers = [asyncio.ensure_future(work(n)) for n in range(4)]
    for _ in range(3):
        await asyncio.sleep(0.2)
        await asyncio.to_thread(lasting.kill)
        await asyncio.to_thread(lasting.start)
    stop.set()
    await asyncio.gather(*workers)
    assert min(done) > 0
    assert await record.unfinished("e1") == sum(done)


async def test_a_server_that_stands_still_is_held_for_gone(record: SqlRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "PATIENCE_S", 0.1)

    def freeze(tx: Transaction) -> None:
        tx._connection.limit_s = 0.3  # type: ignore[attr-defined]
        tx.one("SELECT pg_sleep(30)")

    began = time.monotonic()
    with pytest.raises(RecordUnavailableError, match="no answer"):
        await record._write(freeze)
    assert time.monotonic() - began < 5
    assert await put(record, 1) == 1


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("postgresql://skep:hunter2@127.0.0.1:1/skep", "does not answer"),
        ("postgresql://skep:hunter2@127.0.0.1:x/skep", "cannot be read|does not answer"),
        ("postgresql://skep@127.0.0.1:1/skep?password=hunter2&nonsense=hunter2", "cannot be read"),
        ("mysql://skep:hunter2@127.0.0.1/skep", "expected postgresql://"),
    ],
)
async def test_a_password_is_never_told(url: str, word: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(RecordError, match=word) as caught:
        await SqlRecord(url).open()
    error: BaseException | None = caught.value
    while error is not None:
        assert "hunter2" not in str(error)
        error = error.__cause__ or error.__context__
    assert "hunter2" not in caplog.text


def test_what_is_wrong_with_a_database_is_said(lasting: PostgresServer) -> None:
    if not lasting.running:
        lasting.start()
    with psycopg.connect(lasting.url, autocommit=True) as direct:
        direct.execute("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0")
    base = lasting.url.removesuffix("/skep")
    for name, word in (("latin", "encoding LATIN1"), ("none", "no such database")):
        with pytest.raises((RecordError, psycopg.Error)) as caught:
            Postgres(f"{base}/{name}").dial()
        told = caught.value if isinstance(caught.value, RecordError) else Postgres(base).explain(caught.value)
        assert word in str(told)
