"""Decisions: what becomes of a ready task, from states and outputs that are handed in."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from skep.flow.decide import Decision, Expand, Facts, Fail, Park, Skip, Start, Upstream, decide, items_of, run_output
from skep.flow.evaluation import ExpressionError
from skep.flow.plan import Plan, compile_plan
from skep.model.authoring import build_workflow
from skep.model.node import Call
from skep.model.run import EXCLUSIVE, Claim, Rate, ReadyTask, claim_words
from skep.model.spec import WorkflowSpec
from skep.model.state import TaskState
from skep.model.wait import Wait

S, F, C, K = TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED, TaskState.SKIPPED
RUN = {"run": "true"}
PLAIN = Start(msgspec.json.encode(Call("run", "true")))


def plan(tasks: dict[str, Any], **given: Any) -> Plan:
    return compile_plan(build_workflow({"name": "w", "tasks": tasks, "inputs": {"x": None}} | given))


def facts(made: Plan, upstream: dict[str, Any] | None = None, **inputs: Any) -> Facts:
    """`upstream`: name to state, or to (state, output, error)."""
    seen = {
        made.index[name]: Upstream(*end) if isinstance(end, tuple) else Upstream(end) for name, end in (upstream or {}).items()
    }
    return Facts(made, {"id": "r", "workflow": "w", "namespace": "team"}, inputs, seen)


def ready(task: int = 0, failing: bool = False, unmet: int = 0, attempts: int = 0) -> ReadyTask:
    return ReadyTask("r", task, 1, failing, unmet, attempts, 0)


def child(at: int = 0, parent: int = 0, failing: bool = False, attempts: int = 0) -> ReadyTask:
    return ReadyTask("r", 10 + at, 1, failing, 0, attempts, 0, parent, at)


def call(decision: Decision) -> Call:
    assert isinstance(decision, Start), decision
    return msgspec.json.decode(decision.call, type=Call)


def decided(task: dict[str, Any], seen: ReadyTask | None = None, **inputs: Any) -> Decision:
    return decide(facts(plan({"a": task}), **inputs), seen or ready())


# -- the failure semantics: what a task does after one that it needs ended so


@pytest.mark.parametrize(
    ("when", "after_success", "after_failure", "in_a_failing_run"),
    [
        (None, PLAIN, Skip("upstream"), Skip("run_failed")),
        ("true", PLAIN, Skip("upstream"), Skip("run_failed")),
        ("false", Skip("when"), Skip("upstream"), Skip("run_failed")),
        ("always()", PLAIN, PLAIN, PLAIN),
        ("failed()", Skip("when"), PLAIN, Skip("when")),
        ("failed('up')", Skip("when"), PLAIN, Skip("when")),
        ("not failed()", PLAIN, Skip("when"), PLAIN),
        ("succeeded()", PLAIN, Skip("upstream"), Skip("run_failed")),
        ("succeeded('up')", PLAIN, Skip("upstream"), Skip("run_failed")),
        ("skipped('up')", Skip("when"), Skip("upstream"), Skip("run_failed")),
        ("always() and succeeded('up')", PLAIN, Skip("when"), PLAIN),
        ("always() and tasks.up.state == 'failed'", Skip("when"), PLAIN, Skip("when")),
    ],
)
def test_failure_semantics(
    when: str | None, after_success: Decision, after_failure: Decision, in_a_failing_run: Decision
) -> None:
    made = plan({"up": RUN, "a": RUN | {"needs": ["up"]} | ({"when": when} if when else {})})
    assert decide(facts(made, {"up": S}), ready(1)) == after_success
    assert decide(facts(made, {"up": F}), ready(1, unmet=1, failing=True)) in (after_failure, Skip("run_failed"))
    assert decide(facts(made, {"up": F}), ready(1, unmet=1)) == after_failure
    assert decide(facts(made, {"up": S}), ready(1, failing=True)) == in_a_failing_run


@pytest.mark.parametrize("state", [C, K])
def test_what_a_cancelled_or_skipped_task_leaves_unmet_is_skipped_too(state: TaskState) -> None:
    made = plan({"up": RUN, "a": RUN | {"needs": ["up"]}, "b": RUN | {"when": "skipped('up') or always()"}})
    assert decide(facts(made, {"up": state}), ready(1, unmet=1)) == Skip("upstream")
    assert decide(facts(made, {"up": state}), ready(2, unmet=1)) == PLAIN


def test_what_was_skipped_by_its_own_when_counts_as_met() -> None:
    made = plan({"up": RUN, "a": RUN | {"when": "skipped('up')"}})
    assert decide(facts(made, {"up": K}), ready(1, unmet=0)) == PLAIN


def test_what_has_begun_may_go_on_in_a_run_that_fails() -> None:
    assert decided(RUN, ready(failing=True, attempts=1)) == PLAIN
    assert decided(RUN, ready(failing=True)) == Skip("run_failed")


@pytest.mark.parametrize(("state", "decision"), [(F, PLAIN), (S, Skip("when")), (C, Skip("when")), (K, Skip("when"))])
@pytest.mark.parametrize("failing", [False, True])
def test_a_handler_runs_only_after_the_failure(state: TaskState, decision: Decision, failing: bool) -> None:
    made = plan({"a": RUN | {"on_failure": {"run": "fix"}}, "fix": RUN})
    assert decide(facts(made, {"a": state}), ready(1, failing=failing, unmet=int(state != S))) == decision


def test_a_handler_of_two_runs_after_the_failure_of_either() -> None:
    made = plan({"a": RUN | {"on_failure": {"run": "fix"}}, "b": RUN | {"on_failure": {"run": "fix"}}, "fix": RUN})
    assert decide(facts(made, {"a": S, "b": F}), ready(2, unmet=1)) == PLAIN
    assert decide(facts(made, {"a": S, "b": S}), ready(2)) == Skip("when")


def test_a_handler_may_have_a_condition_of_its_own() -> None:
    made = plan({"a": RUN | {"on_failure": {"run": "fix"}}, "fix": RUN | {"when": "inputs.x"}})
    assert decide(facts(made, {"a": F}, x=False), ready(1, unmet=1)) == Skip("when")
    assert decide(facts(made, {"a": F}, x=True), ready(1, unmet=1)) == PLAIN


# -- what is started


def test_affinity_is_a_text_made_of_inputs_and_items() -> None:
    by_input = {"run": "true", "placement": {"affinity": "s-${{ inputs.x }}"}}
    decision = decided(by_input, x=7)
    assert isinstance(decision, Start)
    assert decision.affinity == "s-7"
    by_item = plan({"a": {"run": "true", "map": [["k"], ["l"]], "placement": {"affinity": "${{ item[0] }}"}}})
    decision = decide(facts(by_item), child(1), [["k"], ["l"]])
    assert isinstance(decision, Start)
    assert decision.affinity == "l"


def test_an_affinity_adds_the_need_for_what_it_names() -> None:
    made = plan({"a": RUN, "b": RUN | {"placement": {"affinity": "${{ tasks.a.output }}"}}})
    assert made.needs == [(), (0,)]


def test_a_call_sees_inputs_outputs_and_the_run() -> None:
    made = plan(
        {"up": RUN, "a": {"python": "m:f", "with": {"v": "${{ tasks.up.output.y }}", "r": "${{ run.id }}-${{ inputs.x }}"}}}
    )
    assert call(decide(facts(made, {"up": (S, {"y": [1]})}, x=2), ready(1))).args == {"v": [1], "r": "r-2"}


def test_locks_are_claimed_in_one_order_and_once() -> None:
    task = RUN | {"locks": [{"name": "z", "shared": True}, "a:${{ inputs.x }}", {"name": "z"}, {"name": "m", "shared": True}]}
    decision = decided(task, x=True)
    assert isinstance(decision, Start)
    assert decision.claims == (
        Claim("lock:team:a:true", EXCLUSIVE, EXCLUSIVE),
        Claim("lock:team:m", 1, EXCLUSIVE),
        Claim("lock:team:z", EXCLUSIVE, EXCLUSIVE),
    )


def test_concurrency_keys_and_rates_are_claimed_with_locks_and_rates_come_last() -> None:
    task = RUN | {
        "rate": [{"key": "api", "per_minute": 7, "burst": 3}, {"key": "api", "per_hour": 60}],
        "locks": ["z"],
        "concurrency": [{"key": "c:${{ inputs.x }}", "limit": 4}, {"key": "one"}],
    }
    decision = decided(task, x=5)
    assert isinstance(decision, Start)
    assert decision.claims == (
        Claim("key:team:c:5", 1, 4),
        Claim("key:team:one", 1, 1),
        Claim("lock:team:z", EXCLUSIVE, EXCLUSIVE),
        Rate("rate:team:hour:api", 60_000_000, 60_000_000),
        Rate("rate:team:minute:api", 8_571_429, 3 * 8_571_429),
    )
    assert [claim_words(claim.key) for claim in decision.claims[1:4]] == [
        "concurrency key 'one'",
        "lock 'z'",
        "rate of 'api' per hour",
    ]


def test_of_what_is_named_twice_the_stricter_counts() -> None:
    """Keys that differ as written may come to the same."""
    task = RUN | {
        "concurrency": [{"key": "a", "limit": 4}, {"key": "${{ inputs.x }}", "limit": 2}],
        "rate": [{"key": "a", "per_second": 10, "burst": 5}, {"key": "${{ inputs.x }}", "per_second": 2}],
    }
    decision = decided(task, x="a")
    assert isinstance(decision, Start)
    assert decision.claims == (Claim("key:team:a", 1, 2), Rate("rate:team:second:a", 500_000, 500_000))


def test_map_children_have_keys_of_their_own() -> None:
    made = plan({"a": {"run": "true", "map": ["x", "y"], "concurrency": {"key": "${{ item }}"}}})
    decision = decide(facts(made), child(1), ["x", "y"])
    assert isinstance(decision, Start)
    assert decision.claims == (Claim("key:team:y", 1, 1),)


@pytest.mark.parametrize(
    "task",
    [
        {"run": "echo ${{ inputs.x.y }}"},
        RUN | {"concurrency": {"key": "${{ inputs.x.y }}"}},
        RUN | {"rate": {"key": "${{ inputs.x.y }}", "per_hour": 1}},
        RUN | {"when": "inputs.x > 1"},
        RUN | {"map": "inputs.x.y"},
        RUN | {"locks": ["${{ 1 / 0 }}"]},
        RUN | {"env": {"A": "${{ inputs.nope }}"}},
    ],
)
def test_an_expression_that_does_not_work_out_fails_the_task(task: dict[str, Any]) -> None:
    made = plan({"a": task}, inputs={"x": None, "nope": 1})
    decision = decide(facts(made, x=None), ready())
    assert isinstance(decision, Fail)
    assert decision.error.type == "Expression"
    assert "at column" in decision.error.message


# -- map


@pytest.mark.parametrize("wanted", ["${{ inputs.x }}", "inputs.x", ["${{ inputs.x[0] }}", "b"]])
def test_a_map_makes_one_child_for_each_item(wanted: Any) -> None:
    assert decided(RUN | {"map": wanted}, x=["a", "b"]) == Expand(["a", "b"])


def test_a_map_over_nothing_is_expanded_over_nothing() -> None:
    assert decided(RUN | {"map": "inputs.x"}, x=[]) == Expand([])


@pytest.mark.parametrize(
    ("value", "kind"),
    [({"a": 1}, "a mapping"), ("ab", "a text"), (3, "a number"), (None, "null"), (True, "true or false")],
)
def test_a_map_over_anything_else_fails_and_says_what_it_was(value: Any, kind: str) -> None:
    decision = decided(RUN | {"map": "inputs.x"}, x=value)
    assert isinstance(decision, Fail)
    assert decision.error.type == "Map"
    assert f"must give a list, got {kind}: " in decision.error.message


def test_children_see_their_item_and_index() -> None:
    made = plan({"a": {"run": "echo ${{ index }} ${{ item }}", "map": "inputs.x"}})
    given = facts(made, x=["it's", "b"])
    assert call(decide(given, child(1), ["it's", "b"])).call == "echo 1 b"
    assert call(decide(given, child(0), items_of(given, child(0)))).call == "echo 0 'it'\"'\"'s'"


def test_a_when_about_the_item_is_decided_for_each_child() -> None:
    made = plan({"a": RUN | {"map": "inputs.x", "when": "item > 1"}})
    given = facts(made, x=[1, 2])
    assert decide(given, ready()) == Expand([1, 2])
    assert [decide(given, child(at), [1, 2]) for at in range(2)] == [Skip("when"), PLAIN]


def test_a_when_about_the_run_is_decided_once_for_all_children() -> None:
    made = plan({"a": RUN | {"map": [1, 2], "when": "inputs.x"}})
    assert decide(facts(made, x=False), ready()) == Skip("when")
    assert decide(facts(made, x=False), child(), [1, 2]) == PLAIN


def test_children_that_have_not_begun_are_skipped_in_a_run_that_fails() -> None:
    made = plan({"a": RUN | {"map": [1, 2]}, "b": RUN | {"map": [1, 2], "when": "always()"}})
    assert decide(facts(made), child(failing=True), [1, 2]) == Skip("run_failed")
    assert decide(facts(made), child(failing=True, attempts=1), [1, 2]) == PLAIN
    assert decide(facts(made), child(parent=1, failing=True), [1, 2]) == PLAIN


def test_the_list_of_a_map_that_no_longer_works_out_is_an_error() -> None:
    made = plan({"a": RUN | {"map": "inputs.x.y"}})
    with pytest.raises(ExpressionError):
        items_of(facts(made, x=1), child())


# -- what the run gives back


def test_a_run_gives_back_what_its_last_tasks_gave() -> None:
    made = plan({"a": RUN, "b": RUN | {"needs": ["a"]}, "c": RUN, "d": RUN})
    assert run_output(facts(made, {"a": (S, 1), "b": (S, 2), "c": (S, None), "d": K})) == {"b": 2, "c": None}


def test_a_run_gives_back_its_output_when_it_has_one() -> None:
    made = plan({"a": RUN}, output={"sum": "${{ tasks.a.output + inputs.x }}", "ok": "${{ succeeded('a') }}"})
    assert run_output(facts(made, {"a": (S, 1)}, x=2)) == {"sum": 3, "ok": True}
    with pytest.raises(ExpressionError):
        run_output(facts(made, {"a": (S, None)}, x=2))


# -- what waits for somebody else


def test_an_approval_parks_with_its_question_filled_in() -> None:
    form = {"type": "object", "properties": {"version": {"enum": "${{ inputs.x }}"}}}
    question = {"message": "Ship ${{ inputs.x[0] }}?", "form": form, "deadline": "2d", "default": "reject"}
    wait = Wait(
        kind="approval",
        timeout_ms=172_800_000,
        message="Ship 1.2?",
        form={"type": "object", "properties": {"version": {"enum": ["1.2", "1.3"]}}},
        default="reject",
    )
    assert decided({"approval": question}, x=["1.2", "1.3"]) == Park(wait)
    assert decided({"approval": "${{ inputs.x }}"}, x=3) == Park(Wait(kind="approval", message="3"))
    wrong = decided({"approval": question | {"message": "?"}}, x=7)
    assert isinstance(wrong, Fail)
    assert wrong.error.message.startswith("what approval.form.properties.version.enum comes to is no part of a form")


def test_an_event_is_waited_for_by_name_and_key() -> None:
    event = {"event": "deploy-${{ inputs.x }}", "key": "${{ inputs.x }}"}
    assert decided({"wait_for": event, "timeout": "1h"}, x=7) == Park(
        Wait(kind="event", timeout_ms=3_600_000, event="deploy-7", key="7")
    )
    assert decided({"wait_for": "deploy"}) == Park(Wait(kind="event", event="deploy"))


def test_a_child_run_parks_with_its_inputs() -> None:
    stored = {"uses": "build@3", "with": {"a": "${{ inputs.x }}"}, "timeout": "1h"}
    assert decided(stored, x=[1]) == Park(Wait(kind="child", timeout_ms=3_600_000, workflow="build@3", inputs={"a": [1]}))
    assert decided({"uses": "${{ inputs.x }}"}, x="test") == Park(Wait(kind="child", workflow="test"))


def test_the_expressions_of_a_workflow_that_is_written_out_are_its_own() -> None:
    inner = {"required": ["y"], "tasks": {"b": {"run": "echo ${{ inputs.y }}"}}}
    task = {"uses": {"workflow": inner, "with": {"y": "${{ inputs.x }}"}}}
    decision = decided(task, x=1)
    assert isinstance(decision, Park)
    child = WorkflowSpec.decode(decision.wait.definition)
    assert (child.name, child.tasks[0].call, decision.wait.inputs) == ("a", "echo ${{ inputs.y }}", {"y": 1})
    assert decision.wait.definition == child.encode()
    assert Wait.decode(decision.wait.encode()) == decision.wait


def test_what_parks_may_be_skipped_mapped_or_fail_like_any_other() -> None:
    assert decided({"approval": "?", "when": "inputs.x"}, x=False) == Skip("when")
    assert decided({"wait_for": "e"}, ready(unmet=1)) == Skip("upstream")
    assert isinstance(decided({"approval": "${{ inputs.x.y }}"}, x=1), Fail)
    made = plan({"a": {"approval": "Ship ${{ item }}?", "map": ["b", "c"]}})
    assert decide(facts(made), ready()) == Expand(["b", "c"])
    assert decide(facts(made), child(1), ["b", "c"]) == Park(Wait(kind="approval", message="Ship c?"))
    assert not made.tasks[0].simple


def test_a_request_is_filled_in_with_texts_where_texts_belong() -> None:
    request = {
        "url": "https://x.org/${{ inputs.x }}",
        "headers": {"X-A": "${{ inputs.x }}", "X-B": "Bearer ${{ secrets.KEY }}"},
        "query": {"q": "${{ inputs.x }}"},
        "json": {"all": "${{ inputs.x }}"},
        "expect": [200, "3xx"],
    }
    made = call(decided({"http": request}, x=[1]))
    assert (made.executor, made.needs_secrets) == ("http", True)
    assert made.call == {
        "url": "https://x.org/[1]",
        "headers": {"X-A": "[1]", "X-B": "Bearer ${{ secrets.KEY }}"},
        "query": {"q": [1]},
        "json": {"all": [1]},
        "expect": [200, "3xx"],
    }
    plain = {"url": "https://x.org/", "body": "$${{ x }}"}
    assert call(decided({"http": plain})).call == {"url": "https://x.org/", "body": "${{ x }}"}
