"""Tasks: one of them, what they wait for, and who decides."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from skep.errors import NotFoundError, RefusedError, SpecError, WrongStateError
from skep.hub import answered
from skep.ids import child_run_id
from skep.testing.stage import HOLD, Failed
from skep.testing.timed import TimedStage

MINUTE = 60_000
RUN: dict[str, Any] = {"run": "true"}
ASK: dict[str, Any] = {"approval": "ship ${{ inputs.what }}?"}
FORM = {"type": "object", "properties": {"version": {"type": "string"}}, "required": ["version"]}


@pytest.fixture
async def stage() -> AsyncIterator[TimedStage]:
    async with TimedStage() as made:
        yield made


async def asked(stage: TimedStage, question: dict[str, Any] = ASK, **more: Any) -> str:
    """A run that waits for an approval."""
    run = await stage.submit({"a": question} | more, inputs={"what": "it"})
    await stage.go()
    return run


# -- one task


async def test_a_task_with_its_output_and_history(stage: TimedStage) -> None:
    outcomes = iter([Failed(), {"x": 1}])
    await stage.node(script={"a": lambda grant: next(outcomes)})
    run = await stage.submit({"a": RUN | {"retries": {"limit": 1, "delay": 0}}})
    await stage.go()
    await stage.go(1)
    view = await stage.tasks.get(run, "a")
    assert (view.state, view.output, view.attempts) == ("succeeded", {"x": 1}, 2)
    assert [attempt.state for attempt in view.history] == ["failed", "succeeded"]


async def test_a_map_and_its_children(stage: TimedStage) -> None:
    await stage.node(script={"m": lambda grant: grant.task})
    run = await stage.submit({"z": RUN, "m": RUN | {"map": "range(2)"}})
    await stage.go()
    assert (await stage.tasks.get(run, "m")).output == [2, 3]
    assert (await stage.tasks.get(run, "m[1]")).output == 3
    for name in ("m[2]", "y"):
        with pytest.raises(NotFoundError, match="has no task"):
            await stage.tasks.get(run, name)


# -- waits


async def test_what_tasks_wait_for(stage: TimedStage) -> None:
    await stage.node(script={"k": HOLD})
    kid = {"name": "kid", "tasks": {"k": RUN}}
    run = await asked(
        stage,
        {"approval": {"message": "ship?", "form": FORM, "deadline": "1h"}},
        c={"uses": {"workflow": kid}, "map": "range(1)"},
        e={"wait_for": {"event": "go", "key": "1"}},
    )
    other = await asked(stage)
    views = {view.task: view for view in await stage.tasks.waits(run=run)}
    assert set(views) == {"a", "c[0]", "e"}
    assert (views["a"].message, views["a"].form, views["a"].due_ms) == ("ship?", FORM, views["a"].since_ms + 60 * MINUTE)
    assert views["c[0]"].child == child_run_id(run, views["c[0]"].index, 1)
    assert (views["e"].event, views["e"].key, views["e"].due_ms) == ("go", "1", None)
    assert [(view.run, view.message) for view in await stage.tasks.waits(kind="approval")] == [
        (run, "ship?"),
        (other, "ship it?"),
    ]
    assert await stage.tasks.waits(namespace="other") == []
    with pytest.raises(RefusedError, match="kind: found 'person', expected one of approval, child, event"):
        await stage.tasks.waits(kind="person")


# -- decisions


async def test_approved(stage: TimedStage) -> None:
    await stage.node()
    run = await asked(stage, b=RUN | {"needs": ["a"]})
    assert stage.nodes[0].started == []
    await stage.tasks.approve(run, "a", by="anna", comment="looks good", data={"n": 1})
    await stage.go()
    view = await stage.tasks.get(run, "a")
    assert view.output == {"approved": True, "comment": "looks good", "by": "anna", "data": {"n": 1}}
    assert stage.nodes[0].started == ["b"]


async def test_rejected(stage: TimedStage) -> None:
    run = await asked(stage, ASK | {"retries": 3})
    await stage.tasks.reject(run, "a", by="anna", comment="not on a Friday")
    await stage.go()
    view = await stage.tasks.get(run, "a")
    assert (view.state, view.error) == ("failed", {"type": "Rejected", "message": "rejected by anna: not on a Friday"})
    assert await stage.end(run) == ("failed", "task_failed")


async def test_the_second_is_told_who_was_first_and_when(stage: TimedStage) -> None:
    run = await asked(stage)
    await stage.tasks.approve(run, "a", by="anna")
    first = r"task 'a' was approved by anna on 2025-06-15 15:06:40 UTC"
    with pytest.raises(WrongStateError, match=first):
        await stage.tasks.reject(run, "a", by="bert")
    await stage.go()
    for by in ("bert", "anna"):
        with pytest.raises(WrongStateError, match=first):
            await stage.tasks.approve(run, "a", by=by)
    assert (await stage.tasks.get(run, "a")).output["by"] == "anna"


async def test_only_what_waits_for_an_approval_is_decided(stage: TimedStage) -> None:
    await stage.node(script={"b": HOLD})
    run = await asked(stage, {"wait_for": "go"}, b=RUN, c=RUN | {"needs": ["b"]})
    for name, message in (
        ("a", "'a' does not wait for an approval: it waits for event"),
        ("b", "'b' does not wait for an approval"),
        ("c", "'c' has not begun: nobody is asked yet"),
    ):
        with pytest.raises(WrongStateError, match=message):
            await stage.tasks.approve(run, name, by="anna")
    with pytest.raises(NotFoundError):
        await stage.tasks.approve("nobody", "a", by="anna")
    assert (await stage.record.run(run)).command == 0


async def test_the_form_is_held_against_the_answer(stage: TimedStage) -> None:
    run = await asked(stage, {"approval": {"message": "ship?", "form": FORM}})
    for data, problem in ((None, "data: found nothing, expected object"), ({}, "data.version: is required: give it a value")):
        with pytest.raises(SpecError) as caught:
            await stage.tasks.approve(run, "a", by="anna", data=data)
        assert [str(one) for one in caught.value.problems] == [problem]
    assert (await stage.tasks.waits(run=run))[0].task == "a"
    await stage.tasks.reject(run, "a", by="anna")
    await stage.go()
    assert (await stage.end(run))[0] == "failed"


async def test_a_pattern_is_held_against_the_answer_for_a_time(stage: TimedStage, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own: meanwhile others are answered."""
    form = {"type": "object", "properties": {"version": {"type": "string", "pattern": "^(v+)+$"}}}
    run = await asked(stage, {"approval": {"message": "ship?", "form": form}})
    with pytest.raises(SpecError, match="found 'x', expected what matches"):
        await stage.tasks.approve(run, "a", by="anna", data={"version": "x"})
    monkeypatch.setattr(answered, "LIMIT_S", 0.5)
    with pytest.raises(SpecError, match="too complicated"):
        await stage.tasks.approve(run, "a", by="anna", data={"version": "v" * 60 + "!"})
    monkeypatch.undo()
    await stage.tasks.approve(run, "a", by="anna", data={"version": "vv"})
    await stage.go()
    assert (await stage.end(run))[0] == "succeeded"


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ({"by": " "}, "by: expected who decides"),
        ({"by": "a" * 201}, "by: expected who decides"),
        ({"by": "a", "comment": "x" * 10_001}, "comment: has 10,001 characters, 10,000 are allowed"),
        ({"by": "a", "data": float("nan")}, "data: must be JSON"),
        ({"by": "a", "data": "x" * 70_000}, "data: has 70,"),
    ],
)
async def test_an_answer_that_is_none(stage: TimedStage, answer: dict[str, Any], problem: str) -> None:
    run = await asked(stage)
    with pytest.raises(SpecError, match=problem):
        await stage.tasks.approve(run, "a", **answer)


async def test_a_wait_that_is_over_is_not_shown(stage: TimedStage) -> None:
    run = await asked(stage)
    await stage.hub.runs.cancel(run)
    await stage.go()
    assert await stage.tasks.waits() == []
    with pytest.raises(WrongStateError, match="'a' does not wait for an approval"):
        await stage.tasks.approve(run, "a", by="anna")
