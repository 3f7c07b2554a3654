"""Schedules: stored, shown, paused and fired by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from skep.errors import NotFoundError, SpecError
from skep.ids import new_id
from skep.model.schedule import ScheduleView
from skep.record.protocol import RunFilter
from skep.testing.stage import workflow
from skep.testing.timed import TimedStage

MINUTE = 60_000
SPEC = workflow({"a": {"run": "true"}}, inputs={"x": 0})


@pytest.fixture
async def stage() -> AsyncIterator[TimedStage]:
    async with TimedStage() as made:
        yield made


async def put(stage: TimedStage, name: str = "s", **options: Any) -> ScheduleView:
    return await stage.schedules.put(name, {"every": "10m", "spec": SPEC} | options)


async def count(stage: TimedStage) -> int:
    return len((await stage.record.list_runs(RunFilter(schedule="s"))).runs)


async def test_a_schedule_as_it_is_shown(stage: TimedStage) -> None:
    now_ms = stage.clock.now_ms()
    view = await put(stage, end="35m", inputs={"x": 1}, overlap="queue")
    assert view == ScheduleView(
        name="s",
        namespace="default",
        when="every 10m",
        every_ms=10 * MINUTE,
        start_ms=now_ms,
        end_ms=now_ms + 35 * MINUTE,
        overlap="queue",
        workflow="w",
        inputs={"x": 1},
        next_ms=now_ms + 10 * MINUTE,
        upcoming_ms=[now_ms + minutes * MINUTE for minutes in (10, 20, 30)],
    )
    assert await stage.schedules.get("s") == view


async def test_lists_by_name(stage: TimedStage) -> None:
    for name, namespace in (("b", ""), ("a", ""), ("c", "lab")):
        await stage.schedules.put(name, {"cron": "@daily", "spec": SPEC}, namespace)
    assert [view.name for view in await stage.schedules.list()] == ["a", "b", "c"]
    assert [view.name for view in await stage.schedules.list("lab")] == ["c"]


async def test_a_replaced_schedule_goes_by_its_new_times(stage: TimedStage) -> None:
    await put(stage)
    await stage.go(9 * MINUTE)
    await put(stage, every="20m")
    await stage.go(5 * MINUTE)
    assert await count(stage) == 0
    await stage.go(15 * MINUTE)
    assert await count(stage) == 1


async def test_while_it_is_paused_times_pass(stage: TimedStage) -> None:
    await put(stage)
    assert (await stage.schedules.pause("s")).paused
    await stage.go(45 * MINUTE)
    assert await count(stage) == 0
    view = await stage.schedules.resume("s")
    assert (view.paused, view.next_ms) == (False, stage.clock.now_ms() + 5 * MINUTE)
    await stage.go(5 * MINUTE)
    assert await count(stage) == 1
    assert (await stage.schedules.resume("s")).next_ms == stage.clock.now_ms() + 10 * MINUTE, "no change the second time"


async def test_fired_by_hand(stage: TimedStage) -> None:
    await put(stage, inputs={"x": 3})
    before = await stage.schedules.get("s")
    run = new_id(stage.clock.now_ms())
    assert await stage.schedules.fire("s", run_id=run) == await stage.schedules.fire("s", run_id=run) == run
    row = await stage.record.run(run)
    assert (row.schedule, row.labels, row.inputs) == ("s", {"schedule": "s"}, b'{"x":3}')
    after = await stage.schedules.get("s")
    assert (after.next_ms, after.runs) == (before.next_ms, [run])


async def test_removed(stage: TimedStage) -> None:
    await put(stage)
    assert await stage.schedules.remove("s")
    assert not await stage.schedules.remove("s")
    await stage.go(60 * MINUTE)
    assert await count(stage) == 0
    for ask in (stage.schedules.get, stage.schedules.pause, stage.schedules.resume, stage.schedules.fire):
        with pytest.raises(NotFoundError, match="there is no schedule 's'"):
            await ask("s")


async def test_the_last_time(stage: TimedStage) -> None:
    await put(stage, end="15m")
    await stage.go(10 * MINUTE)
    view = await stage.schedules.get("s")
    assert (view.next_ms, view.upcoming_ms) == (None, [])
    await stage.go(60 * MINUTE)
    assert await count(stage) == 1


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"cron": "0 0 30 2 *", "every": None}, "cron: '0 0 30 2 \\*' never fires"),
        ({"inputs": {"y": 1}}, "inputs.y: there is no such input"),
        ({"spec": None, "workflow": "kid", "inputs": {"y": 1}}, "inputs.y: there is no such input"),
    ],
)
async def test_what_is_wrong_is_refused_at_once(stage: TimedStage, options: dict[str, Any], problem: str) -> None:
    await stage.record.put_definition("default", "kid", "d", SPEC.encode(), "", stage.clock.now_ms())
    with pytest.raises(SpecError, match=problem):
        await put(stage, **options)
    assert await stage.schedules.list() == []


async def test_a_stored_workflow_must_be_there(stage: TimedStage) -> None:
    with pytest.raises(NotFoundError, match="kid"):
        await put(stage, spec=None, workflow="kid")
    for name in ("", "a b", "-a"):
        with pytest.raises(SpecError, match="name: found"):
            await put(stage, name)
