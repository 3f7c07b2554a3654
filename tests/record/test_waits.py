"""Waits of parked tasks, decisions, and events that somebody sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from skep.errors import NotFoundError, RefusedError, WrongStateError
from skep.model.run import RestoredTask, Token
from skep.model.state import TaskState
from skep.model.wait import Verdict, Wait
from skep.record.fold import DATA_KEPT
from skep.record.protocol import NewRun, Signal
from skep.record.sql import SqlRecord

EPOCH = 1_750_000_000
NOW = 1_750_000_000_000


def verdict(task: int = 0, attempt: int = 1, **fields: Any) -> bytes:
    given: dict[str, Any] = {"approve": True, "by": "ada"} | fields
    return msgspec.json.encode(Verdict(task=task, attempt=attempt, **given))


async def tell(record: SqlRecord, story: Any) -> None:
    await record.transcribe("e1", EPOCH, *story.take())


async def test_a_wait_stands_in_the_record_until_it_is_over(ready_record: SqlRecord, story: Any) -> None:
    wait = Wait(kind="event", event="paid", key="order-7", timeout_ms=1_000)
    parked = story.tell("parked", task=2, attempt=1, reason="event", data=wait.encode())
    await tell(ready_record, story)
    (row,) = await ready_record.waits("e1")
    assert (row.run, row.task, row.attempt, row.engine, row.namespace, row.workflow) == ("r1", 2, 1, "e1", "default", "w")
    assert (row.kind, row.event, row.key, row.since_ms, row.due_ms) == (
        "event",
        "paid",
        "order-7",
        parked.at_ms,
        parked.at_ms + 1_000,
    )
    assert (Wait.decode(row.data), row.accepted_ms, row.depth) == (wait, NOW, 0)
    assert (await ready_record.attempts("r1"))[2][0].state == "parked"
    assert (await ready_record.restore(["r1"]))["r1"].tasks == [RestoredTask(2, TaskState.PARKED, 1)]
    story.tell("succeeded", task=2, attempt=1, output=b"7")
    await tell(ready_record, story)
    assert await ready_record.waits("e1") == []
    (attempt,) = (await ready_record.attempts("r1"))[2]
    assert (attempt.state, attempt.token) == ("succeeded", None)
    assert attempt.finished_ms


@pytest.mark.parametrize(
    ("kind", "fields", "shown"),
    [
        ("ready", {"tasks": (0,)}, "snoozed"),
        ("cancelled", {"tasks": (0, 1)}, "cancelled"),
        ("failed", {"task": 0, "attempt": 1, "reason": "timeout"}, "failed"),
        ("retrying", {"task": 0, "attempt": 1, "due_ms": NOW}, "failed"),
    ],
)
@pytest.mark.parametrize("at_once", [False, True])
async def test_whatever_ends_the_task_ends_its_wait(
    ready_record: SqlRecord, story: Any, kind: str, fields: dict[str, Any], shown: str, at_once: bool
) -> None:
    for task in (0, 3):
        story.tell("parked", task=task, attempt=1, reason="approval", data=Wait(kind="approval").encode())
    if not at_once:
        await tell(ready_record, story)
    story.tell(kind, **fields)
    await tell(ready_record, story)
    assert [wait.task for wait in await ready_record.waits("e1")] == [3]
    assert [attempt.state for attempt in (await ready_record.attempts("r1"))[0]] == [shown]


async def test_waits_are_listed_by_what_they_are(ready_record: SqlRecord, new_run: Callable[..., NewRun], story: Any) -> None:
    await ready_record.accept([new_run("r2", namespace="n", depth=3), new_run("r3", engine="e2")])
    for task, (run, kind) in enumerate((("r2", "approval"), ("r1", "child"), ("r1", "approval"), ("r3", "event"))):
        story.tell("parked", run=run, task=task, attempt=1, reason=kind, data=Wait(kind=kind).encode())
    await tell(ready_record, story)

    async def listed(engine: str = "e1", **wanted: Any) -> list[int]:
        return [wait.task for wait in await ready_record.waits(engine, **wanted)]

    assert await listed() == [0, 1, 2]
    assert await listed(kinds=["approval"]) == [0, 2]
    assert await listed(kinds=["child", "event"]) == [1]
    assert await listed(runs=["r1", *(f"x{n}" for n in range(600)), "r2"]) == [0, 1, 2]
    assert await listed(runs=["r1"], limit=1) == [1]
    assert await listed(namespace="n") == [0]
    assert await listed("e2") == [3]
    assert [wait.depth for wait in await ready_record.waits("e1", namespace="n")] == [3]


async def test_one_decision_is_stored_and_told_until_it_had_its_effect(ready_record: SqlRecord, story: Any) -> None:
    story.tell("loaded", count=1)
    story.tell("parked", task=0, attempt=1, reason="approval", data=Wait(kind="approval").encode())
    await tell(ready_record, story)
    made = await ready_record.decide("r1", 0, 1, verdict(), NOW)
    assert (made.verb, made.number, made.data) == ("decide", 1, verdict())
    assert await ready_record.waits("e1") == []
    with pytest.raises(WrongStateError, match="approved by ada"):
        await ready_record.decide("r1", 0, 1, verdict(approve=False, by="bob"), NOW)
    pause = await ready_record.command("r1", "pause", b"", NOW)
    assert await ready_record.commands("e1", {}) == [made, pause]
    story.tell("paused", command=2)
    await tell(ready_record, story)
    assert await ready_record.commands("e1", {}) == [made], "a later one that was applied says nothing of it"
    story.tell("succeeded", task=0, attempt=1)
    await tell(ready_record, story)
    assert await ready_record.commands("e1", {}) == []
    with pytest.raises(WrongStateError, match="approved by ada"):
        await ready_record.decide("r1", 0, 1, verdict(by="eve"), NOW)


async def test_a_decision_of_another_attempt_is_refused(ready_record: SqlRecord, story: Any) -> None:
    story.tell("parked", task=0, attempt=1, reason="approval", data=Wait(kind="approval").encode())
    await tell(ready_record, story)
    await ready_record.decide("r1", 0, 1, verdict(), NOW)
    story.tell("ready", tasks=(0,))
    story.tell("parked", task=0, attempt=2, reason="approval", data=Wait(kind="approval").encode())
    story.tell("parked", task=1, attempt=1, reason="child", data=Wait(kind="child").encode())
    await tell(ready_record, story)
    assert await ready_record.commands("e1", {}) == [], "it was of an attempt that is over"
    assert [wait.attempt for wait in await ready_record.waits("e1", kinds=["approval"])] == [2]
    for task, attempt, why in ((0, 1, "waits in attempt 2, not 1"), (1, 1, "waits for child"), (5, 1, "does not wait")):
        with pytest.raises(WrongStateError, match=why):
            await ready_record.decide("r1", task, attempt, verdict(task, attempt), NOW)
    with pytest.raises(NotFoundError):
        await ready_record.decide("r9", 0, 1, verdict(), NOW)
    assert (await ready_record.run("r1")).command == 1


async def test_large_data_stays_out_of_the_events(ready_record: SqlRecord, story: Any) -> None:
    small, large = Wait(kind="event", key="k"), Wait(kind="event", key="k" * DATA_KEPT)
    for task, wait in enumerate((small, large)):
        story.tell("parked", task=task, attempt=1, reason="event", data=wait.encode())
    await tell(ready_record, story)
    told = await ready_record.events("r1", Token(0, 0), 9)
    assert [event.data for _, event in told] == [small.encode(), b""]
    assert [Wait.decode(row.data) for row in await ready_record.waits("e1")] == [small, large]
    assert story.events[1].data, "the engine's own event is left as it is"


async def test_sent_events_are_kept_once_and_found_by_name_and_key(ready_record: SqlRecord) -> None:
    def signal(id: str, at_ms: int, **fields: str) -> Signal:
        return Signal(id=id, at_ms=at_ms, data=id.encode(), **({"namespace": "n", "name": "paid", "key": "7"} | fields))

    second, first = signal("s2", NOW + 2), signal("s1", NOW + 1)
    assert await ready_record.send(second)
    assert await ready_record.send(first)
    assert not await ready_record.send(signal("s1", NOW + 9))
    for at, other in enumerate(({"key": "8"}, {"name": "sent"}, {"namespace": "m"})):
        assert await ready_record.send(signal(f"o{at}", NOW, **other))
    assert await ready_record.signals("n", "paid", "7", NOW, 9) == [first, second]
    assert await ready_record.signals("n", "paid", "7", NOW) == [first]
    assert await ready_record.signals("n", "paid", "7", NOW + 2) == [second]
    with pytest.raises(RefusedError):
        await ready_record.send(signal("s3", NOW, key="a\0b"))
