"""Outputs that expressions read: from the stream, from the record, from artifacts; never silently nothing."""

from __future__ import annotations

from typing import Any

import pytest

from skep.model.node import artifact_reference
from skep.model.state import TaskState
from skep.testing.stage import Raw, Stage
from skep.upkeep import outputs

READ: dict[str, Any] = {"a": {"run": "true"}, "b": {"run": ["x", "${{ tasks.a.output.n }}"]}}


async def until_ended(stage: Stage, task: int, run: str) -> None:
    """Until the task has ended in the engine; nothing is recorded."""
    for _ in range(10):
        await stage.pass_(stage.load, stage.place)
        for node in stage.nodes:
            await node.turn()
        if stage.engine.core.runs[run].states[task] >= TaskState.SUCCEEDED:
            return
    raise AssertionError("it does not end")


async def test_an_output_is_read_before_it_is_recorded(stage: Stage) -> None:
    node = await stage.node(script={"a": {"n": 1}})
    await until_ended(stage, 1, await stage.submit(READ))
    assert stage.transcribe.mark == 0
    assert node.calls["b"].call == ("x", "1")


async def test_an_output_is_read_when_it_was_recorded_and_trimmed(stage: Stage) -> None:
    node = await stage.node(script={"a": {"n": 2}})
    run = await stage.submit(READ)
    await until_ended(stage, 0, run)
    await stage.pass_(stage.transcribe)
    assert await stage.engine.backlog() == 0
    await stage.go()
    assert node.calls["b"].call == ("x", "2")


async def test_a_placer_that_saw_the_event_before_it_knew_the_run_has_the_output(stage: Stage) -> None:
    """A leader that has just taken over: it reads the stream for one run, and later decides on another."""
    await stage.node(script={"a": {"n": 3}})
    first, second = await stage.submit(READ), await stage.submit(READ)
    await stage.pass_(stage.load, stage.place)
    await stage.nodes[0].turn()
    assert stage.transcribe.mark == 0
    async with Stage(stage.record, stage.engine) as leader:
        known = await leader.catalog.run(first)
        assert known is not None
        await leader.outputs.upstream(known, [0])  # reads past the events of both
        assert leader.catalog.known(second) is None
        await leader.pass_(leader.place)
        await stage.nodes[0].turn()
    assert [stage.engine.core.runs[run].states[1] for run in (first, second)] == [TaskState.SUCCEEDED] * 2
    assert stage.nodes[0].calls["b"].call == ("x", "3")


async def test_only_outputs_that_the_record_has_are_dropped_from_memory(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "KEEP_BYTES", 100)
    tasks: dict[str, Any] = {"a": {"run": "true"}, "m": {"run": "true", "map": "range(20)"}}
    tasks["b"] = {"run": ["x", "${{ tasks.m.output }}", "${{ tasks.a.output }}"]}
    node = await stage.node(script={"m": lambda grant: f"{grant.name:>30}", "a": "x" * 200})
    run = await stage.submit(tasks)
    await until_ended(stage, 2, run)
    assert stage.transcribe.mark == 0
    call = node.calls["b"].call
    assert isinstance(call, tuple)
    assert len(call[1]) > 600, "all twenty, though they are more than may be kept"
    assert call[2] == "x" * 200
    await stage.go()
    again = await stage.run(tasks)
    assert again.state == "succeeded"
    assert stage.outputs._bytes <= 900


async def test_an_artifact_stands_for_its_content(stage: Stage) -> None:
    run = await stage.submit(READ)
    artifact = await stage.hub.work.put_artifact(run, b'{"n": "from afar"}')
    node = await stage.node(script={"a": Raw(artifact_reference(artifact))})
    await stage.go()
    assert node.calls["b"].call == ("x", "from afar")
    view = await stage.hub.runs.view(run)
    assert view.tasks[0].output == {"n": "from afar"}


@pytest.mark.parametrize("output", [artifact_reference("sha256:" + "0" * 64), b"{no json", b"[" * 100_000, b"\xff"])
async def test_an_output_that_cannot_be_had_fails_who_reads_it_and_nobody_else(stage: Stage, output: bytes) -> None:
    node = await stage.node(script={"a": Raw(output)})
    run = await stage.submit(READ)
    other = await stage.submit({"c": {"run": "true"}})
    await stage.go()
    assert stage.place.failures == 0
    task = (await stage.record.tasks(run))[1]
    assert task.reason == "output"
    assert b"output of a task that it reads cannot be had" in task.error
    assert await stage.end(other) == ("succeeded", None)
    assert "b" not in node.started


async def test_what_gave_nothing_reads_as_null(stage: Stage) -> None:
    node = await stage.node(script={"a": Raw(b"")})
    await stage.run({"a": {"run": "true"}, "b": {"run": ["x", "${{ tasks.a.output }}"]}})
    assert node.calls["b"].call == ("x", "null")
