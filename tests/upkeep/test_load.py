"""Load: what the record has accepted reaches the engine, commands in their order and after the run."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from skep.engine.protocol import OK, RunCommand
from skep.errors import SpecError
from skep.model.state import RunState
from skep.model.wait import Verdict
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


async def test_a_command_does_not_overtake_one_that_waits_for_the_load(stage: Stage) -> None:
    """The engine takes a lower number for a repeat: what was overtaken would never be applied."""
    await stage.node(script={"a": HOLD})
    run = await stage.submit({"a": RUN})
    cancel = await stage.record.command(run, "cancel", b"", stage.clock.now_ms())
    await stage.load.apply(cancel)
    await stage.load.run_once()  # what was offered; the commands are looked for in the next pass
    await stage.hub.runs.pause(run)
    await stage.go()
    assert await stage.end(run) == ("cancelled", "cancelled")


async def test_the_next_command_after_a_restart_does_not_overtake_either(stage: Stage) -> None:
    await stage.node(script={"a": HOLD})
    run = await stage.submit({"a": RUN})
    await stage.go()
    await stage.record.command(run, "cancel", b"", stage.clock.now_ms())
    after = await stage.reopened()
    rows = await after.record.unloaded("engine", after.engine.epoch, 9, stage.clock.now_ms())
    await after.load._load(rows)  # a pass that has read the commands before
    await after.hub.runs.pause(run)
    await after.take_up()
    await after.go()
    assert await after.end(run) == ("cancelled", "cancelled")


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


# -- what is due later


async def test_a_delayed_run_is_loaded_when_it_is_due(stage: Stage) -> None:
    node = await stage.node()
    await stage.hub.runs.submit(workflow({"a": RUN}), due_ms=stage.clock.now_ms() + 300)
    await stage.go()
    assert not counted(stage.told)["loaded"]
    await stage.go(299)
    assert node.started == []
    await stage.go(1)
    assert node.started == ["a"], "not only with the next scan"


# -- after an engine


async def test_what_ended_is_known_to_the_next_engine(stage: Stage) -> None:
    node = await stage.node(script={"a": [1, 2], "m": HOLD})
    tasks = {"a": RUN, "m": {"run": "x ${{ item }}", "map": "tasks.a.output"}, "z": {"run": "x ${{ tasks.a.output }}"}}
    run = await stage.submit(tasks)
    await stage.go()
    await node.finish("m[0]")
    await stage.go()
    after = await stage.reopened()
    again = await after.node("again")
    await after.take_up()
    await after.go()
    assert again.started == ["m[1]"]
    assert await after.end(run) == ("succeeded", None)


async def test_a_large_run_comes_back_in_chunks(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "CHUNK", 3)
    node = await stage.node(script={f"t{at}": HOLD for at in range(4)})
    run = await stage.submit({f"t{at}": RUN for at in range(10)})
    await stage.go()
    after = await stage.reopened("n")
    await after.take_up(node)
    await after.go()
    for name in tuple(node.held):
        assert await node.finish(name) == "ok"
    await after.go()
    assert await after.end(run) == ("succeeded", None)
    assert len(node.started) == 10


async def test_more_runs_than_are_looked_at_in_one_scan_come_back(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "SCAN", 3)
    await stage.hub.runs.submit_many(workflow({"a": RUN}), [{}] * 20)
    after = await stage.reopened()
    await after.take_up()
    assert after.load.caught_up.is_set()
    assert len(after.load.live) == 20


async def test_a_run_that_cannot_be_compiled_any_more_holds_nobody_up(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    bad = await stage.submit({"bad": RUN})
    good = await stage.submit({"good": RUN})
    digest = (await stage.record.run(bad)).digest
    after = await stage.reopened()
    await after.node()
    definition = after.record.definition

    async def missing(wanted: str) -> bytes:
        if wanted == digest:
            raise SpecError.at("tasks.bad", "no such key any more")
        return await definition(wanted)

    after.record.definition = missing  # type: ignore[method-assign, assignment]
    await after.take_up()
    await after.go(1_000)
    assert (await stage.record.run(bad)).state == RunState.QUEUED
    assert (await after.record.run(good)).state == RunState.SUCCEEDED
    assert caplog.text.count("cannot be taken up") == 1


async def test_a_retry_that_no_engine_heard_of_is_applied(stage: Stage) -> None:
    await stage.node(script={"b": Failed()})
    run = await stage.submit({"a": RUN, "b": RUN | {"needs": ["a"]}})
    await stage.go()
    assert await stage.end(run) == ("failed", "task_failed")
    await stage.record.command(run, "retry", b'{"reason": "again", "tasks": [1]}', stage.clock.now_ms())
    after = await stage.reopened()
    again = await after.node()
    await after.take_up()
    await after.go(1_000)
    assert again.started == ["b"]
    assert await after.end(run) == ("succeeded", None)
    assert counted(after.told)["ended"] == 1


async def test_a_pause_that_was_applied_is_not_applied_again_after_a_resume(stage: Stage) -> None:
    node = await stage.node(script={"a": HOLD})
    run = await stage.submit({"a": RUN, "b": RUN | {"needs": ["a"]}})
    await stage.go()
    await stage.hub.runs.pause(run)
    await stage.hub.runs.resume(run)
    await stage.hub.runs.pause(run)
    await stage.go()
    after = await stage.reopened("n")
    await after.take_up(node)
    await after.go(1_000)
    assert (await after.record.run(run)).paused
    assert counted(after.told)["paused"] == 0
    await after.hub.runs.resume(run)
    await node.finish("a")
    await after.go()
    assert await after.end(run) == ("succeeded", None)


# -- decisions


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("approve", [True, False])
async def test_a_decision_ends_the_wait(stage: Stage, approve: bool, restart: bool) -> None:
    run = await stage.submit({"ask": {"approval": {"message": "Go?"}}})
    await stage.go()
    verdict = Verdict(task=0, attempt=1, approve=approve, by="ann", comment="well", data={"x": 1})
    command = await stage.record.decide(run, 0, 1, msgspec.json.encode(verdict), stage.clock.now_ms())
    server = stage
    if restart:
        server = await stage.reopened()
        await server.take_up()
    else:
        await stage.load.apply(command)
    await server.go(1_000)
    view = await server.hub.runs.view(run)
    if approve:
        assert view.tasks[0].output == {"approved": True, "comment": "well", "by": "ann", "data": {"x": 1}}
    else:
        assert view.tasks[0].error["type"] == "Rejected"
        assert view.tasks[0].error["message"] == "rejected by ann: well"
    assert view.state == ("succeeded" if approve else "failed")


async def test_a_child_run_is_loaded_though_no_more_fits(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its parent may be what keeps the others out."""
    monkeypatch.setattr("skep.engine.memory.runs.MAX_TASKS", 2)
    await stage.node(script={"a": HOLD})
    parent = await stage.submit({"a": RUN, "b": RUN | {"needs": "a"}})
    await stage.go()
    other = await stage.submit({"c": RUN})
    await stage.go()
    assert stage.load.full
    row = await stage.record.run(parent)
    child = await stage.hub.runs.submit(workflow({"d": RUN}), parent=row, parent_task=0)
    await stage.go()
    assert await stage.end(child) == ("succeeded", None)
    assert (await stage.end(other))[0] == "queued"
