"""Runs: accepted once, seen as recorded, refused when wrong."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from skep.errors import NotFoundError, RefusedError, RunFailedError, SpecError, WrongStateError
from skep.hub.runs import MAX_INPUTS
from skep.ids import new_id
from skep.model.node import LogChunk
from skep.model.state import RunState
from skep.testing.stage import HOLD, Failed, Stage, counted, workflow

RUN: dict[str, Any] = {"run": "true"}


# -- submit


async def test_the_same_id_again_is_the_same_run(stage: Stage) -> None:
    node = await stage.node(script={"a": HOLD})
    run = new_id(stage.clock.now_ms())
    assert await stage.submit({"a": RUN}, run_id=run) == run
    await stage.go()
    assert await stage.submit({"a": RUN}, run_id=run) == run
    await stage.go()
    await node.finish("a")
    await stage.go()
    assert await stage.submit({"a": RUN}, run_id=run) == run
    await stage.go(120_000)
    await stage.go()
    assert await stage.submit({"a": RUN}, run_id=run) == run, "long after its end, when the engine has forgotten it"
    await stage.go(1_000)
    assert node.started == ["a"]
    assert counted(stage.told)["loaded"] == 1
    assert (await stage.hub.runs.wait(run)).label == "succeeded"


async def test_an_id_that_is_known_with_another_definition_is_refused(stage: Stage) -> None:
    run = await stage.submit({"a": RUN}, run_id="r")
    with pytest.raises(RefusedError, match="run r is known with another definition; use a new id"):
        await stage.submit({"b": RUN}, run_id=run)


async def test_the_same_key_again_is_the_first_run(stage: Stage) -> None:
    node = await stage.node()
    first = await stage.submit({"a": RUN}, idempotency_key="k")
    await stage.go()
    assert await stage.submit({"a": RUN}, idempotency_key="k") == first
    assert await stage.submit({"a": RUN}, idempotency_key="k", namespace="other") != first
    await stage.go()
    assert node.started == ["a", "a"]
    with pytest.raises(RefusedError, match=r"belongs to run .* with another body"):
        await stage.submit({"b": RUN}, idempotency_key="k")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"y": 1}, r"inputs\.y: there is no such input"),
        ({}, r"inputs\.x: is required: give it a value"),
        ({"x": object()}, "inputs: must be JSON"),
        ({"x": [None, float("nan")]}, "inputs: must be JSON: JSON has no nan"),
        ({"x": "a" * MAX_INPUTS}, "inputs: have 8,388,616 bytes, 8,388,608 are allowed; pass a path or URL instead"),
    ],
)
async def test_wrong_inputs_are_refused_and_nothing_is_accepted(stage: Stage, values: dict[str, Any], message: str) -> None:
    spec = workflow({"a": RUN}, required=["x"])
    with pytest.raises(SpecError, match=message):
        await stage.hub.runs.submit_many(spec, [{"x": 1}, values])
    assert await stage.record.unfinished("engine") == 0


async def test_a_wrong_workflow_is_refused(stage: Stage) -> None:
    with pytest.raises(SpecError, match=r"tasks\.a\.needs: there is no task 'b'"):
        await stage.submit({"a": RUN | {"needs": ["b"]}})


async def test_many_runs_are_accepted_in_one_commit(stage: Stage) -> None:
    await stage.node()
    before = stage.record.writer.commits
    runs = await stage.hub.runs.submit_many(
        workflow({"a": {"run": "x ${{ inputs.n }}"}}, inputs={"n": 0}), [{"n": 1}, {"n": 2}]
    )
    assert stage.record.writer.commits == before + 1
    await stage.go()
    assert [(await stage.hub.runs.view(run)).inputs for run in runs] == [{"n": 1}, {"n": 2}]
    assert {await stage.end(run) for run in runs} == {("succeeded", None)}


def test_run_ids_are_of_version_7_and_sort_by_time() -> None:
    ids = [new_id(1_750_000_000_000 + at) for at in range(50)]
    assert ids == sorted(ids)
    assert {(one[14], one[19] in "89ab", len(one)) for one in ids} == {("7", True, 36)}
    assert len({new_id(1) for _ in range(50)}) == 50


# -- the end


async def test_wait_ends_with_the_record_and_not_before(stage: Stage) -> None:
    await stage.node()
    run = await stage.submit({"a": RUN})
    waiting = asyncio.ensure_future(stage.hub.runs.wait(run))
    while not stage.engine.core.runs.get(run) or not stage.engine.core.runs[run].state.ended:
        await stage.pass_(stage.load, stage.place)
        await stage.nodes[0].turn()
        await asyncio.sleep(0)
    assert not waiting.done()
    await stage.pass_(stage.transcribe)
    assert (await waiting).label == "succeeded"
    assert (await stage.hub.runs.wait(run)).label == "succeeded"


async def test_wait_gives_up_after_its_timeout(stage: Stage) -> None:
    run = await stage.submit({"a": RUN})
    with pytest.raises(TimeoutError):
        await stage.hub.runs.wait(run, timeout_s=0)
    assert stage.feed._ends == {}


async def test_a_run_that_nobody_knows_is_not_found(stage: Stage) -> None:
    for ask in (stage.hub.runs.wait, stage.hub.runs.view, stage.hub.runs.output, stage.hub.runs.cancel, stage.hub.runs.retry):
        with pytest.raises(NotFoundError):
            await ask("nobody")


async def test_the_output_of_a_run(stage: Stage) -> None:
    await stage.node(script={"a": 4})
    view = await stage.run({"a": RUN}, {"x": 2}, inputs={"x": 1}, output={"y": "${{ tasks.a.output * inputs.x }}"})
    assert await stage.hub.runs.output(view.id) == {"y": 8}


async def test_an_output_that_does_not_work_out_says_so_and_the_run_has_succeeded(stage: Stage) -> None:
    await stage.node(script={"a": 4})
    view = await stage.run({"a": RUN}, output="${{ tasks.a.output.y }}")
    assert view.state == "succeeded"
    assert "the run's `output` does not work out: no key 'y' in a number" in view.output["error"]


async def test_the_error_of_a_failed_run_names_the_failures(stage: Stage) -> None:
    await stage.node(script={"a": Failed("ValueError", "bad")})
    run = await stage.submit({"a": RUN, "b": RUN | {"needs": ["a"]}})
    await stage.go()
    with pytest.raises(RunFailedError, match=r"failed \(task_failed\)\n\na: ValueError: bad") as caught:
        await stage.hub.runs.output(run)
    assert caught.value.exit_code == 1
    assert caught.value.failures == (("a", "ValueError: bad"),)


async def test_a_view_has_children_right_after_their_map(stage: Stage) -> None:
    await stage.node(script={"m": lambda grant: grant.task})
    view = await stage.run({"m": RUN | {"map": "range(2)"}, "z": RUN})
    assert [(task.name, task.index) for task in view.tasks] == [("m", 0), ("m[0]", 2), ("m[1]", 3), ("z", 1)]
    assert view.tasks[0].output == [2, 3]
    assert msgspec.json.decode(msgspec.json.encode(view))["tasks"][1]["history"][0]["state"] == "succeeded"


async def test_a_run_that_has_not_begun_shows_its_tasks(stage: Stage) -> None:
    run = await stage.submit({"a": RUN, "b": RUN | {"needs": ["a"]}}, labels={"team": "x"}, priority=7)
    view = await stage.hub.runs.view(run)
    assert (view.state, view.labels, view.priority) == ("queued", {"team": "x"}, 7)
    assert [(task.name, task.state) for task in view.tasks] == [("a", "waiting"), ("b", "waiting")]


# -- retry


async def test_retry_takes_up_what_did_not_succeed(stage: Stage) -> None:
    node = await stage.node(script={"b": Failed()})
    run = await stage.submit({"a": RUN, "b": RUN | {"needs": ["a"]}, "c": RUN | {"needs": ["b"]}, "d": RUN})
    await stage.go()
    assert (await stage.end(run))[0] == "failed"
    node.script = {}
    await stage.hub.runs.retry(run)
    waiting = asyncio.ensure_future(stage.hub.runs.wait(run))
    await asyncio.sleep(0)
    await stage.go()
    assert (await waiting).label == "succeeded"
    assert sorted(node.started) == ["a", "b", "b", "c", "d"]
    assert [task.attempts for task in (await stage.hub.runs.view(run)).tasks] == [1, 2, 1, 1]


async def test_only_a_run_that_has_ended_can_be_retried(stage: Stage) -> None:
    await stage.node(script={"a": HOLD})
    run = await stage.submit({"a": RUN})
    await stage.go()
    with pytest.raises(WrongStateError, match="is running; only a run that has ended can be retried"):
        await stage.hub.runs.retry(run)
    assert (await stage.record.run(run)).command == 0


async def test_a_cancelled_run_of_which_all_succeeded_is_not_retried_and_stays_what_it_was(stage: Stage) -> None:
    node = await stage.node(script={"a": HOLD})
    run = await stage.submit({"a": RUN, "b": RUN | {"when": False}})
    await stage.go()
    node.deaf = True
    await stage.hub.runs.cancel(run)
    await stage.go()
    await node.finish("a")
    await stage.go()
    before = await stage.record.run(run)
    assert RunState(before.state) is RunState.CANCELLED
    with pytest.raises(WrongStateError, match=r"nothing of run .* is left to do; name the tasks"):
        await stage.hub.runs.retry(run)
    assert await stage.record.run(run) == before
    await stage.hub.runs.retry(run, ["a"])
    await stage.go()
    assert node.started == ["a", "a"]


async def test_a_retry_that_another_overtook_is_refused(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    node = await stage.node(script={"a": Failed()})
    run = await stage.submit({"a": RUN})
    await stage.go()
    node.script = {}
    restore = stage.record.restore

    async def slowly(runs: list[str]) -> Any:
        """While it looks what there is to do, another one does it, to the end."""
        known = await restore(runs)
        monkeypatch.undo()
        await stage.hub.runs.retry(run)
        await stage.go()
        return known

    monkeypatch.setattr(stage.record, "restore", slowly)
    with pytest.raises(WrongStateError, match="was told something else a moment ago"):
        await stage.hub.runs.retry(run)
    row = await stage.record.run(run)
    assert (RunState(row.state), row.command) == (RunState.SUCCEEDED, 1)
    assert node.started == ["a", "a"]


async def test_a_run_cancelled_before_it_began_is_retried_whole(stage: Stage) -> None:
    run = await stage.submit({"a": RUN, "b": RUN | {"needs": ["a"]}})
    await stage.hub.runs.cancel(run)
    await stage.go()
    assert (await stage.hub.runs.wait(run)).label == "cancelled"
    node = await stage.node()
    await stage.hub.runs.retry(run)
    await stage.go()
    assert node.started == ["a", "b"]


# -- what tasks wrote


async def test_logs_of_a_map_that_unfolds_while_they_are_followed(stage: Stage) -> None:
    run = await stage.submit({"each": {"run": "x", "map": [1, 2]}})
    stream = stage.hub.runs.logs(run, task="each", follow=True)
    first = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    assert not first.done()
    await stage.go()
    await stage.hub.work.log([LogChunk(run, 2, 1, "out", 0, 0, b"hello")])
    stage.feed.stir([run])
    assert [(line.task, line.text) for line in await first] == [("each[1]", "hello")]


# -- unique


async def test_while_a_unique_run_goes_on_another_submission_is_that_run(stage: Stage) -> None:
    given: dict[str, Any] = {"inputs": {"repo": "main"}, "unique": "build ${{ inputs.repo }}"}
    first = await stage.submit({"a": RUN}, **given)
    assert await stage.submit({"a": RUN}, {"repo": "main"}, **given) == first
    other = await stage.submit({"a": RUN}, {"repo": "dev"}, **given)
    assert other != first
    assert await stage.submit({"b": RUN}, name="other", unique="build main") == first, "keys are the namespace's"
    assert await stage.submit({"a": RUN}, **given, namespace="team") != first
    await stage.hub.runs.cancel(first)
    await stage.go()
    assert await stage.submit({"a": RUN}, {"repo": "dev"}, **given) == other
    assert await stage.submit({"a": RUN}, {"repo": "main"}, **given) != first, "its key is free"


async def test_the_key_of_a_submission_counts_in_place_of_the_workflows_own(stage: Stage) -> None:
    spec = workflow({"a": RUN}, unique="own")
    first = await stage.hub.runs.submit(spec, unique="mine")
    assert await stage.hub.runs.submit(spec) != first
    assert await stage.hub.runs.submit(spec, unique="mine") == first


async def test_child_runs_are_never_unique(stage: Stage) -> None:
    spec = workflow({"a": RUN}, unique="k")
    parent = await stage.record.run(await stage.hub.runs.submit(spec))
    children = {await stage.hub.runs.submit(spec, parent=parent, parent_task=task) for task in (0, 1)}
    assert len({parent.id, *children}) == 3


@pytest.mark.parametrize(
    ("unique", "message"),
    [
        ("${{ tasks.a.output }}", r"unique: .*may name inputs, not tasks"),
        ("${{ inputs.y }}", "unique: there is no input 'y'"),
        ("${{ item }}", "unique: `item` and `index` are only for"),
        ("${{ secrets.x }}", "unique: secrets are only for"),
        ("${{ inputs.x.y }}", "unique: "),
        ("${{ inputs.x[:0] }}", "unique: comes to 0 bytes"),
        ("x" * 1_001, "unique: comes to 1,001 bytes, expected 1 to 1,000"),
        ("", "unique: found '', expected a text"),
    ],
)
async def test_a_unique_key_that_is_none_is_refused(stage: Stage, unique: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        await stage.submit({"a": RUN}, inputs={"x": "text"}, unique=unique)
