"""Engines, accepted runs, commands, retention."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from skep.errors import NotFoundError, RefusedError, WrongStateError
from skep.model.state import RunState, TaskState
from skep.record.protocol import EngineRow, NewRun
from skep.record.sql import SqlRecord

EPOCH = 1_750_000_000
NOW = 1_750_000_000_000
New = Callable[..., NewRun]


async def test_an_engine_is_opened_by_compare_and_set(record: SqlRecord) -> None:
    first = EngineRow("e1", 5, 0, "p1", False)
    assert await record.engine("e1") is None
    assert await record.open_engine(first, after_epoch=0)
    assert not await record.open_engine(first, after_epoch=0)
    assert not await record.open_engine(EngineRow("e1", 9, 0, "p2", False), after_epoch=4)
    assert await record.open_engine(EngineRow("e1", 9, 0, "p2", True), after_epoch=5)
    assert await record.engine("e1") == EngineRow("e1", 9, 0, "p2", True)
    assert await record.embedded_engines() == ["e1"]


async def test_a_run_is_read_as_it_was_accepted(ready_record: SqlRecord, new_run: New) -> None:
    run = new_run("r2", inputs=b'{"x":1}', labels={"team": "å"}, priority=8, namespace="n", timeout_ms=9)
    assert await ready_record.accept([run]) == [("r2", True)]
    row = await ready_record.run("r2")
    assert (row.inputs, row.labels, row.priority, row.namespace, row.timeout_ms) == (b'{"x":1}', {"team": "å"}, 8, "n", 9)
    assert (row.state, row.loaded, row.command, row.started_ms, row.paused) == (RunState.QUEUED, 0, 0, None, False)
    assert await ready_record.definition(row.digest) == run.definition
    with pytest.raises(NotFoundError):
        await ready_record.run("r3")
    with pytest.raises(NotFoundError):
        await ready_record.definition("d9")


async def test_accepting_again_and_idempotency_keys(ready_record: SqlRecord, new_run: New) -> None:
    answers = await ready_record.accept(
        [
            new_run("r1"),
            new_run("r1", digest="d2"),
            new_run("r2", idempotency_key="k"),
            new_run("r3", idempotency_key="k", accepted_ms=NOW + 5),
            new_run("r4", idempotency_key="k", inputs=b"[]"),
            new_run("r5", idempotency_key="k", namespace="other"),
        ]
    )
    assert [type(answer) if isinstance(answer, Exception) else answer for answer in answers] == [
        *(("r1", False), RefusedError, ("r2", True), ("r2", False), RefusedError, ("r5", True))
    ]


async def test_while_a_run_with_a_unique_key_goes_on_it_is_the_answer(ready_record: SqlRecord, new_run: New) -> None:
    def unique(id: str, **fields: Any) -> NewRun:
        return new_run(id, unique="k", **fields)

    answers = await ready_record.accept(
        [
            unique("r2"),
            unique("r3", digest="d9", inputs=b"[]"),
            unique("r4", namespace="other"),
            unique("r2"),
            new_run("r5", unique="l"),
            unique("r6", engine="e2"),
        ]
    )
    assert answers[:5] == [("r2", True), ("r2", False), ("r4", True), ("r2", False), ("r5", True)]
    assert "run r2 has the unique key 'k' and goes on elsewhere" in str(answers[5])
    with pytest.raises(NotFoundError):
        await ready_record.run("r3")


async def test_a_unique_key_is_free_when_its_run_has_ended(ready_record: SqlRecord, new_run: New) -> None:
    first = EngineRow("solo", EPOCH, 0, "p", True)
    assert await ready_record.open_engine(first, after_epoch=0)
    assert await ready_record.accept([new_run("r2", unique="k", engine="solo")]) == [("r2", True)]
    await ready_record.abandon("solo", NOW + 1)
    assert await ready_record.accept([new_run("r3", unique="k")]) == [("r3", True)]
    assert await ready_record.accept([new_run("r2", unique="k", engine="solo")]) == [("r2", False)], "it is known by its id"
    with pytest.raises(WrongStateError, match=r"unique key 'k', with which run r3 goes on"):
        await ready_record.command("r2", "retry", b"{}", NOW + 2)
    assert (await ready_record.run("r2")).state == RunState.FAILED


async def test_of_many_who_submit_at_once_one_is_first(record: SqlRecord, new_run: New) -> None:
    answers = await asyncio.gather(*(record.accept([new_run(f"r{n}", unique="k")]) for n in range(40)))
    found = [answer for (answer,) in answers if not isinstance(answer, Exception)]
    assert len(found) == 40
    assert len({answer.id for answer in found}) == 1
    assert sum(answer.new for answer in found) == 1


@pytest.mark.parametrize(
    "bad", [{"workflow": "\ud800"}, {"priority": 2**70}, {"namespace": "a\0b"}, {"unique": "a\0b"}, {"inputs": "text"}]
)
async def test_a_run_that_cannot_be_stored_is_refused_alone(ready_record: SqlRecord, new_run: New, bad: dict[str, Any]) -> None:
    refused, accepted = await ready_record.accept([new_run("bad", **bad), new_run("good")])
    assert isinstance(refused, RefusedError)
    assert accepted == ("good", True)
    with pytest.raises(NotFoundError):
        await ready_record.run("bad")


async def test_unloaded_runs_come_by_priority_then_age(ready_record: SqlRecord, new_run: New) -> None:
    await ready_record.accept(
        [
            new_run("low", priority=3, accepted_ms=NOW - 9),
            new_run("high", priority=8, accepted_ms=NOW + 9),
            new_run("old", accepted_ms=NOW - 5),
            new_run("elsewhere", engine="e2"),
        ]
    )
    assert [run.id for run in await ready_record.unloaded("e1", EPOCH, 10, NOW)] == ["high", "old", "r1", "low"]
    assert [run.id for run in await ready_record.unloaded("e1", EPOCH, 2, NOW)] == ["high", "old"]
    assert await ready_record.unfinished("e1") == 4


async def test_commands_are_numbered_per_run(ready_record: SqlRecord, new_run: New) -> None:
    await ready_record.accept([new_run("r2")])
    first = await ready_record.command("r1", "pause", b"", NOW)
    second = await ready_record.command("r1", "resume", b"{}", NOW + 1)
    other = await ready_record.command("r2", "cancel", b"", NOW)
    assert (first.number, second.number, other.number) == (1, 2, 1)
    assert await ready_record.commands("e1", {}) == [first, second, other]
    assert await ready_record.commands("e1", {"r1": 1, "r2": 1}) == [second]
    assert (await ready_record.run("r1")).command == 2
    with pytest.raises(NotFoundError):
        await ready_record.command("r9", "cancel", b"", NOW)


async def test_a_retry_of_an_ended_run_makes_it_unloaded_again(ready_record: SqlRecord, story: Any) -> None:
    story.tell("loaded", count=1)
    story.tell("ended", state=int(RunState.FAILED), reason="x")
    await ready_record.transcribe("e1", EPOCH, *story.take())
    assert await ready_record.unloaded("e1", EPOCH, 10, NOW) == []
    command = await ready_record.command("r1", "retry", b"", NOW)
    assert [run.id for run in await ready_record.unloaded("e1", EPOCH, 10, NOW)] == ["r1"]
    assert await ready_record.commands("e1", {}) == [command]
    story.tell("reset", tasks=(0,))
    await ready_record.transcribe("e1", EPOCH, *story.take())
    row = await ready_record.run("r1")
    assert (row.state, row.loaded, row.reason, row.finished_ms) == (RunState.RUNNING, EPOCH, "", None)


async def test_a_command_after_one_that_its_sender_did_not_know_is_not_stored(ready_record: SqlRecord) -> None:
    first = await ready_record.command("r1", "pause", b"", NOW, 0)
    with pytest.raises(WrongStateError, match="run r1 was told something else a moment ago"):
        await ready_record.command("r1", "cancel", b"", NOW, 0)
    assert await ready_record.commands("e1", {}) == [first]
    assert (await ready_record.run("r1")).command == 1


async def test_a_retry_leaves_behind_what_was_told_before_the_end(ready_record: SqlRecord, story: Any) -> None:
    """Or a retry that came too late the last time would be done now, with its tasks instead of these."""
    await ready_record.command("r1", "retry", b'{"tasks":[0]}', NOW)
    story.tell("loaded", count=2)
    story.tell("ended", state=int(RunState.FAILED), reason="x")
    await ready_record.transcribe("e1", EPOCH, *story.take())
    command = await ready_record.command("r1", "retry", b'{"tasks":[1]}', NOW)
    assert await ready_record.commands("e1", {}) == [command]
    assert (await ready_record.run("r1")).applied == 1


async def test_an_abandoned_engine_ends_its_runs(record: SqlRecord, new_run: New, story: Any) -> None:
    await record.open_engine(EngineRow("e1", EPOCH, 0, "p", True), after_epoch=0)
    await record.accept([new_run("r1"), new_run("r2"), new_run("r3", engine="e2")])
    story.tell("loaded", count=3)
    story.end("succeeded", story.grant(0), output=b"1")
    story.grant(1)
    await record.transcribe("e1", EPOCH, *story.take())
    assert await record.abandon("e1", NOW + 99) == 2
    row = await record.run("r1")
    assert (row.state, row.reason, row.finished_ms) == (RunState.FAILED, "abandoned", NOW + 99)
    assert [task.state for task in await record.tasks("r1")] == [TaskState.SUCCEEDED, TaskState.CANCELLED, TaskState.CANCELLED]
    assert (await record.attempts("r1"))[1][0].state == "cancelled"
    assert (await record.run("r3")).state == RunState.QUEUED
    assert await record.engine("e1") is None
    assert await record.abandon("e1", NOW) == 0
    await record.open_engine(EngineRow("e2", EPOCH, 0, "p", False), after_epoch=0)
    with pytest.raises(WrongStateError):
        await record.abandon("e2", NOW)


async def test_prune_deletes_whole_ended_runs(ready_record: SqlRecord, new_run: New, story: Any) -> None:
    await ready_record.accept([new_run("r2", digest="d2")])
    story.tell("loaded", count=1)
    story.end("succeeded", story.grant(0), output=b"1")
    story.tell("ended", state=int(RunState.SUCCEEDED))
    await ready_record.transcribe("e1", EPOCH, *story.take())
    artifact = await ready_record.put_artifact("r1", b"data", NOW)
    await ready_record.put_state("n", "k", b"1", now_ms=NOW, ttl_ms=5)
    later = NOW + 86_400_000
    assert await ready_record.prune(ended_before_ms=NOW, now_ms=NOW, limit=10) == 0
    assert await ready_record.get_artifact(artifact) == b"data"
    assert await ready_record.prune(ended_before_ms=later, now_ms=NOW + 4, limit=10) == 1
    assert await ready_record.get_artifact(artifact) == b"data", "orphans are kept for a day"
    assert await ready_record.prune(ended_before_ms=later, now_ms=later, limit=10) == 0
    for gone in (ready_record.run("r1"), ready_record.definition("d1"), ready_record.get_artifact(artifact)):
        with pytest.raises(NotFoundError):
            await gone
    assert await ready_record.tasks("r1") == []
    assert await ready_record.get_state("n", "k", NOW) is None
    assert (await ready_record.run("r2")).digest == "d2"
    assert await ready_record.definition("d2")


async def test_stats_count(ready_record: SqlRecord) -> None:
    stats = await ready_record.stats()
    assert stats["rejected_events"] == 0
    assert stats["bytes"] > 0
    assert stats["commits"] >= 2
