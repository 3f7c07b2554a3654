"""Waits: child runs, events and patience, and that nothing of them is lost or done twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from skep.errors import RecordError
from skep.ids import child_run_id
from skep.model.node import artifact_of
from skep.model.run import RunView, TaskView
from skep.model.state import RunState
from skep.model.wait import Verdict
from skep.record.protocol import RunFilter, RunRow
from skep.testing.stage import HOLD, Failed, counted, workflow
from skep.testing.time import VirtualLoop
from skep.testing.timed import TimedStage
from skep.upkeep.children import DEEPEST

MINUTE = 60_000
DAY = 86_400_000
KID: dict[str, Any] = {"name": "kid", "tasks": {"k": {"run": "true"}}}
CHILD: dict[str, Any] = {"uses": {"workflow": KID}}
ASK: dict[str, Any] = {"approval": "ship it?"}
HEAR: dict[str, Any] = {"wait_for": {"event": "go", "key": "1"}}


@pytest.fixture
async def stage() -> AsyncIterator[TimedStage]:
    async with TimedStage() as made:
        yield made


async def runs(stage: TimedStage, **wanted: Any) -> list[RunRow]:
    """The oldest first."""
    return (await stage.record.list_runs(RunFilter(**wanted), limit=1_000)).runs[::-1]


async def child_of(stage: TimedStage, run: str, task: int = 0, attempt: int = 1) -> RunRow:
    return await stage.record.run(child_run_id(run, task, attempt))


def task(view: RunView, name: str) -> TaskView:
    return next(one for one in view.tasks if one.name == name)


def error(view: RunView, name: str) -> tuple[str, str]:
    found = task(view, name).error
    return found["type"], found["message"]


# -- child runs


async def test_the_output_of_the_child_is_that_of_the_task(stage: TimedStage) -> None:
    await stage.node(script={"k": {"n": 5}})
    view = await stage.run({"c": CHILD, "d": {"run": "echo ${{ tasks.c.output.k.n }}"}})
    assert view.state == "succeeded"
    assert task(view, "c").output == {"k": {"n": 5}}
    assert stage.nodes[0].calls["d"].call == "echo 5"


async def test_a_child_takes_over_what_its_parent_is(stage: TimedStage) -> None:
    await stage.node(script={"k": HOLD})
    spec = workflow(
        {"c": {"uses": {"workflow": KID | {"inputs": {"x": 0}}, "with": {"x": "${{ inputs.y }}"}}}}, inputs={"y": 7}
    )
    run = await stage.hub.runs.submit(spec, priority=9, labels={"team": "a"}, namespace="lab", base="/somewhere")
    await stage.go()
    child = await child_of(stage, run)
    assert (child.parent, child.depth, child.namespace, child.priority) == ((run, 0), 1, "lab", 9)
    assert (child.labels, child.base, child.inputs) == ({"team": "a"}, "/somewhere", b'{"x":7}')


async def test_why_a_child_failed_is_why_its_task_did(stage: TimedStage) -> None:
    await stage.node(script={"k": Failed("ValueError", "no such thing")})
    view = await stage.run({"c": CHILD})
    child = child_run_id(view.id, 0, 1)
    assert view.state == "failed"
    assert error(view, "c") == ("ChildFailed", f"run {child} failed (task_failed): k: ValueError: no such thing")


async def test_a_retry_is_another_child(stage: TimedStage) -> None:
    outcomes = iter([Failed(), Failed(), 3])
    await stage.node(script={"k": lambda grant: next(outcomes)})
    run = await stage.submit({"c": CHILD | {"retries": {"limit": 2, "delay": "10s", "jitter": 0}}})
    await stage.go()
    assert (await stage.states(run))["c"].startswith("delayed")
    await stage.go(10_000)
    await stage.go(20_000)
    view = await stage.hub.runs.view(run)
    assert (view.state, task(view, "c").output, task(view, "c").attempts) == ("succeeded", {"k": 3}, 3)
    states = [RunState((await child_of(stage, run, attempt=attempt)).state).label for attempt in (1, 2, 3)]
    assert states == ["failed", "failed", "succeeded"]


async def test_no_more_retries_than_there_are(stage: TimedStage) -> None:
    await stage.node(script={"k": Failed()})
    run = await stage.submit({"c": CHILD | {"retries": {"limit": 1, "delay": 0}}})
    await stage.go()
    await stage.go(1)
    assert await stage.end(run) == ("failed", "task_failed")
    assert len(await runs(stage, parent=run)) == 2


async def test_a_stored_workflow_by_its_version(stage: TimedStage) -> None:
    await stage.node(script={"k": 1, "other": 2})
    for digest, tasks in (("d1", {"k": {"run": "true"}}), ("d2", {"other": {"run": "true"}})):
        body = workflow(tasks, name="kid").encode()
        await stage.record.put_definition("default", "kid", digest, body, "", stage.clock.now_ms())
    view = await stage.run({"a": {"uses": "kid@1"}, "b": {"uses": "kid"}})
    assert [task(view, name).output for name in ("a", "b")] == [{"k": 1}, {"other": 2}]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"uses": "nothing"}, "nothing"),
        ({"uses": "kid@9"}, "kid"),
        ({"uses": "${{ 'kid@x' }}"}, "expected a name, or name@version such as kid@3"),
        ({"uses": "kid", "with": {"y": 1}}, "inputs.y: there is no such input"),
        ({"uses": "kid", "with": "${{ [1] }}"}, "`with` must give a mapping"),
    ],
)
async def test_a_child_that_is_refused_fails_the_task_and_is_not_tried_again(
    stage: TimedStage, wanted: dict[str, Any], message: str
) -> None:
    await stage.record.put_definition("default", "kid", "d", workflow(KID["tasks"]).encode(), "", stage.clock.now_ms())
    view = await stage.run({"c": wanted | {"retries": 3}})
    kind, text = error(view, "c")
    assert (view.state, kind) == ("failed", "Refused")
    assert message in text
    assert await runs(stage, parent=view.id) == []


async def test_nine_deep_is_too_deep(stage: TimedStage) -> None:
    body = workflow({"c": {"uses": "w"}}).encode()
    await stage.record.put_definition("default", "w", "d", body, "", stage.clock.now_ms())
    view = await stage.run({"c": {"uses": "w"}})
    every = await runs(stage)
    assert sorted(run.depth for run in every) == list(range(DEEPEST + 1))
    assert {RunState(run.state).label for run in every} == {"failed"}
    deepest = next(run for run in every if run.depth == DEEPEST)
    kind, text = error(await stage.hub.runs.view(deepest.id), "c")
    assert (view.state, kind) == ("failed", "Refused")
    assert "nested 8 deep" in text


async def test_children_of_a_map(stage: TimedStage) -> None:
    await stage.node(script={"k": lambda grant: grant.run})
    view = await stage.run({"m": CHILD | {"map": "range(3)"}})
    ids = [child_run_id(view.id, index, 1) for index in (1, 2, 3)]
    assert task(view, "m").output == [{"k": run} for run in ids]


async def test_a_retry_of_one_of_a_map(stage: TimedStage) -> None:
    outcomes = iter([Failed(), 1])
    await stage.node(script={"k": lambda grant: next(outcomes)})
    run = await stage.submit({"m": CHILD | {"map": "range(1)", "retries": {"limit": 1, "delay": 0}}})
    await stage.go()
    await stage.go(1)
    assert (await stage.end(run))[0] == "succeeded"


async def test_a_large_output_becomes_an_artifact(stage: TimedStage) -> None:
    await stage.node(script={"k": "x" * 100_000})
    view = await stage.run({"c": CHILD})
    row = await stage.record.task(view.id, 0)
    assert row is not None
    assert artifact_of(row.output)
    assert task(view, "c").output == {"k": "x" * 100_000}


async def test_two_hundred_parents_on_two_slots(stage: TimedStage) -> None:
    """Parents hold no slot, so their children find one."""
    await stage.node(slots=2)
    spec = workflow({"c": CHILD})
    submitted = await stage.hub.runs.submit_many(spec, [{}] * 200)
    await stage.go()
    assert {(await stage.record.run(run)).state for run in submitted} == {RunState.SUCCEEDED}
    assert len(stage.nodes[0].started) == 200


# -- the end of what waits


async def test_cancelling_the_parent_cancels_the_child(stage: TimedStage) -> None:
    node = await stage.node(script={"k": HOLD})
    run = await stage.submit({"c": CHILD})
    await stage.go()
    await stage.hub.runs.cancel(run)
    await stage.go()
    child = await child_of(stage, run)
    assert (RunState(child.state).label, child.reason, child.command) == ("cancelled", "parent", 1)
    assert node.stops == [("k", "cancel")]
    assert (await stage.end(run))[0] == "cancelled"


async def test_a_child_that_is_cancelled_by_itself_fails_the_task_for_good(stage: TimedStage) -> None:
    await stage.node(script={"k": HOLD})
    run = await stage.submit({"c": CHILD | {"retries": 3}})
    await stage.go()
    await stage.hub.runs.cancel(child_run_id(run, 0, 1), "enough")
    await stage.go()
    view = await stage.hub.runs.view(run)
    assert (view.state, error(view, "c")[0]) == ("failed", "ChildFailed")
    assert "cancelled (enough)" in error(view, "c")[1]


async def test_a_task_that_waited_too_long_takes_its_child_along(stage: TimedStage) -> None:
    await stage.node(script={"k": HOLD})
    run = await stage.submit({"c": CHILD | {"timeout": "1m"}})
    await stage.go()
    await stage.go(MINUTE - 2)
    assert (await stage.states(run))["c"] == "parked child"
    await stage.go(2)
    view = await stage.hub.runs.view(run)
    assert (task(view, "c").state, error(view, "c")) == ("failed", ("Timeout", "nothing came within 1m"))
    assert RunState((await child_of(stage, run)).state) == RunState.CANCELLED


async def test_a_task_that_misses_its_deadline_takes_its_child_along(stage: TimedStage) -> None:
    await stage.node(script={"k": HOLD})
    run = await stage.submit({"c": CHILD | {"deadline": "1m"}})
    await stage.go()
    await stage.go(MINUTE)
    assert (await stage.end(run))[0] == "failed"
    assert RunState((await child_of(stage, run)).state) == RunState.CANCELLED


# -- events


async def test_an_event_after_the_wait(stage: TimedStage) -> None:
    run = await stage.submit({"e": HEAR})
    await stage.go()
    await stage.events.send("go", "2", "not this")
    await stage.events.send("stop", "1", "nor this")
    await stage.events.send("go", "1", "nor that", namespace="other")
    await stage.go(1)
    assert (await stage.states(run))["e"] == "parked event"
    await stage.events.send("go", "1", {"x": [1, None]})
    await stage.go(1)
    view = await stage.hub.runs.view(run)
    assert (view.state, task(view, "e").output) == ("succeeded", {"x": [1, None]})


async def test_an_event_before_the_wait(stage: TimedStage) -> None:
    node = await stage.node(script={"a": HOLD})
    await stage.events.send("go", "1", "sent before the run was accepted")
    run = await stage.submit({"a": {"run": "true"}, "e": HEAR | {"needs": ["a"]}})
    await stage.go(1_000)
    await stage.events.send("go", "1", "first")
    await stage.go(1_000)
    await stage.events.send("go", "1", "second")
    await node.finish("a")
    await stage.go()
    assert task(await stage.hub.runs.view(run), "e").output == "first"


async def test_one_event_for_all_who_wait_and_each_gets_its_first(stage: TimedStage) -> None:
    early = [await stage.submit({"e": HEAR}) for _ in range(3)]
    await stage.go(1_000)
    await stage.events.send("go", "1", "one")
    late = await stage.submit({"e": HEAR})
    await stage.go(1_000)
    await stage.events.send("go", "1", "two")
    await stage.go(1_000)
    outputs = [task(await stage.hub.runs.view(run), "e").output for run in (*early, late)]
    assert outputs == ["one", "one", "one", "two"]


async def test_an_event_that_is_sent_again_is_one(stage: TimedStage) -> None:
    first = await stage.events.send("go", "1", 1, id="e1")
    assert await stage.events.send("go", "1", 2, id="e1") == first
    assert [signal.data for signal in await stage.record.signals("default", "go", "1", 0, limit=9)] == [b"1"]


async def test_an_event_that_does_not_come(stage: TimedStage) -> None:
    run = await stage.submit({"e": HEAR | {"timeout": "1m", "retries": {"limit": 1, "delay": "1s", "jitter": 0}}})
    await stage.go()
    await stage.go(MINUTE)
    assert (await stage.states(run))["e"].startswith("delayed")
    await stage.go(1_000)
    assert (await stage.states(run))["e"] == "parked event"
    await stage.events.send("go", "1", "late")
    await stage.go()
    assert task(await stage.hub.runs.view(run), "e").output == "late"


# -- approvals


@pytest.mark.parametrize(("default", "state"), [("approve", "succeeded"), ("reject", "failed")])
async def test_what_counts_when_nobody_answers_in_time(stage: TimedStage, default: str, state: str) -> None:
    run = await stage.submit({"a": {"approval": {"message": "ship?", "deadline": "2d", "default": default}}})
    await stage.go()
    await stage.go(2 * DAY - 1_000)
    assert (await stage.states(run))["a"] == "parked approval"
    await stage.go(1_000)
    view = await stage.hub.runs.view(run)
    assert view.state == state
    if default == "approve":
        assert task(view, "a").output["by"] == "deadline"
    else:
        assert error(view, "a")[0] == "Rejected"


async def test_nobody_answers_and_nothing_counts_then(stage: TimedStage) -> None:
    run = await stage.submit({"a": {"approval": {"message": "ship?", "deadline": "2d"}}})
    await stage.go()
    await stage.go(2 * DAY)
    view = await stage.hub.runs.view(run)
    assert (view.state, error(view, "a")) == ("failed", ("Timeout", "nothing came within 2d"))


async def test_nobody_answers_and_it_is_asked_again(stage: TimedStage) -> None:
    question = {"approval": {"message": "ship?", "deadline": "2d"}, "retries": {"limit": 1, "delay": "1h", "jitter": 0}}
    run = await stage.submit({"a": question})
    await stage.go()
    await stage.go(2 * DAY)
    assert (await stage.states(run))["a"].startswith("delayed")
    await stage.go(60 * MINUTE)
    assert (await stage.states(run))["a"] == "parked approval"
    await stage.tasks.approve(run, "a", by="anna")
    await stage.go()
    assert (await stage.end(run))[0] == "succeeded"


async def test_an_answer_that_is_recorded_when_the_time_is_over_counts(
    stage: TimedStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await stage.submit({"a": {"approval": {"message": "ship?", "deadline": "2d"}}})
    await stage.go()
    stage.clock.advance(2 * DAY)
    apply = stage.load.apply

    async def slowly(command: Any) -> None:
        await stage.pass_(stage.waits)
        await apply(command)

    monkeypatch.setattr(stage.load, "apply", slowly)
    await stage.tasks.approve(run, "a", by="anna")
    await stage.go()
    assert task(await stage.hub.runs.view(run), "a").output["by"] == "anna"


async def test_a_retry_of_the_run_is_another_child(stage: TimedStage) -> None:
    outcomes = iter([Failed(), 1])
    await stage.node(script={"k": lambda grant: next(outcomes)})
    run = await stage.submit({"c": CHILD})
    await stage.go()
    await stage.hub.runs.retry(run)
    await stage.go(1_000)
    assert (await stage.end(run))[0] == "succeeded"
    assert [RunState(child.state).label for child in await runs(stage, parent=run)] == ["failed", "succeeded"]


async def test_whoever_answers_in_time_is_not_overruled(stage: TimedStage) -> None:
    run = await stage.submit({"a": {"approval": {"message": "ship?", "deadline": "2d", "default": "reject"}}})
    await stage.go()
    await stage.go(DAY)
    await stage.tasks.approve(run, "a", by="anna")
    await stage.go(2 * DAY)
    assert (await stage.end(run))[0] == "succeeded"


def test_an_approval_of_nine_days_costs_nothing() -> None:
    """All loops run, on virtual time: until somebody answers nothing wakes for it and nothing is written."""
    loop = VirtualLoop(limit_s=60)

    async def main() -> tuple[int, int]:
        async with TimedStage(clock=loop) as stage:
            passes: list[float] = []
            look = stage.waits.run_once

            async def counting() -> bool:
                passes.append(loop.time())
                return await look()

            stage.waits.run_once = counting  # type: ignore[method-assign]
            stage.loops.remove(stage.schedule)
            stage.parts.promote.longest_s = stage.parts.reap.longest_s = DAY
            for one in stage.loops:
                one.interval_s = DAY  # looks that nobody asked for are not what is counted here
                one.start()
            spec = workflow({"a": {"approval": {"message": "ship?", "deadline": "10d"}}, "b": ASK})
            run = await stage.hub.runs.submit(spec)
            await asyncio.sleep(60)
            before, commits = len(passes), stage.record.writer.commits
            await asyncio.sleep(9 * 86_400)
            cost = len(passes) - before, stage.record.writer.commits - commits
            await stage.tasks.approve(run, "a", by="anna")
            await stage.tasks.approve(run, "b", by="anna")
            assert await stage.hub.runs.wait(run, timeout_s=60) == RunState.SUCCEEDED
            return cost

    assert loop.play(main()) == (0, 0)


# -- a crash in the middle


async def test_a_child_that_was_not_started_yet(stage: TimedStage) -> None:
    run = await stage.submit({"c": CHILD})
    stage.loops.remove(stage.waits)
    await stage.go()
    async with stage.after_a_crash() as after:
        await after.node()
        await after.go()
        assert (await after.end(run))[0] == "succeeded"
        assert len(await runs(after, parent=run)) == 1


async def test_a_child_that_goes_on(stage: TimedStage) -> None:
    await stage.node(script={"k": HOLD})
    run = await stage.submit({"c": CHILD})
    await stage.go()
    async with stage.after_a_crash() as after:
        await after.node(script={"k": 4})
        await after.go()
        assert task(await after.hub.runs.view(run), "c").output == {"k": 4}
        assert len(await runs(after, parent=run)) == 1


async def test_a_child_whose_end_was_recorded_and_not_taken_over(stage: TimedStage) -> None:
    node = await stage.node(script={"k": HOLD})
    run = await stage.submit({"c": CHILD})
    await stage.go()
    stage.loops.remove(stage.waits)
    await node.finish("k", 5)
    await stage.go()
    assert (await child_of(stage, run)).state == RunState.SUCCEEDED
    assert (await stage.states(run))["c"] == "parked child"
    async with stage.after_a_crash() as after:
        await after.go()
        assert task(await after.hub.runs.view(run), "c").output == {"k": 5}


async def test_a_child_whose_parent_was_cancelled_and_that_was_not_told(stage: TimedStage) -> None:
    await stage.node(script={"k": HOLD})
    run = await stage.submit({"c": CHILD})
    await stage.go()
    stage.loops.remove(stage.waits)
    await stage.hub.runs.cancel(run)
    await stage.go()
    assert (await stage.end(run))[0] == "cancelled"
    async with stage.after_a_crash() as after:
        await after.go(1_000)
        await after.go(1_000)
        assert RunState((await child_of(after, run)).state) == RunState.CANCELLED


async def test_an_event_that_was_sent_and_not_heard(stage: TimedStage) -> None:
    run = await stage.submit({"e": HEAR})
    await stage.go(1)
    stage.loops.remove(stage.waits)
    await stage.events.send("go", "1", 6)
    await stage.go()
    async with stage.after_a_crash() as after:
        await after.go()
        assert task(await after.hub.runs.view(run), "e").output == 6


async def test_patience_that_ended_while_nobody_was_there(stage: TimedStage) -> None:
    tasks = {
        "e": HEAR | {"timeout": "1h", "on_failure": "continue"},
        "a": {"approval": {"message": "?", "deadline": "1h", "default": "approve"}},
    }
    run = await stage.submit(tasks)
    await stage.go()
    async with stage.after_a_crash(2 * DAY) as after:
        await after.go()
        view = await after.hub.runs.view(run)
        assert (view.state, error(view, "e")[0], task(view, "a").output["by"]) == ("succeeded", "Timeout", "deadline")


async def test_an_answer_that_was_recorded_and_not_applied(stage: TimedStage) -> None:
    run = await stage.submit({"a": ASK})
    await stage.go()
    verdict = Verdict(task=0, attempt=1, approve=True, by="anna")
    await stage.record.decide(run, 0, 1, msgspec.json.encode(verdict), stage.clock.now_ms())
    async with stage.after_a_crash() as after:
        await after.go()
        assert task(await after.hub.runs.view(run), "a").output["by"] == "anna"


async def test_a_pass_that_fails_is_done_again(stage: TimedStage, monkeypatch: pytest.MonkeyPatch) -> None:
    await stage.node(script={"k": 1})
    heard = await stage.submit({"e": HEAR})
    run = await stage.submit({"c": CHILD})
    await stage.events.send("go", "1", 2)
    stage.clock.advance(1)

    async def fails(*args: Any, **given: Any) -> Any:
        raise RecordError("no room")

    for name in ("signals", "accept", "put_artifact"):
        with monkeypatch.context() as patch:
            patch.setattr(stage.record, name, fails)
            for _ in range(3):
                try:
                    await stage.go()
                except RecordError:
                    pass
    await stage.go()
    assert (await stage.end(run))[0] == (await stage.end(heard))[0] == "succeeded"
    assert counted(stage.told)["ended"] == 3
