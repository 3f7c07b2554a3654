"""What a failure does to a run, end to end: from the outcome that a node reports to what the record says."""

from __future__ import annotations

from typing import Any

import pytest

from skep.model.state import TaskState
from skep.testing.stage import HOLD, Failed, Snoozed, Stage

RUN: dict[str, Any] = {"run": "true"}
CHAIN: dict[str, Any] = {"a": RUN, "b": RUN | {"needs": ["a"]}, "c": RUN | {"needs": ["b"]}}


def with_policy(policy: Any) -> dict[str, Any]:
    return {**CHAIN, "b": CHAIN["b"] | {"on_failure": policy}, "side": RUN, "late": RUN | {"needs": ["side"]}}


async def test_what_succeeds_is_recorded_with_what_it_gave(stage: Stage) -> None:
    await stage.node(script={"a": 1, "b": [2], "c": {"x": 3}})
    view = await stage.run(CHAIN)
    assert (view.state, view.reason, view.output) == ("succeeded", None, {"c": {"x": 3}})
    assert [(task.name, task.state, task.attempts, task.node, task.output) for task in view.tasks] == [
        ("a", "succeeded", 1, "n", 1),
        ("b", "succeeded", 1, "n", [2]),
        ("c", "succeeded", 1, "n", {"x": 3}),
    ]


async def test_fail_starts_nothing_new_and_lets_what_runs_end(stage: Stage) -> None:
    node = await stage.node(script={"b": Failed(), "side": HOLD})
    run = await stage.submit(with_policy("fail"))
    await stage.go()
    assert await stage.end(run) == ("running", None)
    assert await node.finish("side") == "ok"
    await stage.go()
    assert await stage.end(run) == ("failed", "task_failed")
    assert await stage.states(run) == {
        "a": "succeeded", "b": "failed", "c": "skipped run_failed", "side": "succeeded", "late": "skipped run_failed",
    }  # fmt: skip
    assert node.stops == []


async def test_cancel_stops_what_runs(stage: Stage) -> None:
    node = await stage.node(script={"b": Failed(), "side": HOLD})
    run = await stage.submit(with_policy("cancel"))
    await stage.go()
    assert await stage.end(run) == ("failed", "task_failed")
    assert await stage.states(run) == {
        "a": "succeeded", "b": "failed", "c": "cancelled task_failed", "side": "cancelled", "late": "cancelled task_failed",
    }  # fmt: skip
    assert node.stops == [("side", "cancel")]


async def test_continue_counts_as_met_with_nothing_as_output(stage: Stage) -> None:
    node = await stage.node(script={"b": Failed()})
    tasks = with_policy("continue") | {"c": {"run": "x", "env": {"B": "${{ tasks.b.output }}-${{ tasks.b.state }}"}}}
    view = await stage.run(tasks)
    assert (view.state, view.reason) == ("succeeded", None)
    assert node.calls["c"].env == {"B": "null-failed"}
    assert view.output == {"c": None, "late": None}


async def test_a_handler_takes_care_and_the_run_goes_on(stage: Stage) -> None:
    node = await stage.node(script={"b": Failed(), "fix": "fixed"})
    view = await stage.run(with_policy({"run": "fix"}) | {"fix": {"run": "x ${{ tasks.b.state }}"}})
    assert {task.name: task.state for task in view.tasks} == {
        "a": "succeeded", "b": "failed", "c": "skipped", "fix": "succeeded", "side": "succeeded", "late": "succeeded",
    }  # fmt: skip
    assert (view.state, view.reason) == ("succeeded", None)
    assert node.calls["fix"].call == "x failed"


TOLD = "${{ tasks.b.error.type }}: ${{ tasks.b.error.message }}"


@pytest.mark.parametrize("recorded", [False, True])
async def test_a_handler_can_say_why(stage: Stage, recorded: bool) -> None:
    """From the stream, or from the record when the stream has it no more."""
    node = await stage.node(script={"b": Failed("OSError", "no room")})
    run = await stage.submit({"b": RUN | {"on_failure": {"run": "tell"}}, "tell": {"run": ["x", TOLD]}})
    if recorded:
        await stage.pass_(stage.load, stage.place)
        await node.turn()
        await stage.pass_(stage.transcribe)
        assert await stage.engine.backlog() == 0
    while "tell" not in node.calls:
        await stage.pass_(stage.load, stage.place)
        assert await node.turn()
    assert (stage.transcribe.mark > 0) is recorded
    assert node.calls["tell"].call == ("x", "OSError: no room")
    await stage.go()
    assert await stage.end(run) == ("succeeded", None)


async def test_why_a_map_failed_is_why_its_first_failed_child_did(stage: Stage) -> None:
    node = await stage.node(script={"b[0]": 1, "b[1]": Failed("First", "one"), "b[2]": Failed("Second", "two")})
    tasks = {
        "b": RUN | {"map": "range(3)", "on_failure": {"run": "tell"}},
        "tell": {"run": ["x", TOLD]},
    }
    view = await stage.run(tasks, output={"why": "${{ tasks.b.error }}"})
    assert node.calls["tell"].call == ("x", "First: one")
    assert (view.state, view.output) == ("succeeded", {"why": {"type": "First", "message": "one"}})


async def test_what_did_not_fail_has_no_error(stage: Stage) -> None:
    node = await stage.node(script={"b": Failed()})
    tasks = {
        "a": RUN,
        "b": RUN,
        "c": RUN | {"needs": ["b"]},
        "tell": {"run": ["x", "${{ tasks.a.error }}", "${{ tasks.c.error }}"], "when": "always()"},
    }
    view = await stage.run(tasks)
    assert view.state == "failed"
    assert node.calls["tell"].call == ("x", "null", "null")


async def test_what_failed_without_an_error_tells_its_reason(stage: Stage) -> None:
    node = await stage.node()
    tasks = {
        "b": RUN | {"deadline": "1s", "requires": ["gpu"], "on_failure": {"run": "tell"}},
        "tell": {"run": ["x", TOLD]},
    }
    run = await stage.submit(tasks)
    await stage.go()
    await stage.go(2_000)
    assert await stage.end(run) == ("succeeded", None)
    assert node.calls["tell"].call == ("x", "Deadline: deadline")


async def test_a_handler_of_what_succeeded_is_skipped_as_met(stage: Stage) -> None:
    await stage.node()
    run = await stage.submit(with_policy({"run": "fix"}) | {"fix": RUN, "after": RUN | {"needs": ["fix"]}})
    await stage.go()
    states = await stage.states(run)
    assert (states["fix"], states["after"]) == ("skipped when", "succeeded")
    assert await stage.end(run) == ("succeeded", None)


@pytest.mark.parametrize(("policy", "state"), [("fail", "failed"), ("continue", "succeeded")])
async def test_cleaning_up_runs_whatever_happened(stage: Stage, policy: str, state: str) -> None:
    node = await stage.node(script={"b": Failed()})
    tidy = RUN | {"needs": ["c"], "when": "always()"}
    run = await stage.submit(with_policy(policy) | {"tidy": tidy, "told": RUN | {"needs": ["b"], "when": "failed()"}})
    await stage.go()
    assert "tidy" in node.started
    assert ("told" in node.started) == (policy == "fail"), "a failure that was declared harmless is none"
    assert (await stage.end(run))[0] == state


async def test_cleaning_up_does_not_run_in_a_cancelled_run(stage: Stage) -> None:
    node = await stage.node(script={"a": HOLD})
    run = await stage.submit(CHAIN | {"tidy": RUN | {"needs": ["c"], "when": "always()"}})
    await stage.go()
    await stage.hub.runs.cancel(run)
    await stage.go()
    assert await stage.end(run) == ("cancelled", "cancelled")
    assert node.started == ["a"]


async def test_what_is_skipped_by_its_own_condition_lets_others_go_on(stage: Stage) -> None:
    node = await stage.node()
    run = await stage.submit({**CHAIN, "b": CHAIN["b"] | {"when": "inputs.deep"}}, {"deep": False}, inputs={"deep": True})
    await stage.go()
    assert node.started == ["a", "c"]
    assert await stage.states(run) == {"a": "succeeded", "b": "skipped when", "c": "succeeded"}


async def test_an_expression_that_fails_fails_its_task_with_the_place(stage: Stage) -> None:
    node = await stage.node(script={"a": {"x": 1}})
    view = await stage.run({**CHAIN, "b": {"run": "echo ${{ tasks.a.output.y }}"}})
    b = view.tasks[1]
    assert (b.state, b.reason, b.attempts) == ("failed", "expression", 0)
    assert b.error["type"] == "Expression"
    assert "no key 'y'; there is x, at column 16" in b.error["message"]
    assert node.started == ["a"]
    assert view.state == "failed"


# -- map


async def test_a_failed_child_fails_its_map_once_the_others_have_ended(stage: Stage) -> None:
    await stage.node(script={"m[1]": Failed(), "m": lambda grant: grant.task})
    run = await stage.submit({"m": RUN | {"map": [1, 2, 3]}, "after": RUN | {"needs": ["m"]}})
    await stage.go()
    states = await stage.states(run)
    assert states["m"] == "failed child_failed"
    assert states["m[1]"] == "failed"
    assert states["after"] == "skipped run_failed"
    assert await stage.end(run) == ("failed", "task_failed")


async def test_a_map_that_continues_has_nothing_in_the_place_of_failed_children(stage: Stage) -> None:
    node = await stage.node(script={"m[1]": Failed(), "m": lambda grant: grant.name})
    tasks = {"m": RUN | {"map": [1, 2, 3], "on_failure": "continue"}, "sum": {"run": ["x", "${{ tasks.m.output }}"]}}
    view = await stage.run(tasks)
    assert node.calls["sum"].call == ("x", '["m[0]",null,"m[2]"]')
    assert view.tasks[0].output == ["m[0]", None, "m[2]"]
    assert view.state == "succeeded"


async def test_a_map_has_nothing_in_the_place_of_skipped_children(stage: Stage) -> None:
    node = await stage.node(script={"m": "ok"})
    tasks = {"m": RUN | {"map": [1, 2, 3], "when": "item != 2"}, "sum": {"run": ["x", "${{ tasks.m.output }}"]}}
    assert (await stage.run(tasks)).state == "succeeded"
    assert node.calls["sum"].call == ("x", '["ok",null,"ok"]')


async def test_a_map_over_nothing_gives_an_empty_list(stage: Stage) -> None:
    node = await stage.node()
    view = await stage.run({"m": RUN | {"map": []}, "sum": {"run": ["x", "${{ tasks.m.output }}"]}})
    assert node.calls["sum"].call == ("x", "[]")
    assert (view.state, view.tasks[0].state) == ("succeeded", "succeeded")


async def test_max_parallel_lets_out_so_many_children_at_once(stage: Stage) -> None:
    node = await stage.node(script={"m": HOLD})
    run = await stage.submit({"m": RUN | {"map": "range(5)", "max_parallel": 2}})
    await stage.go()
    assert node.started == ["m[0]", "m[1]"]
    for at in range(5):
        await node.finish(f"m[{at}]", at)
        await stage.go()
        assert len(node.held) == min(2, 4 - at)
    assert (await stage.hub.runs.view(run)).tasks[0].output == [0, 1, 2, 3, 4]


async def test_a_map_larger_than_a_run_may_be_fails_with_the_number(stage: Stage) -> None:
    await stage.node()
    view = await stage.run({"m": RUN | {"map": "range(199999) + [1]"}, "b": RUN})
    m = view.tasks[0]
    assert (m.state, m.reason) == ("failed", "map")
    assert m.error["message"] == "200,000 children: a run may have 200,000 tasks in all; map over batches"
    assert await stage.end(view.id) == ("failed", "task_failed")


# -- retries


async def test_a_retry_waits_for_its_time(stage: Stage) -> None:
    node = await stage.node(script={"a": lambda grant: Failed() if grant.attempt < 3 else "done"})
    retries = {"limit": 2, "delay": "10s", "factor": 3, "jitter": 0}
    run = await stage.submit({"a": RUN | {"retries": retries}})
    await stage.go()
    assert await stage.states(run) == {"a": "delayed"}
    await stage.go(9_999)
    assert len(node.started) == 1
    await stage.go(1)
    assert len(node.started) == 2
    await stage.go(29_999)
    assert len(node.started) == 2
    await stage.go(1)
    view = await stage.hub.runs.view(run)
    assert (view.state, view.output) == ("succeeded", {"a": "done"})
    assert [(one.attempt, one.state, (one.error or {}).get("type")) for one in view.tasks[0].history] == [
        (1, "failed", "Boom"),
        (2, "failed", "Boom"),
        (3, "succeeded", None),
    ]


@pytest.mark.parametrize(
    ("retries", "attempts"), [(0, 1), (2, 3), ({"limit": 3, "never": ["Boom"]}, 1), ({"limit": 3, "only": ["Other"]}, 1)]
)
async def test_a_task_fails_when_its_retries_are_used_up(stage: Stage, retries: Any, attempts: int) -> None:
    node = await stage.node(script={"a": Failed()})
    run = await stage.submit({"a": RUN | {"retries": retries}})
    for _ in range(5):
        await stage.go(600_000)
    assert len(node.started) == attempts
    assert await stage.end(run) == ("failed", "task_failed")


async def test_a_snooze_uses_up_no_retry(stage: Stage) -> None:
    node = await stage.node(script={"a": lambda grant: Snoozed(5_000) if grant.attempt < 4 else Failed()})
    run = await stage.submit({"a": RUN | {"retries": {"limit": 1, "delay": 0}}})
    for _ in range(4):
        await stage.go(5_000)
    assert len(node.started) == 5
    assert await stage.end(run) == ("failed", "task_failed")


async def test_a_retry_that_is_due_still_runs_in_a_run_that_fails(stage: Stage) -> None:
    await stage.node(script={"a": lambda grant: Failed() if grant.attempt < 2 else "ok", "b": Failed()})
    run = await stage.submit({"a": RUN | {"retries": 1}, "b": RUN})
    await stage.go()
    assert await stage.end(run) == ("running", None)
    await stage.go(10_000)
    assert await stage.states(run) == {"a": "succeeded", "b": "failed"}
    assert await stage.end(run) == ("failed", "task_failed")


# -- time limits


async def test_a_run_that_takes_too_long_fails_with_its_timeout(stage: Stage) -> None:
    node = await stage.node(script={"a": HOLD})
    run = await stage.submit(CHAIN, timeout="1m")
    await stage.go(59_999)
    assert await stage.end(run) == ("running", None)
    await stage.go(1)
    assert node.stops == [("a", "cancel")]
    assert await stage.end(run) == ("failed", "timeout")


async def test_a_missed_deadline_fails_the_task_and_is_not_tried_again(stage: Stage) -> None:
    node = await stage.node(script={"a": HOLD})
    tasks = {"a": RUN | {"deadline": "30s", "retries": 5}, "far": RUN | {"needs": ["a"], "deadline": "40s"}}
    run = await stage.submit(tasks)
    await stage.go()
    assert stage.engine.core.runs[run].states[0] == TaskState.RUNNING
    await stage.go(30_000)
    assert node.stops == [("a", "deadline")]
    assert await stage.states(run) == {"a": "failed deadline", "far": "skipped run_failed"}


async def test_tasks_that_differ_only_in_their_deadline_keep_each_its_own(stage: Stage) -> None:
    seen: dict[str, tuple[int, int]] = {}
    await stage.node(
        script=dict.fromkeys("abc", lambda grant: seen.setdefault(grant.name, (grant.timeout_ms, grant.deadline_ms)))
    )
    await stage.run({"a": RUN, "b": RUN | {"deadline": "30s"}, "c": RUN | {"deadline": "40s", "timeout": "35s"}})
    assert seen == {"a": (0, 0), "b": (0, 30_000), "c": (35_000, 40_000)}
