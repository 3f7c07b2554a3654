"""Transcribe: nothing is told before the record has it; whoever races, the record has everything once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from skep.errors import RecordError, StaleEpochError
from skep.model.event import Event
from skep.model.run import Token
from skep.record import runs
from skep.record.protocol import EngineRow
from skep.record.sql import SqlRecord
from skep.testing.stage import ENGINE_ID, EPOCH, HOLD, Stage

RUN: dict[str, Any] = {"run": "true"}
MANY: dict[str, Any] = {f"t{at}": RUN for at in range(200)} | {"end": RUN | {"needs": [f"t{at}" for at in range(200)]}}


async def every_event(record: SqlRecord, run: str) -> list[int]:
    found = [*await record.events(run, Token(0, 0), 100_000), *await record.events(ENGINE_ID, Token(0, 0), 100_000)]
    return sorted(token.n for token, _ in found)


@pytest.mark.parametrize("inline", [False, True])
async def test_nothing_is_told_before_it_is_recorded(inline: bool) -> None:
    async with Stage(SqlRecord(None, inline=inline)) as stage:
        marks: list[tuple[int, int]] = []

        def listener(events: Sequence[Event]) -> None:
            row = stage.record.call(runs.engine, ENGINE_ID).result()
            assert row is not None
            marks.append((events[-1].n, row.mark))

        stage.feed.subscribe(listener)
        await stage.node(script={"t7": HOLD})
        run = await stage.submit(MANY)
        await stage.go()
        await stage.nodes[0].finish("t7")
        await stage.go()
        assert await stage.end(run) == ("succeeded", None)
    assert len(marks) > 3
    assert all(told <= mark for told, mark in marks)


async def test_events_are_told_once_each_and_in_order(stage: Stage) -> None:
    await stage.node()
    await stage.run(MANY)
    assert [event.n for event in stage.told] == list(range(1, stage.engine.core.n + 1))
    assert await stage.engine.backlog() == 0


async def test_two_transcribers_race_and_the_record_has_everything_once(tmp_path: Path) -> None:
    async with Stage(SqlRecord(tmp_path / "record.sqlite")) as first, Stage(first.record, first.engine) as second:
        for loop in (first.transcribe, second.transcribe):
            loop.start()
        await first.node()
        run = await first.submit(MANY)
        while not (run in first.engine.core.runs and first.engine.core.runs[run].state.ended):
            await first.pass_(first.load, first.place, first.promote)
            await first.nodes[0].turn()
            for loop in (first.transcribe, second.transcribe):
                loop.wake()
            await asyncio.sleep(0)
        for loop in (first.transcribe, second.transcribe):
            await loop.stop()
            await first.pass_(loop)
        assert (first.transcribe.failures, second.transcribe.failures) == (0, 0)
        assert await every_event(first.record, run) == list(range(1, first.engine.core.n + 1))
        row = await first.record.engine(ENGINE_ID)
        assert row is not None
        assert row.mark == first.engine.core.n
        for told in (first.told, second.told):
            numbers = [event.n for event in told]
            assert numbers == sorted(set(numbers))


async def test_the_slower_transcriber_tells_what_the_faster_one_recorded(stage: Stage) -> None:
    async with Stage(stage.record, stage.engine) as second:
        await stage.node()
        await stage.pass_(stage.load, stage.place)
        events = await stage.engine.events(0, 100)
        await stage.record.transcribe(ENGINE_ID, EPOCH, 0, events)  # the other has committed, and not yet trimmed
        await second.pass_(second.transcribe)
        assert second.told == events
        assert second.transcribe.mark == events[-1].n


async def test_a_transcriber_that_finds_the_stream_trimmed_goes_on_behind_the_gap(stage: Stage) -> None:
    async with Stage(stage.record, stage.engine) as second:
        await stage.node()
        run = await stage.submit({"a": RUN})
        await stage.go()
        await stage.node("late")
        await second.pass_(second.transcribe)
        assert second.transcribe.mark == stage.engine.core.n
        assert [event.kind for event in second.told] == ["registered"]
        assert second.missed == 1
        await stage.pass_(stage.transcribe)
        assert await every_event(stage.record, run) == list(range(1, stage.engine.core.n + 1))


async def test_a_transcriber_of_an_older_epoch_records_nothing(stage: Stage) -> None:
    await stage.node()
    row = EngineRow(id=ENGINE_ID, epoch=EPOCH + 1, mark=0, process="next", embedded=False)
    assert await stage.record.open_engine(row, after_epoch=EPOCH)
    with pytest.raises(StaleEpochError):
        await stage.transcribe.run_once()
    assert stage.told == []


async def test_a_record_that_fails_loses_nothing(stage: Stage) -> None:
    await stage.node()
    run = await stage.submit({"a": RUN})
    transcribe, stage.record.transcribe = stage.record.transcribe, failing  # type: ignore[method-assign, assignment]
    with pytest.raises(RecordError):
        await stage.go()
    assert stage.told == []
    stage.record.transcribe = transcribe  # type: ignore[method-assign]
    await stage.go()
    assert await stage.end(run) == ("succeeded", None)


async def failing(*given: Any) -> None:
    raise RecordError("the disk is full")


async def test_a_listener_that_fails_holds_up_nobody(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    def broken(events: Sequence[Event]) -> None:
        raise ValueError("cannot draw this")

    heard: list[Event] = []
    stage.feed.subscribe(broken)
    stage.feed.subscribe(heard.extend)
    await stage.node()
    run = await stage.submit({"a": RUN})
    ended = asyncio.ensure_future(stage.hub.runs.wait(run))
    await asyncio.sleep(0)
    await stage.go()
    assert (await ended).label == "succeeded"
    assert heard == stage.told
    assert "a listener failed" in caplog.text
