"""Two records on one PostgreSQL database, as two servers have them: what both do at the same time is done once, and right."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import msgspec
import pytest
from msgspec.structs import replace

from skep.errors import (
    ConflictError,
    DataInUseError,
    NotFoundError,
    RecordError,
    RefusedError,
    StaleEpochError,
    WrongStateError,
)
from skep.model.event import Event
from skep.model.node import LogChunk
from skep.model.run import Token
from skep.model.wait import Verdict, Wait
from skep.record import prune, schema
from skep.record.dialect import Transaction
from skep.record.protocol import Accepted, EngineRow, Fence, NewRun, Signal
from skep.record.sql import SqlRecord

EPOCH = 1_750_000_000
NOW = 1_750_000_000_000
ROUNDS = 20
New = Callable[..., NewRun]
Two = tuple[SqlRecord, SqlRecord]


@pytest.fixture
async def two(postgres: str) -> AsyncIterator[Two]:
    one, other = SqlRecord(postgres), SqlRecord(postgres)
    await asyncio.gather(one.open(), other.open())
    await one.open_engine(EngineRow("e1", EPOCH, 0, "p1", False), after_epoch=0)
    yield one, other
    await one.close()
    await other.close()


async def test_several_create_the_tables_at_once(postgres: str) -> None:
    records = [SqlRecord(postgres) for _ in range(4)]
    await asyncio.gather(*(record.open() for record in records))
    assert await records[3]._write(lambda tx: tx.all("SELECT version FROM record_version")) == [(schema.VERSION,)]
    for record in records:
        await record.close()


async def test_one_key_on_two_servers_makes_one_run(two: Two, new_run: New) -> None:
    for n in range(ROUNDS):
        ids = [f"a{n}", f"b{n}"]
        answers = await asyncio.gather(
            *(record.accept([new_run(id, idempotency_key=f"k{n}")]) for record, id in zip(two, ids, strict=True))
        )
        first, second = (answer for (answer,) in answers)
        assert isinstance(first, Accepted)
        assert isinstance(second, Accepted)
        assert first.id == second.id
        assert {first.new, second.new} == {True, False}
    assert await two[0].unfinished("e1") == ROUNDS


async def test_one_key_with_two_bodies_is_refused_to_one(two: Two, new_run: New) -> None:
    for n in range(ROUNDS):
        calls = (record.accept([new_run(f"{n}-{x}", idempotency_key=f"k{n}", priority=x)]) for x, record in enumerate(two))
        answers = [answer for (answer,) in await asyncio.gather(*calls)]
        assert sum(isinstance(answer, RefusedError) for answer in answers) == 1
    assert await two[0].unfinished("e1") == ROUNDS


async def test_one_id_on_two_servers_makes_one_run(two: Two, new_run: New) -> None:
    batch = [new_run(f"r{n:03}") for n in range(200)]
    answers = await asyncio.gather(two[0].accept(batch), two[1].accept(batch[::-1]))
    assert all(isinstance(answer, Accepted) for side in answers for answer in side)
    assert sum(answer.new for side in answers for answer in side if isinstance(answer, Accepted)) == 200
    assert await two[0].unfinished("e1") == 200


async def test_commands_are_numbered_without_a_gap(two: Two, new_run: New) -> None:
    await two[0].accept([new_run()])
    made = await asyncio.gather(*(two[n % 2].command("r1", "pause", b"", NOW) for n in range(60)))
    assert sorted(command.number for command in made) == list(range(1, 61))
    late = await asyncio.gather(*(record.command("r1", "retry", b"", NOW, 60) for record in two), return_exceptions=True)
    assert sorted(type(answer).__name__ for answer in late) == ["Command", "WrongStateError"]


async def test_the_first_decision_wins(two: Two, new_run: New) -> None:
    await two[0].accept([new_run()])
    wait = Wait(kind="approval").encode()
    told = [Event(n=n + 1, at_ms=NOW, kind="parked", run="r1", task=n, attempt=1, data=wait) for n in range(ROUNDS)]
    await two[0].transcribe("e1", EPOCH, 0, told)
    for n in range(ROUNDS):
        verdicts = [
            msgspec.json.encode(Verdict(id=f"{n}-{x}", task=n, attempt=1, approve=bool(x), by=str(x))) for x in range(2)
        ]
        calls = (record.decide("r1", n, 1, verdict, NOW) for record, verdict in zip(two, verdicts, strict=True))
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert sorted(type(answer).__name__ for answer in answers) == ["Command", "WrongStateError"]
    same = msgspec.json.encode(Verdict(id="again", task=0, attempt=2, approve=True, by="x"))
    await two[0].transcribe("e1", EPOCH, ROUNDS, [replace_n(told[0], ROUNDS + 1, attempt=2)])
    first, second = await asyncio.gather(*(record.decide("r1", 0, 2, same, NOW) for record in two))
    assert first == second, "the same said twice is said once"


def replace_n(event: Event, n: int, **fields: int) -> Event:
    return replace(event, n=n, **fields)


async def test_a_decision_on_a_wait_that_goes_is_refused_or_kept(two: Two, new_run: New) -> None:
    """Never stored and forgotten."""
    await two[0].accept([new_run()])
    wait = Wait(kind="approval").encode()
    n = kept = 0
    for task in range(ROUNDS):
        parked = Event(n=n + 1, at_ms=NOW, kind="parked", run="r1", task=task, attempt=1, data=wait)
        await two[0].transcribe("e1", EPOCH, n, [parked])
        over = Event(n=n + 2, at_ms=NOW, kind="failed", run="r1", task=task, reason="timeout")
        verdict = msgspec.json.encode(Verdict(id=f"v{task}", task=task, attempt=1, approve=True, by="me"))
        answers = await asyncio.gather(
            two[0].transcribe("e1", EPOCH, n + 1, [over]), two[1].decide("r1", task, 1, verdict, NOW), return_exceptions=True
        )
        n += 2
        assert answers[0] is None
        stored = await two[0]._write(lambda tx: tx.one("SELECT COUNT(*) FROM commands WHERE verb = 'decide'"))
        kept += not isinstance(answers[1], WrongStateError)
        assert stored == (kept,)


async def test_an_event_is_sent_once(two: Two) -> None:
    for n in range(ROUNDS):
        signal = Signal(id=f"s{n}", namespace="n", name="e", key="", data=b"", at_ms=NOW)
        assert sorted(await asyncio.gather(*(record.send(signal) for record in two))) == [False, True]


async def test_a_schedule_is_moved_once(two: Two) -> None:
    row = await two[0].put_schedule("n", "s", b"{}", NOW, NOW)
    for n in range(ROUNDS):
        moved = await asyncio.gather(*(record.move_schedule(row, fired_ms=NOW + n + 1) for record in two))
        assert sorted(moved) == [False, True]
        row = await two[1].schedule("n", "s")


async def test_versions_of_a_definition_follow_one_another(two: Two) -> None:
    made = await asyncio.gather(*(two[n % 2].put_definition("n", "w", f"d{n}", b"{}", "", NOW) for n in range(30)))
    assert sorted(definition.version for definition in made) == list(range(1, 31))
    await two[0].remove_definition("n", "w")
    same = await asyncio.gather(*(record.put_definition("n", "w", "d", b"{}", "", NOW) for record in two))
    assert {definition.version for definition in same} == {1}


async def test_an_engine_is_opened_by_one(two: Two) -> None:
    for epoch in range(EPOCH, EPOCH + ROUNDS):
        row = EngineRow("e1", epoch + 1, 0, "p", False)
        assert sorted(await asyncio.gather(*(r.open_engine(row, after_epoch=epoch) for r in two))) == [False, True]
    first = EngineRow("e2", 1, 0, "p", False)
    assert sorted(await asyncio.gather(*(r.open_engine(first, after_epoch=0) for r in two))) == [False, True]


async def test_of_two_transcribers_one_is_told_to_read_again(two: Two, new_run: New) -> None:
    await two[0].accept([new_run()])
    for n in range(ROUNDS):
        events = [Event(n=n + 1, at_ms=NOW, kind="loaded", run="r1", count=1)]
        answers = await asyncio.gather(*(record.transcribe("e1", EPOCH, n, events) for record in two), return_exceptions=True)
        assert [type(answer) for answer in answers if answer is not None] == [StaleEpochError]
    assert [event.n for _, event in await two[0].events("r1", Token(0, 0), 100)] == list(range(1, ROUNDS + 1))


async def test_shared_state_is_counted_without_a_loss(two: Two) -> None:
    async def count(record: SqlRecord) -> int:
        done = 0
        while done < ROUNDS:
            now = await record.get_state("n", "k", NOW)
            value, version = (int(now.value), now.version) if now else (0, 0)
            try:
                await record.put_state("n", "k", str(value + 1).encode(), now_ms=NOW, ttl_ms=0, expect=version)
            except ConflictError:
                continue
            done += 1
        return done

    await asyncio.gather(*(count(record) for record in two))
    found = await two[0].get_state("n", "k", NOW)
    assert found is not None
    assert (int(found.value), found.version) == (2 * ROUNDS, 2 * ROUNDS)
    versions = await asyncio.gather(*(two[n % 2].put_state("n", "j", b"", now_ms=NOW, ttl_ms=0) for n in range(40)))
    assert sorted(versions) == list(range(1, 41)), "no two writers were told the same version"


async def test_a_checkpoint_of_an_older_lease_never_stands_last(two: Two) -> None:
    for n in range(ROUNDS):
        calls = (r.save_checkpoint(Fence("r1", n, Token(1, x)), str(x).encode(), NOW) for x, r in enumerate(two, 1))
        await asyncio.gather(*calls, return_exceptions=True)
        assert await two[0].load_checkpoint(Fence("r1", n, Token(1, 3))) == b"2"


async def test_logs_that_come_through_two_servers_are_all_read_on(two: Two) -> None:
    seen: list[int] = []

    async def write(record: SqlRecord, task: int) -> None:
        for offset in range(60):
            await record.append_logs([LogChunk("r1", task, 1, "out", offset, NOW, b"x")])

    async def follow() -> None:
        after = 0
        while len(seen) < 120:
            for position, _ in await two[0].log_stream("r1", after=after):
                seen.append(position)
                after = position

    await asyncio.wait_for(asyncio.gather(follow(), *(write(record, task) for task, record in enumerate(two))), 30)
    assert len(set(seen)) == 120


async def test_a_definition_stays_for_the_run_that_comes_meanwhile(two: Two, new_run: New) -> None:
    for n in range(ROUNDS):
        await two[0].accept([new_run(f"old{n}")])
        await two[0]._write(lambda tx: tx.run("UPDATE runs SET state = 3, finished_ms = 5"))
        await asyncio.gather(two[0].prune(ended_before_ms=NOW, now_ms=NOW, limit=100), two[1].accept([new_run(f"new{n}")]))
        assert await two[0].definition("d1") == b'{"name":"w"}'


async def test_a_run_that_is_retried_meanwhile_stays(two: Two, new_run: New) -> None:
    for n in range(ROUNDS):
        id = f"r{n}"
        await two[0].accept([new_run(id)])
        await two[0]._write(lambda tx: tx.run("UPDATE runs SET state = 4, finished_ms = 5"))
        _, answer = await asyncio.gather(
            two[0].prune(ended_before_ms=NOW, now_ms=NOW, limit=100),
            two[1].command(id, "retry", b"", NOW),
            return_exceptions=True,
        )
        assert await two[0].unfinished("e1") == (not isinstance(answer, NotFoundError))


async def test_a_value_that_is_put_anew_does_not_expire(two: Two) -> None:
    for n in range(ROUNDS):
        await two[0].put_state("n", f"k{n}", b"old", now_ms=1, ttl_ms=1)
        await asyncio.gather(
            two[0].prune(ended_before_ms=0, now_ms=NOW, limit=1),
            two[1].put_state("n", f"k{n}", b"new", now_ms=NOW, ttl_ms=1_000),
        )
        found = await two[0].get_state("n", f"k{n}", NOW)
        assert found is not None
        assert found.value == b"new"


async def test_an_artifact_stays_for_the_run_that_comes_meanwhile(two: Two) -> None:
    later = NOW + 2 * prune.DAY_MS
    for n in range(ROUNDS):
        await two[0].put_artifact(f"old{n}", b"data", NOW)
        await two[0]._write(lambda tx: (tx.run("DELETE FROM artifact_runs"), tx.run("UPDATE artifacts SET touched_ms = 1")))
        _, id = await asyncio.gather(
            two[0].prune(ended_before_ms=0, now_ms=later, limit=1), two[1].put_artifact(f"new{n}", b"data", later)
        )
        assert await two[0].get_artifact(id) == b"data"


async def test_a_deadlock_is_tried_again(two: Two) -> None:
    """Two transactions that want the same two rows in opposite order; the server ends one of them."""
    await two[0].set_flag("a", "0")
    await two[0].set_flag("b", "0")
    met = asyncio.Barrier(2)
    loop = asyncio.get_running_loop()
    tries: list[str] = []

    def want(order: str) -> Callable[..., None]:
        def call(tx: Transaction) -> None:
            tries.append(order)
            for name in order:
                assert tx.run("UPDATE flags SET value = value || ? WHERE name = ?", order[0], name) == 1
                if name == order[0] and len(tries) <= 2:
                    asyncio.run_coroutine_threadsafe(met.wait(), loop).result(10)

        return call

    await asyncio.gather(two[0]._write(want("ab")), two[1]._write(want("ba")))
    assert len(tries) in (3, 4)
    assert {name: sorted(value) for name, value in (await two[0].flags()).items()} == {"a": list("0ab"), "b": list("0ab")}


async def test_an_engine_has_one_owner(two: Two, postgres: str) -> None:
    assert await two[0].own("e1")
    assert await two[0].own("e1"), "it has it already"
    with pytest.raises(DataInUseError, match="e1"):
        await two[1].own("e1")
    assert await two[1].own("e2")
    await two[0].close()
    for _ in range(200):  # the server notices a moment later
        try:
            assert await two[1].own("e1")
            break
        except DataInUseError:
            await asyncio.sleep(0.01)
    else:
        raise AssertionError("it was never free")
    await two[0].open()
    with pytest.raises(DataInUseError):
        await two[0].own("e1")


async def test_a_newer_schema_is_refused_with_both_named(two: Two, postgres: str) -> None:
    await two[0]._write(lambda tx: tx.run("UPDATE record_version SET version = version + 1"))
    third = SqlRecord(postgres)
    with pytest.raises(RecordError, match=f"version {schema.VERSION + 1}, newer than version {schema.VERSION}"):
        await third.open()
