"""Transcription: the mark, the rows, and what happens to a bad event."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from skep.errors import NotFoundError, RecordError, StaleEpochError
from skep.model.event import Event
from skep.model.run import Token
from skep.model.state import RunState, TaskState
from skep.record.protocol import EngineRow, Expansion
from skep.record.sql import SqlRecord

EPOCH = 1_750_000_000
NOW = 1_750_000_000_000


async def mark(record: SqlRecord) -> int:
    row = await record.engine("e1")
    assert row is not None
    return row.mark


async def test_the_life_of_a_task(ready_record: SqlRecord, story: Any) -> None:
    record = ready_record
    story.tell("loaded", count=4)
    story.tell("ready", tasks=(0, 1))
    first = story.grant(0)
    story.end("retrying", first, error=b'{"type":"E","message":"m"}', reason="error", due_ms=NOW + 500)
    await record.transcribe("e1", EPOCH, *story.take())
    (task,) = await record.tasks("r1")
    assert (task.state, task.attempts, task.reason, task.finished_ms) == (TaskState.DELAYED, 1, "error", None)
    story.tell("ready", tasks=(0,))
    await record.transcribe("e1", EPOCH, *story.take())
    (task,) = await record.tasks("r1")
    assert (task.state, task.reason) == (TaskState.READY, "")
    second = story.grant(0, 2)
    story.end("succeeded", second, output=b'{"big":1}')
    story.tell("skipped", tasks=(1, 2), reason="upstream")
    story.tell("parked", task=3, reason="map", first=4, count=2)
    story.tell("ended", state=int(RunState.SUCCEEDED))
    await record.transcribe("e1", EPOCH, *story.take())
    done, *skipped, parked = await record.tasks("r1")
    assert (done.state, done.attempts, done.node, done.output, done.error) == (TaskState.SUCCEEDED, 2, "n1", b'{"big":1}', b"")
    assert (done.started_ms, done.finished_ms) == (second.at_ms, second.at_ms + 7)
    assert [(task.index, task.state, task.reason) for task in skipped] == [(i, TaskState.SKIPPED, "upstream") for i in (1, 2)]
    assert (parked.state, parked.reason) == (TaskState.PARKED, "map")
    assert await record.expansions("r1") == [Expansion(3, 4, 2)]
    assert await record.outputs("r1", [0, 1, 9]) == {0: b'{"big":1}'}
    one, two = (await record.attempts("r1"))[0]
    assert (one.state, one.error, one.token) == ("failed", {"type": "E", "message": "m"}, str(Token(EPOCH, first.n)))
    assert (two.state, two.error, two.finished_ms) == ("succeeded", None, second.at_ms + 7)
    run = await record.run("r1")
    assert (run.state, run.loaded, run.task_count, run.started_ms) == (RunState.SUCCEEDED, EPOCH, 6, NOW + 1)
    assert await record.unfinished("e1") == 0


async def test_flags_of_a_run(ready_record: SqlRecord, story: Any) -> None:
    for kind, expected in (("loaded", (1, False)), ("paused", (1, True)), ("cancelling", (2, True)), ("resumed", (2, False))):
        story.tell(kind, reason="why" if kind == "cancelling" else "")
        await ready_record.transcribe("e1", EPOCH, *story.take())
        run = await ready_record.run("r1")
        assert (run.state, run.paused) == expected, kind
    assert run.reason == "why"


async def test_events_are_read_back_in_order_without_outputs(ready_record: SqlRecord, story: Any) -> None:
    story.tell("loaded", count=1)
    story.end("succeeded", story.grant(0), output=b"\xff\x00binary")
    await ready_record.transcribe("e1", EPOCH, *story.take())
    story.tell("registered", run="", node="n1")
    story.tell("ended", state=3)
    await ready_record.transcribe("e1", EPOCH, *story.take())
    told = await ready_record.events("r1", Token(0, 0), 100)
    assert [(token, event.kind) for token, event in told] == [
        (Token(EPOCH, n), kind) for n, kind in ((1, "loaded"), (2, "granted"), (3, "succeeded"), (5, "ended"))
    ]
    assert told[2][1].output == b""
    assert story.events[2].output == b"\xff\x00binary", "the engine's own event is left as it is"
    assert [event.n for _, event in await ready_record.events("r1", Token(EPOCH, 2), 100)] == [3, 5]
    assert [event.n for _, event in await ready_record.events("r1", Token(EPOCH, 2), 1)] == [3]
    assert await ready_record.events("r1", Token(EPOCH + 1, 0), 100) == []
    assert [event.node for _, event in await ready_record.events("e1", Token(0, 0), 9)] == ["n1"]


async def test_the_mark_moves_by_compare_and_set(ready_record: SqlRecord, story: Any) -> None:
    story.tell("loaded", count=1)
    after, events = story.take()
    await ready_record.transcribe("e1", EPOCH, after, events)
    for engine, epoch, at in (("e1", EPOCH, 0), ("e1", EPOCH - 1, 1), ("e2", EPOCH, 1)):
        again = [Event(n=at + 1, at_ms=NOW, kind="paused", run="r1")]
        with pytest.raises(StaleEpochError):
            await ready_record.transcribe(engine, epoch, at, again)
    with pytest.raises(RecordError, match="do not follow"):
        await ready_record.transcribe("e1", EPOCH, 1, [Event(n=3, at_ms=NOW, kind="paused", run="r1")])
    await ready_record.transcribe("e1", EPOCH, 1, [])
    assert await mark(ready_record) == 1
    assert not (await ready_record.run("r1")).paused


BAD: dict[str, dict[str, Any]] = {
    "unknown kind": {"kind": "exploded"},
    "huge number": {"kind": "granted", "task": 1, "attempt": 2**70},
    "no run": {"kind": "granted", "task": 1, "attempt": 1, "run": ""},
    "no task": {"kind": "failed"},
    "wrong type": {"kind": "granted", "task": 1, "attempt": 1, "node": b"bytes"},
    "broken text": {"kind": "granted", "task": 1, "attempt": 1, "node": "\ud800"},
    "no such state": {"kind": "ended", "state": 77},
}


@pytest.mark.parametrize("bad", BAD)
async def test_a_bad_event_is_put_aside_alone(
    ready_record: SqlRecord, story: Any, bad: str, caplog: pytest.LogCaptureFixture
) -> None:
    story.tell("loaded", count=20)
    for task in range(2, 9):
        story.end("succeeded", story.grant(task), output=b"1")
    story.tell(**BAD[bad])
    culprit = len(story.events)
    for task in range(9, 12):
        story.grant(task)
    with caplog.at_level(logging.ERROR):
        await ready_record.transcribe("e1", EPOCH, *story.take())
    assert [line.getMessage().split(" of ")[0] for line in caplog.records] == [f"event {EPOCH}-{culprit}"]
    assert await mark(ready_record) == len(story.events)
    told = await ready_record.events("r1", Token(0, 0), 100)
    assert [event.n for _, event in told] == [n for n in range(1, len(story.events) + 1) if n != culprit]
    assert {task.index for task in await ready_record.tasks("r1")} == set(range(2, 12))
    ((n, error),) = await ready_record._write(lambda tx: tx.all("SELECT n, error FROM rejected"))
    assert n == culprit
    assert error
    assert (await ready_record.stats())["rejected_events"] == 1


async def test_bad_text_in_a_reason_is_mended_rather_than_lost(ready_record: SqlRecord, story: Any) -> None:
    story.tell("loaded", count=1)
    story.tell("failed", task=0, reason="nul \0 and half \ud800", error=b"\xff\xfe not json")
    story.tell("ended", state=int(RunState.FAILED), reason="å\0")
    await ready_record.transcribe("e1", EPOCH, *story.take())
    (task,) = await ready_record.tasks("r1")
    assert task.reason == "nul � and half ?"
    assert (await ready_record.run("r1")).reason == "å�"
    assert (await ready_record.stats())["rejected_events"] == 0


async def test_an_unreadable_error_is_shown_as_such(ready_record: SqlRecord, story: Any) -> None:
    story.end("failed", story.grant(0), error=b"\xff{")
    await ready_record.transcribe("e1", EPOCH, *story.take())
    assert (await ready_record.attempts("r1"))[0][0].error["type"] == "Unreadable"


async def test_a_large_output(ready_record: SqlRecord, story: Any) -> None:
    large = b"\0\xff" * 25_000_000
    story.end("succeeded", story.grant(0), output=large)
    await ready_record.transcribe("e1", EPOCH, *story.take())
    assert await ready_record.outputs("r1", [0]) == {0: large}


async def test_an_adopted_attempt_keeps_the_token_it_first_saw(ready_record: SqlRecord, story: Any) -> None:
    first = story.grant(0)
    await ready_record.transcribe("e1", EPOCH, *story.take())
    second = story.grant(0)
    await ready_record.transcribe("e1", EPOCH, *story.take())
    assert [a.token for a in (await ready_record.attempts("r1"))[0]] == [str(Token(EPOCH, second.n))]
    rows = await ready_record._write(lambda tx: tx.all("SELECT first_epoch, first_n FROM attempts"))
    assert rows == [(EPOCH, first.n)]


async def test_a_lost_attempt_without_an_event_shows_as_lost(ready_record: SqlRecord, story: Any) -> None:
    story.grant(0)
    story.grant(1)
    story.end("returned", story.grant(2), reason="node_lost")
    story.tell("ready", tasks=(1,))
    story.grant(0, 2)
    await ready_record.transcribe("e1", EPOCH, *story.take())
    attempts = await ready_record.attempts("r1")
    assert [[a.state for a in attempts[task]] for task in (0, 1, 2)] == [["lost", "running"], ["lost"], ["lost"]]


async def test_two_engines_of_one_epoch_keep_the_events_of_their_nodes_apart(ready_record: SqlRecord) -> None:
    assert await ready_record.open_engine(EngineRow("e2", EPOCH, 0, "p", True), after_epoch=0)
    for engine in ("e1", "e2"):
        await ready_record.transcribe(engine, EPOCH, 0, [Event(n=1, at_ms=1, kind="registered", node=f"node of {engine}")])
    for engine in ("e1", "e2"):
        assert [event.node for _, event in await ready_record.events(engine, Token(0, 0), 9)] == [f"node of {engine}"]
    assert (await ready_record.stats())["rejected_events"] == 0
    await ready_record.abandon("e2", 1)
    assert await ready_record.events("e2", Token(0, 0), 9) == [], "what is forgotten leaves nothing behind"


async def test_a_nul_character_never_keeps_an_event_out(ready_record: SqlRecord) -> None:
    """PostgreSQL knows none in a text: there a sign stands in its place."""
    told = [
        Event(n=1, at_ms=NOW, kind="registered", node="no\0de", count=1),
        Event(n=2, at_ms=NOW, kind="granted", run="r1", task=0, attempt=1, token=2, token_epoch=EPOCH, node="no\0de"),
        Event(
            n=3, at_ms=NOW, kind="failed", run="r1", task=0, attempt=1, token=2, reason="a\0b", error=b'{"message":"\\u0000"}'
        ),
        Event(n=4, at_ms=NOW, kind="succeeded", run="r1", task=1, output=b'"\\u0000"'),
    ]
    await ready_record.transcribe("e1", EPOCH, 0, told)
    assert (await ready_record.stats())["rejected_events"] == 0
    assert await ready_record.outputs("r1", [1]) == {1: b'"\\u0000"'}
    assert [row.reason for row in await ready_record.tasks("r1")] == ["a\ufffdb", ""]
    assert [row.node.replace("\ufffd", "\0") for row in await ready_record.tasks("r1")] == ["no\0de", ""]
    with pytest.raises(NotFoundError):
        await ready_record.run("r\0")
