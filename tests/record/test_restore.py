"""What an engine that was opened anew is told of runs that were loaded before; and attempts that go on under it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from skep.model.event import Event
from skep.model.run import RestoredTask, Token
from skep.model.state import RunState, TaskState
from skep.record.protocol import EngineRow, Expansion, NewRun, RestoredRun
from skep.record.sql import SqlRecord

EPOCH = 1_750_000_000
NOW = 1_750_000_000_000
New = Callable[..., NewRun]
W, D, R, L, P = TaskState.WAITING, TaskState.DELAYED, TaskState.READY, TaskState.RUNNING, TaskState.PARKED


async def restored(record: SqlRecord) -> list[RestoredTask]:
    return (await record.restore(["r1"]))["r1"].tasks


async def test_what_was_never_loaded_is_left_out(ready_record: SqlRecord, new_run: New) -> None:
    await ready_record.accept([new_run("r2")])
    assert await ready_record.restore(["r1", "r2", "r9"]) == {}
    assert await ready_record.restore([]) == {}


async def test_each_state_as_the_record_has_it(ready_record: SqlRecord, story: Any) -> None:
    story.tell("loaded", count=9)
    story.end("succeeded", story.grant(0), output=b"1")
    story.end("retrying", story.grant(1), due_ms=NOW + 500)
    story.end("returned", story.grant(2), reason="lost")
    story.grant(3)
    story.tell("skipped", task=4, reason="when")
    story.tell("skipped", task=5, reason="upstream")
    story.tell("parked", task=6, reason="map", first=9, count=2)
    story.tell("parked", task=7, reason="map", first=11, count=3)
    await ready_record.transcribe("e1", EPOCH, *story.take())
    assert await ready_record.restore(["r1"]) == {
        "r1": RestoredRun(
            [
                RestoredTask(0, TaskState.SUCCEEDED, 1),
                RestoredTask(1, D, 1, failures=1, due_ms=NOW + 500),
                RestoredTask(2, R, 1, lost=1),
                RestoredTask(3, L, 1),
                RestoredTask(4, TaskState.SKIPPED, 0, met=True),
                RestoredTask(5, TaskState.SKIPPED, 0),
                RestoredTask(6, P, 0),
                RestoredTask(7, P, 0),
            ],
            [Expansion(6, 9, 2), Expansion(7, 11, 3)],
        )
    }
    assert (await ready_record.tasks("r1"))[1].due_ms == NOW + 500


async def test_failures_count_from_the_last_reset_on(ready_record: SqlRecord, story: Any) -> None:
    story.end("retrying", story.grant(0))
    story.end("failed", story.grant(0, 2))
    await ready_record.transcribe("e1", EPOCH, *story.take())
    story.tell("reset", tasks=(0,), command=1)
    await ready_record.transcribe("e1", EPOCH, *story.take())
    assert await restored(ready_record) == [RestoredTask(0, W, 2)]
    story.end("retrying", story.grant(0, 3))
    await ready_record.transcribe("e1", EPOCH, *story.take())
    assert await restored(ready_record) == [RestoredTask(0, R, 3, failures=1)]
    story.end("failed", story.grant(0, 4))  # and all of it in one batch
    story.tell("reset", tasks=(0,), command=2)
    story.end("returned", story.grant(0, 5), reason="lost")
    await ready_record.transcribe("e1", EPOCH, *story.take())
    assert await restored(ready_record) == [RestoredTask(0, R, 5, lost=1)]
    assert (await ready_record.run("r1")).applied == 2


async def test_only_what_was_lost_counts_as_lost(ready_record: SqlRecord, story: Any) -> None:
    for task, reason in enumerate(("lost", "node_lost", "retired", "unlisted")):
        story.end("returned", story.grant(task), reason=reason)
    await ready_record.transcribe("e1", EPOCH, *story.take())
    assert [task.lost for task in await restored(ready_record)] == [1, 1, 0, 0]
    assert {views[0].state for views in (await ready_record.attempts("r1")).values()} == {"lost"}


async def test_a_running_attempt_that_was_replaced_counts_as_lost(ready_record: SqlRecord, story: Any) -> None:
    story.grant(0)
    story.grant(1)
    await ready_record.transcribe("e1", EPOCH, *story.take())
    # An engine after it says that both are ready; the one is placed again, the other's node may still come.
    story.tell("ready", tasks=(0, 1))
    story.grant(0, 2)
    await ready_record.transcribe("e1", EPOCH, *story.take())
    assert await restored(ready_record) == [RestoredTask(0, L, 2, lost=1), RestoredTask(1, L, 1)]


async def test_an_adopted_attempt_runs_under_its_new_token(ready_record: SqlRecord, story: Any) -> None:
    story.tell("loaded", count=2)
    first = story.grant(0)
    await ready_record.transcribe("e1", EPOCH, *story.take())
    assert await ready_record.open_engine(EngineRow("e1", EPOCH + 1, 0, "p2", False), after_epoch=EPOCH)
    seen = Token(EPOCH, 99)  # of a grant that was not recorded
    adopted = [
        Event(n=1, at_ms=NOW + 50, kind="loaded", run="r1", count=2),
        Event(n=2, at_ms=NOW + 50, kind="ready", run="r1", tasks=(0, 1)),
        Event(n=3, at_ms=NOW + 60, kind="adopted", run="r1", task=0, attempt=1, node="n1", token=first.n, token_epoch=EPOCH),
        Event(n=4, at_ms=NOW + 70, kind="adopted", run="r1", task=1, attempt=1, node="n2", token=seen.n, token_epoch=EPOCH),
    ]
    await ready_record.transcribe("e1", EPOCH + 1, 0, adopted)
    one, two = await ready_record.tasks("r1")
    assert [(task.state, task.attempts, task.node) for task in (one, two)] == [(L, 1, "n1"), (L, 1, "n2")]
    attempts = await ready_record.attempts("r1")
    assert [(a.token, a.state, a.started_ms) for views in attempts.values() for a in views] == [
        (str(Token(EPOCH + 1, 3)), "running", first.at_ms),
        (str(Token(EPOCH + 1, 4)), "running", NOW + 70),
    ]
    tokens = await ready_record._write(lambda tx: tx.all("SELECT first_epoch, first_n FROM attempts ORDER BY idx"))
    assert tokens == [(EPOCH, first.n), seen]
    assert await restored(ready_record) == [RestoredTask(0, L, 1), RestoredTask(1, L, 1)]
    # Adopted once more, it still keeps the first.
    assert await ready_record.open_engine(EngineRow("e1", EPOCH + 2, 0, "p3", False), after_epoch=EPOCH + 1)
    again = Event(n=1, at_ms=NOW, kind="adopted", run="r1", task=0, attempt=1, node="n1", token=3, token_epoch=EPOCH + 1)
    await ready_record.transcribe("e1", EPOCH + 2, 0, [again])
    rows = await ready_record._write(lambda tx: tx.all("SELECT first_n, token_epoch FROM attempts WHERE idx = 0"))
    assert rows == [(first.n, EPOCH + 2)]


async def test_commands_that_had_their_effect_are_not_told_again(ready_record: SqlRecord, story: Any) -> None:
    made = [await ready_record.command("r1", verb, b"", NOW) for verb in ("pause", "resume", "cancel")]
    assert await ready_record.commands("e1", {}) == made
    story.tell("paused", command=1)
    story.tell("resumed", command=2)
    await ready_record.transcribe("e1", EPOCH, *story.take())
    assert (await ready_record.run("r1")).applied == 2
    assert await ready_record.commands("e1", {}) == made[2:]
    story.tell("cancelling", command=3)
    await ready_record.transcribe("e1", EPOCH, *story.take())
    assert await ready_record.commands("e1", {}) == []
    assert (await ready_record.run("r1")).state == RunState.CANCELLING


async def test_runs_of_later_wait_for_their_time(ready_record: SqlRecord, new_run: New) -> None:
    await ready_record.accept([new_run("later", due_ms=NOW + 10), new_run("last", due_ms=NOW + 20)])
    assert [run.id for run in await ready_record.unloaded("e1", EPOCH, 10, NOW)] == ["r1"]
    assert [run.id for run in await ready_record.unloaded("e1", EPOCH, 10, NOW + 10)] == ["later", "r1"]
    assert await ready_record.next_due_ms("e1", NOW) == NOW + 10
    assert await ready_record.next_due_ms("e1", NOW + 10) == NOW + 20
    assert await ready_record.next_due_ms("e1", NOW + 20) == 0
    assert await ready_record.next_due_ms("e2", NOW) == 0
    await ready_record.command("last", "pause", b"", NOW)
    assert await ready_record.next_due_ms("e1", NOW + 10) == NOW + 20
    await ready_record.command("last", "cancel", b"", NOW)
    assert [run.id for run in await ready_record.unloaded("e1", EPOCH, 10, NOW)] == ["last", "r1"]


async def test_tasks_are_read_in_parts_and_counted(ready_record: SqlRecord, story: Any) -> None:
    story.tell("loaded", count=9)
    for task in range(6):
        story.end("failed" if task % 2 else "succeeded", story.grant(task))
    await ready_record.transcribe("e1", EPOCH, *story.take())
    record = ready_record
    counts = (await record.run("r1", counts=True)).counts
    assert (counts[W], counts[TaskState.SUCCEEDED], counts[TaskState.FAILED], sum(counts)) == (3, 3, 3, 9)
    one = await record.task("r1", 3)
    assert one is not None
    assert one.state == TaskState.FAILED
    assert await record.task("r1", 8) is None
    assert [task.index for task in await record.list_tasks("r1", after=1, limit=2)] == [2, 3]
    assert [task.index for task in await record.list_tasks("r1", states=[TaskState.FAILED])] == [1, 3, 5]
    assert [task.index for task in await record.list_tasks("r1", indexes=[5, 0, 4, 8, 0])] == [0, 4, 5]
    assert [task.index for task in await record.list_tasks("r1", indexes=range(700), after=0, limit=2)] == [1, 2]
    assert await record.list_tasks("r1", indexes=[]) == []
    assert await record.last_event("r1") == Token(EPOCH, len(story.events))
    assert await record.last_event("r9") == Token(0, 0)
