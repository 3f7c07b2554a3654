"""Load: what the record has accepted reaches the engine, commands in their order and after the run."""

from __future__ import annotations

from typing import Any

import pytest

from skep.engine.protocol import OK, RunCommand
from skep.testing.stage import HOLD, Failed, Stage, counted, workflow
from skep.upkeep import load

RUN: dict[str, Any] = {"run": "true"}


async def test_what_another_server_accepted_is_found_within_a_second(stage: Stage) -> None:
    async with Stage(stage.record, stage.engine) as other:
        await stage.go()
        run = await other.submit({"a": RUN})
        await stage.node()
        await stage.go()
        assert (await stage.record.run(run)).loaded == 0
        await stage.go(1_000)
    assert await stage.end(run) == ("succeeded", None)


async def test_urgent_runs_are_loaded_first(stage: Stage) -> None:
    async with Stage(stage.record, stage.engine) as other:
        runs = [await other.submit({"a": RUN}, priority=priority) for priority in (3, 9, 6)]
    await stage.pass_(stage.load, stage.transcribe)
    loaded = [event.run for event in stage.told if event.kind == "loaded"]
    assert loaded == [runs[1], runs[2], runs[0]]


async def test_a_large_run_is_loaded_in_chunks_and_starts_after_the_last(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "CHUNK", 3)
    await stage.node()
    view = await stage.run({f"t{at}": RUN for at in range(10)})
    assert view.state == "succeeded"
    assert [event.count for event in stage.told if event.kind == "loaded"] == [10]


@pytest.mark.parametrize(("verb", "end"), [("cancel", ("cancelled", "cancelled")), ("pause", ("running", None))])
async def test_a_command_that_comes_before_the_load_is_applied_before_anything_starts(
    stage: Stage, verb: str, end: tuple[str, str | None]
) -> None:
    node = await stage.node()
    run = await stage.submit({"a": RUN})
    await getattr(stage.hub.runs, verb)(run)
    await stage.go()
    if verb == "pause":
        assert (await stage.record.run(run)).paused
    assert await stage.end(run) == end
    assert node.started == []


async def test_commands_of_another_server_arrive_in_their_order(stage: Stage) -> None:
    node = await stage.node(script={"a": HOLD})
    run = await stage.submit({"a": RUN, "b": RUN | {"needs": ["a"]}})
    await stage.go()
    for verb in ("pause", "resume", "pause"):
        await stage.record.command(run, verb, b"", stage.clock.now_ms())
    await stage.go(1_000)
    await node.finish("a")
    await stage.go(1_000)
    assert (await stage.record.run(run)).paused
    assert node.started == ["a"]
    assert [event.kind for event in stage.told if event.kind in ("paused", "resumed")] == ["paused", "resumed", "paused"]


async def test_a_command_is_recorded_before_it_is_applied(stage: Stage) -> None:
    await stage.node(script={"a": HOLD})
    run = await stage.submit({"a": RUN})
    await stage.go()
    heard: list[int] = []

    async def cancel(items: list[RunCommand]) -> list[str]:
        recorded = await stage.record.commands("engine", {})
        heard.extend(command.number for command in recorded if command.run == items[0].run)
        return [OK]

    stage.engine.cancel = cancel  # type: ignore[method-assign, assignment]
    await stage.hub.runs.cancel(run)
    assert heard == [1]


async def test_commands_said_twice_change_nothing_more(stage: Stage) -> None:
    node = await stage.node(script={"a": HOLD})
    run = await stage.submit({"a": RUN})
    await stage.go()
    for verb in ("pause", "pause", "resume", "resume", "cancel", "cancel"):
        await getattr(stage.hub.runs, verb)(run)
        await stage.go(1_000)
    await stage.hub.runs.cancel(run)
    await stage.go(1_000)
    kinds = counted(stage.told)
    assert [kinds[kind] for kind in ("paused", "resumed", "cancelling", "ended")] == [1, 1, 1, 1]
    assert node.stops == [("a", "cancel")]
    assert await stage.end(run) == ("cancelled", "cancelled")


async def test_a_task_that_ends_before_it_is_stopped_keeps_its_outcome(stage: Stage) -> None:
    node = await stage.node(script={"a": HOLD})
    node.deaf = True
    run = await stage.submit({"a": RUN, "b": RUN | {"needs": ["a"]}})
    await stage.go()
    await stage.hub.runs.cancel(run, "enough")
    await stage.go()
    await node.finish("a", 7)
    await stage.go()
    assert await stage.states(run) == {"a": "succeeded", "b": "cancelled enough"}
    assert await stage.end(run) == ("cancelled", "enough")


async def test_a_run_that_is_offered_twice_is_loaded_once(stage: Stage) -> None:
    await stage.node()
    run = await stage.submit({"a": RUN})
    stage.load.offer([await stage.record.run(run)])
    stage.load.look()
    await stage.go()
    assert counted(stage.told)["loaded"] == 1


async def test_what_has_ended_is_forgotten(stage: Stage) -> None:
    await stage.node()
    run = await stage.submit({"a": RUN})
    await stage.go()
    assert not stage.load.live
    assert stage.catalog.known(run) is None


async def test_a_plan_is_compiled_once_for_all_runs_of_a_definition(stage: Stage) -> None:
    await stage.node()
    spec = workflow({"a": RUN})
    runs = await stage.hub.runs.submit_many(spec, [{}] * 5)
    await stage.go()
    rows = [await stage.record.run(run) for run in runs]
    assert len({row.digest for row in rows}) == 1
    assert await stage.catalog.plan(rows[0].digest) is stage.hub.runs.plan(spec)


async def test_a_retry_that_does_not_fit_now_is_applied_later(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skep.engine.memory.runs.MAX_TASKS", 10)
    node = await stage.node(script={"bad": Failed(), "a": HOLD})
    run = await stage.submit({"bad": RUN, "b": RUN | {"needs": ["bad"]}})
    await stage.go()
    await stage.submit({"a": RUN} | {f"t{at}": RUN for at in range(8)})
    await stage.go()
    node.script = {}
    await stage.hub.runs.retry(run)
    await stage.go(1_000)
    assert await stage.end(run) == ("queued", None)
    await node.finish("a")
    await stage.go(1_000)
    assert await stage.end(run) == ("succeeded", None)
