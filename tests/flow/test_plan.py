"""Compiled workflows: what they hold, and every mistake that only the graph and the expressions show."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest

from skep.errors import SpecError
from skep.flow.check import MAX_PROBLEMS
from skep.flow.evaluation import Scope
from skep.flow.plan import SLOT_MS, Plan, check_inputs, compile_plan, order_ms
from skep.model.authoring import build_workflow
from skep.model.node import Call, Requirement
from skep.model.run import MAX_TASKS, Policy
from skep.model.spec import TaskSpec, WorkflowSpec
from skep.router.fit import unroutable

RUN = {"run": "true"}


def workflow(tasks: dict[str, Any], **given: Any) -> WorkflowSpec:
    return build_workflow({"name": "w", "tasks": tasks} | given)


def plan(tasks: dict[str, Any], **given: Any) -> Plan:
    return compile_plan(workflow(tasks, **given))


def call(encoded: bytes | None) -> Call:
    assert encoded is not None
    return msgspec.json.decode(encoded, type=Call)


def scope(**names: Any) -> Scope:
    return Scope(names)


# -- what is wrong


@pytest.mark.parametrize(
    ("tasks", "path", "message"),
    [
        (
            {"a": RUN | {"needs": ["c"]}, "b": RUN | {"needs": ["a"]}, "c": RUN | {"needs": ["b"]}, "d": RUN},
            "tasks",
            "tasks need each other in a cycle: a → c → b → a",
        ),
        ({"a": RUN | {"needs": ["a"]}}, "tasks", "tasks need each other in a cycle: a → a"),
        ({"a": {"run": "echo ${{ tasks.a.output }}"}}, "tasks", "tasks need each other in a cycle: a → a"),
        (
            {"a": RUN | {"on_failure": {"run": "b"}}, "b": RUN, "c": RUN | {"needs": ["b"]}}
            | {"d": RUN | {"needs": ["c"], "on_failure": {"run": "b"}}},
            "tasks",
            "tasks need each other in a cycle: b → d → c → b",
        ),
        ({"lint": RUN, "b": RUN | {"needs": ["lnt"]}}, "tasks.b.needs", "there is no task 'lnt'; did you mean 'lint'?"),
        ({"lint": RUN, "b": RUN | {"needs": ["zzz"]}}, "tasks.b.needs", "there is no task 'zzz'"),
        (
            {"lint": RUN, "b": {"run": "echo ${{ tasks.lnit.output }}"}},
            "tasks.b.run",
            "there is no task 'lnit'; did you mean 'lint'?",
        ),
        ({"lint": RUN, "b": RUN | {"when": "failed('x')"}}, "tasks.b.when", "there is no task 'x'"),
        ({"a": RUN | {"on_failure": {"run": "b"}}}, "tasks.a.on_failure.run", "there is no task 'b'"),
        ({"a": RUN | {"on_failure": {"run": "a"}}}, "tasks.a.on_failure.run", "expected the name of another task"),
        (
            {"a": {"python": "m:f", "with": {"x": "${{ inputs.repro }}"}}},
            "tasks.a.with",
            "there is no input 'repro'; did you mean 'repo'?",
        ),
        ({"a": RUN | {"map": "${{ inputs.nope }}"}}, "tasks.a.map", "there is no input 'nope'"),
        ({"a": RUN | {"locks": ["x:${{ inputs.nope }}"]}}, "tasks.a.locks", "there is no input 'nope'"),
        ({"a": RUN | {"env": {"X": "${{ item }}"}}}, "tasks.a.env", "are only for a task with `map`"),
        ({"a": RUN | {"cwd": "${{ index }}"}}, "tasks.a.cwd", "are only for a task with `map`"),
        ({"a": RUN | {"map": "${{ [item] }}"}}, "tasks.a.map", "and not for its list"),
        ({"a": RUN | {"map": ["${{ item }}"]}}, "tasks.a.map", "and not for its list"),
        ({"a": RUN | {"when": "${{ secrets.x }}"}}, "tasks.a.when", "secrets are only for `run`, `env`, `cwd`, `http` and"),
        ({"a": {"approval": "${{ secrets.x }}"}}, "tasks.a.approval", "secrets are only for"),
        ({"a": {"wait_for": "${{ secrets.x }}"}}, "tasks.a.wait_for", "secrets are only for"),
        ({"a": {"uses": "b", "with": {"y": "${{ secrets.x }}"}}}, "tasks.a.with", "secrets are only for"),
        ({"a": {"http": "http://${{ inputs.no }}"}}, "tasks.a.http", "there is no input 'no'"),
        ({"a": RUN | {"map": ["${{ secrets.x }}"]}}, "tasks.a.map", "secrets are only for"),
        ({"a": RUN | {"locks": ["${{ secrets.x }}"]}}, "tasks.a.locks", "secrets are only for"),
        ({"a": RUN | {"when": "1 +"}}, "tasks.a.when", "expected an expression"),
        ({"a": RUN | {"map": "${{ 1"}}, "tasks.a.map", "expected }} within"),
        ({"a": {"run": "echo '${{ inputs.repo }}'"}}, "tasks.a.run", "quoted already"),
        ({"a": {"run": "cat <<X\n${{ inputs.repo }}\nX"}}, "tasks.a.run", "quoted already"),
        ({"a": {"run": ["echo", "${{ nope }}"]}}, "tasks.a.run", "unknown name 'nope'"),
        ({"a": {"python": "m:${{ inputs.repo }}"}}, "tasks.a.python", "never made from data"),
    ],
)
def test_a_mistake_is_told_with_its_path(tasks: dict[str, Any], path: str, message: str) -> None:
    spec = WorkflowSpec(name="w", tasks=tuple(_spec(name, task) for name, task in tasks.items()), inputs={"repo": "."})
    with pytest.raises(SpecError) as caught:
        compile_plan(spec)
    (problem,) = caught.value.problems
    assert problem.path == path
    assert message in problem.message


def _spec(name: str, task: dict[str, Any]) -> TaskSpec:
    """Past the checks of the fields, where one of them would say it first."""
    if "python" in task:
        return TaskSpec(name=name, executor="python", call=task["python"], args=task.get("with"))
    return workflow({name: task}).tasks[0]


def test_every_mistake_is_told_at_once() -> None:
    tasks = {"a": RUN | {"needs": ["x"], "when": "inputs.y", "map": "${{ secrets.z }}"}, "b": {"run": "'${{ item }}'"}}
    with pytest.raises(SpecError) as caught:
        plan(tasks, output="${{ tasks.q.output }}")
    assert sorted(problem.path for problem in caught.value.problems) == [
        "output", "tasks.a.map", "tasks.a.needs", "tasks.a.when", "tasks.b.run", "tasks.b.run",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("${{ secrets.x }}", "secrets are only for"),
        ({"x": ["${{ item }}"]}, "`item` and `index`"),
        ("${{ tasks.b.output }}", "there is no task 'b'"),
        ("${{ inputs.b }}", "there is no input 'b'"),
        ("${{ open('x') }}", "expected a call"),
    ],
)
def test_the_output_of_a_workflow_is_checked_too(output: Any, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        plan({"a": RUN}, output=output)
    assert [problem.path for problem in caught.value.problems] == ["output"]
    assert message in str(caught.value)


def test_names_used_twice_are_refused() -> None:
    tasks = tuple(TaskSpec(name=name, executor="run", call="true") for name in ("a", "b", "a"))
    with pytest.raises(SpecError, match=r"tasks: names are used twice: a$"):
        compile_plan(WorkflowSpec(name="w", tasks=tasks))


def test_more_tasks_than_a_run_may_have_are_refused_with_both_numbers() -> None:
    task = TaskSpec(name="a", executor="run", call="true")
    with pytest.raises(SpecError, match="200,001 tasks are more than the 200,000 that one run may have; split the run"):
        compile_plan(WorkflowSpec(name="w", tasks=(task,) * (MAX_TASKS + 1)))


def test_a_mistake_in_every_task_of_a_large_workflow_is_told_briefly_and_soon() -> None:
    tasks = tuple(TaskSpec(name=f"task-{at}", executor="run", call="true", needs=(f"tusk-{at}",)) for at in range(20_000))
    began = time.process_time()
    with pytest.raises(SpecError) as caught:
        compile_plan(WorkflowSpec(name="w", tasks=tasks))
    assert time.process_time() - began < 10
    assert len(caught.value.problems) == MAX_PROBLEMS + 1
    assert caught.value.problems[-1].message == "and 19900 more problems"


# -- inputs


def test_inputs_are_what_was_given_over_the_defaults() -> None:
    spec = workflow({"a": RUN}, inputs={"x": 1, "y": 2}, required=["z"])
    assert check_inputs(spec, {"y": 3, "z": None}) == {"x": 1, "y": 3, "z": None}


def test_wrong_inputs_are_refused_each_with_its_path() -> None:
    spec = workflow({"a": RUN}, inputs={"repo": 1}, required=["suite", "mode"])
    with pytest.raises(SpecError) as caught:
        check_inputs(spec, {"rebo": 1, "mode": 1})
    assert [tuple(problem)[:2] for problem in caught.value.problems] == [
        ("inputs.rebo", "there is no such input; did you mean 'repo'?; this workflow has repo, suite, mode"),
        ("inputs.suite", "is required: give it a value"),
    ]
    with pytest.raises(SpecError, match=r"inputs\.x: there is no such input; this workflow has none"):
        check_inputs(workflow({"a": RUN}), {"x": 1})


# -- what a plan holds


def test_references_are_edges_beside_needs_and_handlers() -> None:
    made = plan(
        {
            "a": RUN | {"on_failure": {"run": "fix"}},
            "b": RUN,
            "c": {"run": "echo ${{ tasks.b.output }}", "needs": ["a", "b"]},
            "d": RUN | {"map": "${{ tasks.a.output }}", "when": "succeeded('c')"},
            "fix": RUN,
        },
        output="${{ tasks.d.output }}",
    )
    assert made.needs == [(), (), (0, 1), (0, 2), (0,)]
    assert list(made.shape.pending) == [0, 0, 2, 2, 1]
    assert list(made.shape.roots) == [0, 1]
    assert made.read == {0, 1, 2}
    assert list(made.shape.policies) == [Policy.HANDLE, *[Policy.FAIL] * 4]
    assert made.tasks[3].reads == ("c",)
    assert made.tasks[3].map_reads == ("a",)
    assert made.tasks[4].handles == ("a",)
    assert made.tasks[4].runs_always


def test_only_what_depends_on_the_run_is_rendered_for_each_run() -> None:
    made = plan(
        {
            "fixed": {"run": "echo hi", "env": {"A": "1"}},
            "escaped": {"python": "m:f", "with": {"x": "$${{ y }}"}},
            "open": {"run": "echo ${{ inputs.x }}", "env": {"A": "${{ inputs.n }}", "B": "b"}, "cwd": "${{ inputs.n }}"},
            "words": {"run": ["ls", "${{ inputs.n }}", "${{ inputs.x }}"]},
            "tree": {"python": "m:f", "with": {"deep": [{"n": "${{ inputs.n }}"}], "flat": "n=${{ inputs.n }}"}},
        },
        inputs={"x": "a b", "n": 7},
    )
    fixed, escaped, open_, words, tree = made.tasks
    given = scope(inputs={"x": "a b", "n": 7})
    assert call(fixed.constant_call) == Call("run", "echo hi", env={"A": "1"})
    assert call(escaped.constant_call).args == {"x": "${{ y }}"}
    assert [task.simple for task in made.tasks] == [True, True, False, False, False]
    assert call(open_.render(given)) == Call("run", "echo 'a b'", env={"A": "7", "B": "b"}, cwd="7")
    assert call(words.render(given)).call == ("ls", "7", "a b")
    assert call(tree.render(given)).args == {"deep": [{"n": 7}], "flat": "n=7"}


def test_secrets_stay_expressions_until_the_node_and_nothing_else_does() -> None:
    (task,) = plan({"a": {"run": "x ${{ secrets.key }} ${{ inputs.x }}", "env": {"K": "$${{ k }}"}}}, inputs={"x": 1}).tasks
    made = call(task.render(scope(inputs={"x": "${{ secrets.other }}"})))
    assert made.needs_secrets
    assert task.constant_call is None
    assert made.call == "x ${{ secrets.key }} '$${{ secrets.other }}'"
    assert made.env == {"K": "$${{ k }}"}


def test_equal_tasks_share_one_plan_and_different_ones_do_not() -> None:
    made = plan({"a": RUN, "b": RUN | {"retries": 3}, "c": RUN | {"deadline": 9}, "d": RUN | {"timeout": 9}, "e": {"run": "x"}})
    a, b, *others = made.tasks
    assert a is b
    assert len({id(task) for task in (a, *others)}) == 4
    assert [(task.deadline_ms, task.timeout_ms) for task in made.tasks] == [(0, 0), (0, 0), (9_000, 0), (0, 9_000), (0, 0)]


@pytest.mark.parametrize(
    ("task", "wanted", "takes"),
    [
        (RUN, Requirement("run", (), 1_000), (("slots", 1), ("cpu", 1_000))),
        ({"python": "m:f"}, Requirement("python", app="m"), (("slots", 1),)),
        ({"python": "m:f", "isolation": "process"}, Requirement("python", (), 1_000, app="m"), (("slots", 1), ("cpu", 1_000))),
        (RUN | {"resources": {"cpu": 0, "memory": 5, "vram": 6}}, Requirement("run", (), 0, 5, 6), None),
        (RUN | {"requires": ["ssd", "gpu"]}, Requirement("run", ("gpu", "ssd"), 1_000), None),
    ],
)
def test_what_a_task_needs_of_its_node(task: dict[str, Any], wanted: Requirement, takes: Any) -> None:
    made = plan({"a": task})
    assert made.tasks[0].wanted == wanted
    assert made.tasks[0].takes == takes or takes is None
    assert msgspec.json.decode(made.shape.class_names[made.shape.classes[0]], type=Requirement) == wanted


def test_order_is_priority_first_then_the_longest_way_to_the_end() -> None:
    made = plan(
        {
            "first": RUN | {"estimated_duration": "2m"},
            "then": RUN | {"needs": ["first"], "estimated_duration": "3m"},
            "long": RUN | {"estimated_duration": "2h"},
            "urgent": RUN | {"priority": "critical"},
            "ship": RUN | {"type": "deployment"},
        }
    )
    assert list(made.shape.order_ms) == [
        5 * SLOT_MS + 25_000, 5 * SLOT_MS + 15_000, 6 * SLOT_MS, 10 * SLOT_MS, 8 * SLOT_MS,
    ]  # fmt: skip


def test_ranks_are_times_where_the_longest_way_is_short() -> None:
    made = plan({"a": RUN | {"estimated_duration": "2m"}, "b": RUN | {"needs": ["a"], "estimated_duration": "3m"}})
    assert list(made.shape.order_ms) == [5 * SLOT_MS + 300_000, 5 * SLOT_MS + 180_000]
    assert order_ms(made, [1_000, 2_000], 0) == [5 * SLOT_MS + 3_000, 5 * SLOT_MS + 2_000]
    assert order_ms(made, [0, 0], 9) == [9 * SLOT_MS, 9 * SLOT_MS]


def test_the_priority_of_the_run_holds_where_the_task_names_none() -> None:
    made = plan({"a": RUN, "b": RUN | {"priority": 2}, "c": RUN | {"type": "training"}}, priority=9)
    assert list(made.shape.order_ms) == [9 * SLOT_MS, 2 * SLOT_MS, 9 * SLOT_MS]


def test_a_plan_names_tasks_and_children() -> None:
    made = plan({"a": RUN, "b": RUN | {"map": [1, 2]}})

    class Expansion(msgspec.Struct):
        parent: int
        first: int
        count: int

    assert [made.name(at, [Expansion(1, 2, 2)]) for at in range(5)] == ["a", "b", "b[0]", "b[1]", "#4"]


def test_a_hundred_thousand_plain_tasks_compile() -> None:
    """Nothing in it may be quadratic: that would not come to an end here. How fast it is, `make bench` says."""
    tasks = tuple(
        TaskSpec(name=f"t{at}", executor="run", call=f"echo {at}", needs=(f"t{at - 1}",) if at % 10 else ())
        for at in range(100_000)
    )
    made = compile_plan(WorkflowSpec(name="w", tasks=tasks))
    assert len(made.shape.roots) == 10_000


INNER: dict[str, Any] = {"required": ["x"], "inputs": {"y": 1}, "tasks": {"b": {"run": "echo ${{ inputs.x }}"}}}


@pytest.mark.parametrize(
    ("task", "path", "message"),
    [
        ({"uses": {"workflow": INNER}}, "tasks.a.with.x", "is required"),
        ({"uses": {"workflow": INNER, "with": {"x": 1, "z": 2}}}, "tasks.a.with.z", "there is no such input"),
        (
            {"uses": {"workflow": {"tasks": {"b": {"run": "x", "needs": "c"}}}}},
            "tasks.a.uses.workflow.tasks.b.needs",
            "there is no task 'c'",
        ),
        (
            {"uses": {"workflow": {"tasks": {"b": {"uses": {"workflow": {"tasks": {"c": {"run": "x", "when": "("}}}}}}}}},
            "tasks.a.uses.workflow.tasks.b.uses.workflow.tasks.c.when",
            "expected an expression",
        ),
    ],
)
def test_a_workflow_that_is_written_out_is_checked_with_its_parent(task: dict[str, Any], path: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        plan({"a": task})
    ((found, text, _),) = caught.value.problems
    assert found == path
    assert message in text


def test_inputs_of_a_child_that_an_expression_makes_are_checked_when_it_runs() -> None:
    made = plan({"a": {"uses": {"workflow": INNER, "with": "${{ inputs.x }}"}}}, inputs={"x": {}})
    assert made.tasks[0].parks


def test_what_parks_needs_no_node() -> None:
    made = plan({"a": {"approval": "?"}, "b": {"uses": "c"}, "d": {"wait_for": "e"}, "f": {"http": "http://x"}})
    assert [task.parks for task in made.tasks] == [True, True, True, False]
    assert [task.takes for task in made.tasks] == [(), (), (), (("slots", 1),)]
    assert [unroutable(task.wanted, []) for task in made.tasks] == ["", "", "", "there are no nodes"]
