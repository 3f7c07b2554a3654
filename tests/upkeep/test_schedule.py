"""Schedules: each time starts one run, whatever happens in between."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from skep.errors import RecordError
from skep.flow.timetable import build_schedule, next_after
from skep.ids import fired_run_id
from skep.model.state import RunState
from skep.record.protocol import RunFilter, RunRow, ScheduleRow
from skep.record.sql import SqlRecord
from skep.testing.stage import HOLD, workflow
from skep.testing.time import VirtualLoop
from skep.testing.timed import TimedStage
from skep.upkeep.schedule import LONGEST_S, ScheduleLoop

MINUTE = 60_000
DAY = 86_400_000
WORK = {"a": {"run": "true"}}


@pytest.fixture
async def stage() -> AsyncIterator[TimedStage]:
    async with TimedStage() as made:
        yield made


async def put(stage: TimedStage, name: str = "s", **options: Any) -> ScheduleRow:
    """A schedule of every ten minutes, if nothing else is said."""
    given = {"every": "10m", "spec": workflow(WORK)} | options
    await stage.schedules.put(name, {key: value for key, value in given.items() if value is not None})
    return await stage.record.schedule("default", name)


async def fired(stage: TimedStage, name: str = "s") -> list[RunRow]:
    """Its runs, the oldest first."""
    page = await stage.record.list_runs(RunFilter(schedule=name), limit=1_000)
    return page.runs[::-1]


async def states(stage: TimedStage, name: str = "s") -> list[str]:
    return [RunState(run.state).label for run in await fired(stage, name)]


# -- firing


async def test_a_run_for_each_time(stage: TimedStage) -> None:
    await stage.node()
    row = await put(stage, inputs=None, priority=8, labels={"team": "x"})
    start_ms = stage.clock.now_ms()
    await stage.go(10 * MINUTE - 1)
    assert await fired(stage) == []
    await stage.go(1)
    await stage.go(10 * MINUTE)
    first, second = await fired(stage)
    assert [run.accepted_ms - start_ms for run in (first, second)] == [10 * MINUTE, 20 * MINUTE]
    assert first.id == fired_run_id("default", "s", row.made_ms, start_ms + 10 * MINUTE)
    assert (first.schedule, first.labels, first.priority) == ("s", {"team": "x", "schedule": "s"}, 8)
    assert first.state == RunState.SUCCEEDED
    view = await stage.schedules.get("s")
    assert view.runs == [second.id, first.id]
    assert (view.fired_ms, view.next_ms) == (start_ms + 20 * MINUTE, start_ms + 30 * MINUTE)


async def test_the_loop_sleeps_until_the_next_time_and_no_longer_than_the_wall_clock_is_trusted(stage: TimedStage) -> None:
    await stage.pass_(stage.schedule)
    assert stage.schedule.interval_s > LONGEST_S
    await put(stage, every="10s")
    await stage.pass_(stage.schedule)
    assert stage.schedule.interval_s == 10
    await put(stage, every="10h")
    await stage.pass_(stage.schedule)
    assert stage.schedule.interval_s == LONGEST_S


async def test_a_crash_between_the_run_and_the_move_of_the_schedule_starts_nothing_twice(
    stage: TimedStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stage.node(script={"a": HOLD})
    await put(stage, overlap="cancel")

    async def crash(*args: Any, **given: Any) -> bool:
        raise RecordError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(stage.record, "move_schedule", crash)
        stage.clock.advance(10 * MINUTE)
        with pytest.raises(RecordError):
            await stage.schedule.run_once()
    await stage.go()
    assert await states(stage) == ["running"], "not cancelled as an earlier one either"
    assert (await stage.record.schedule("default", "s")).next_ms == stage.clock.now_ms() + 10 * MINUTE


async def test_two_servers_fire_a_time_once(stage: TimedStage) -> None:
    await put(stage)
    runs = stage.hub.runs
    other = ScheduleLoop(stage.record, stage.clock, runs.submit, runs.cancel)
    stage.clock.advance(10 * MINUTE)
    await stage.pass_(stage.schedule, other)
    assert len(await fired(stage)) == 1


# -- overlap


async def test_skip_passes_over_what_comes_while_the_earlier_one_goes_on(stage: TimedStage) -> None:
    node = await stage.node(script={"a": HOLD})
    await put(stage)
    await stage.go(10 * MINUTE)
    await stage.go(10 * MINUTE)
    assert await states(stage) == ["running"]
    await node.finish("a")
    await stage.go()
    assert len(await fired(stage)) == 1
    await stage.go(10 * MINUTE)
    assert await states(stage) == ["succeeded", "running"]


async def test_queue_starts_them_one_after_the_other(stage: TimedStage) -> None:
    node = await stage.node(script={"a": HOLD})
    await put(stage, overlap="queue")
    start_ms = stage.clock.now_ms()
    for _ in range(3):
        await stage.go(10 * MINUTE)
    assert await states(stage) == ["running"]
    assert stage.schedule.interval_s == LONGEST_S, "it waits for the end of the run, and does not ask all the time"
    for count in (2, 3):
        await node.finish("a")
        await stage.go(1_000)
        assert await states(stage) == ["succeeded"] * (count - 1) + ["running"]
    row = await stage.record.schedule("default", "s")
    assert row.next_ms == start_ms + 40 * MINUTE


async def test_the_end_of_the_run_wakes_a_queue(stage: TimedStage) -> None:
    node = await stage.node(script={"a": HOLD})
    await put(stage, overlap="queue")
    for _ in range(2):
        await stage.go(10 * MINUTE)
    stage.schedule._wakened.clear()
    stage.loops.remove(stage.schedule)
    await node.finish("a")
    await stage.go()
    assert stage.schedule._wakened.is_set()


async def test_a_queue_survives_a_restart(stage: TimedStage) -> None:
    node = await stage.node(script={"a": HOLD})
    await put(stage, overlap="queue")
    for _ in range(3):
        await stage.go(10 * MINUTE)
    await node.finish("a")
    await stage.pass_(stage.transcribe)
    async with stage.after_a_crash(1_000) as after:
        node = await after.node(script={"a": HOLD})
        await after.go()
        assert await states(after) == ["succeeded", "running"]
        await node.finish("a")
        await after.go()
        assert await states(after) == ["succeeded", "succeeded", "running"]


async def test_cancel_ends_the_older_one(stage: TimedStage) -> None:
    await stage.node(script={"a": HOLD})
    await put(stage, overlap="cancel")
    await stage.go(10 * MINUTE)
    await stage.go(10 * MINUTE)
    assert await states(stage) == ["cancelled", "running"]
    older, _ = await fired(stage)
    assert older.reason == "schedule s: the next one is due"


async def test_allow_starts_all(stage: TimedStage) -> None:
    await stage.node(script={"a": HOLD})
    await put(stage, overlap="allow")
    await stage.go(10 * MINUTE)
    await stage.go(10 * MINUTE)
    assert await states(stage) == ["running", "running"]


# -- catching up


@pytest.mark.parametrize(("catch_up", "count"), [("skip", 0), ("last", 1), ("all", 100)])
async def test_times_that_passed_while_no_server_ran(stage: TimedStage, catch_up: str, count: int) -> None:
    await put(stage, catch_up=catch_up, overlap="allow")
    async with stage.after_a_crash(2 * DAY + MINUTE + 1) as after:
        await after.go()
        assert len(await fired(after)) == count
        row = await after.record.schedule("default", "s")
        assert row.next_ms == after.clock.now_ms() + 9 * MINUTE - 1


# -- trouble


async def test_a_workflow_that_is_gone_is_told_once_and_tried_at_the_next_time(
    stage: TimedStage, caplog: pytest.LogCaptureFixture
) -> None:
    spec = workflow(WORK)
    await stage.record.put_definition("default", "w", "d", spec.encode(), "", stage.clock.now_ms())
    await put(stage, spec=None, workflow="w")
    await stage.record.remove_definition("default", "w")
    with caplog.at_level(logging.WARNING, "skep.upkeep.schedule"):
        await stage.go(10 * MINUTE)
        await stage.go(10 * MINUTE)
    assert [record.message.partition(":")[0] for record in caplog.records] == ["schedule s started no run"]
    trouble = (await stage.schedules.get("s")).trouble
    assert trouble
    assert await fired(stage) == []
    await stage.record.put_definition("default", "w", "d", spec.encode(), "", stage.clock.now_ms())
    await stage.go(10 * MINUTE)
    assert (await stage.schedules.get("s")).trouble is None
    assert len(await fired(stage)) == 1


async def test_refused_times_of_a_queue_do_not_hold_up_the_others(stage: TimedStage) -> None:
    spec = workflow(WORK)
    await stage.record.put_definition("default", "w", "d", spec.encode(), "", stage.clock.now_ms())
    await put(stage, spec=None, workflow="w", overlap="queue", catch_up="all")
    await stage.record.remove_definition("default", "w")
    stage.clock.advance(30 * MINUTE)
    await stage.pass_(stage.schedule)
    row = await stage.record.schedule("default", "s")
    assert row.next_ms == stage.clock.now_ms() + 10 * MINUTE


async def test_a_schedule_that_cannot_be_read_stops_and_the_others_go_on(stage: TimedStage) -> None:
    await put(stage, "good")
    await stage.record.put_schedule("default", "bad", b'{"cron":1}', stage.clock.now_ms() + 1, stage.clock.now_ms())
    await stage.go(10 * MINUTE)
    assert len(await fired(stage, "good")) == 1
    assert "cannot be read" in stage.schedule.refused["default", "bad"]
    assert (await stage.record.schedule("default", "bad")).next_ms == 0


# -- virtual time


def test_a_cron_over_the_autumn_change_fires_once() -> None:
    """The loop itself, on virtual time, over two days around the night in which Berlin sees 02:30 twice."""
    loop = VirtualLoop(limit_s=60)
    began_ms = loop.now_ms()
    start_ms = int(datetime(2026, 10, 24, 10, tzinfo=UTC).timestamp()) * 1000

    class Autumn:
        def now_ms(self) -> int:
            return start_ms + loop.now_ms() - began_ms

    accepted: list[str] = []

    async def main() -> None:
        clock = Autumn()
        record = SqlRecord(None, inline=True)
        await record.open()

        async def submit(spec: Any, inputs: Any, **given: Any) -> str:
            moment = datetime.fromtimestamp(clock.now_ms() / 1000, UTC)
            accepted.append(moment.isoformat(timespec="seconds"))
            return str(given["run_id"])

        async def cancel(run: str, reason: str) -> None:
            raise AssertionError

        schedule = ScheduleLoop(record, clock, submit, cancel)
        options = {"cron": "30 2 * * *", "timezone": "Europe/Berlin", "spec": workflow(WORK)}
        spec = build_schedule(options, clock.now_ms())
        await record.put_schedule("default", "s", msgspec.json.encode(spec), next_after(spec, clock.now_ms()), clock.now_ms())
        schedule.start()
        await asyncio.sleep(48 * 3_600)
        await schedule.stop()
        await record.close()

    loop.play(main())
    assert accepted == ["2026-10-25T00:30:00+00:00", "2026-10-26T01:30:00+00:00"]
