"""The authoring form: what every key becomes, what is refused and where, and that writing back loses nothing."""

from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skep.errors import Problem, SpecError
from skep.model import keys
from skep.model.authoring import MAX_PROBLEMS, build_task, build_workflow, spec_to_data, task_to_data
from skep.model.spec import (
    ConcurrencySpec,
    LockSpec,
    PlacementSpec,
    RateSpec,
    Resources,
    RetryPolicy,
    TaskSpec,
    WorkflowSpec,
)


def problems(data: Any) -> list[tuple[str, str]]:
    with pytest.raises(SpecError) as caught:
        build_workflow(data)
    return [(problem.path, problem.message) for problem in caught.value.problems]


def task_problems(**data: Any) -> list[tuple[str, str]]:
    return problems({"name": "w", "tasks": {"t": data}})


# -- what a key becomes

TASK_CASES: list[tuple[str, Any, str, Any]] = [
    ("run", "ls -l", "call", "ls -l"),
    ("run", ["sleep", 5, ""], "call", ("sleep", "5", "")),
    ("python", "pkg.mod:f", "call", "pkg.mod:f"),
    ("python", "/a b/c.py:f", "call", "/a b/c.py:f"),
    ("with", {"x": [1, {"y": None}]}, "args", {"x": [1, {"y": None}]}),
    ("with", {"x": (1, 2)}, "args", {"x": [1, 2]}),
    ("http", "https://x.org/${{ inputs.x }}", "call", {"url": "https://x.org/${{ inputs.x }}"}),
    (
        "http",
        {
            "max_bytes": "1KiB",
            "expect": [200, "3xx", 200],
            "json": None,
            "query": {"a": [1, None]},
            "headers": {"X-A": 1},
            "method": "POST",
            "follow_redirects": False,
            "url": "HTTP://x",
        },
        "call",
        {
            "url": "HTTP://x",
            "method": "POST",
            "headers": {"X-A": "1"},
            "query": {"a": [1, None]},
            "json": None,
            "expect": [200, "3xx"],
            "max_bytes": 1_024,
            "follow_redirects": False,
        },
    ),
    ("http", {"url": "${{ inputs.x }}", "body": "", "headers": {}, "expect": 204}, "call", None),
    ("approval", "Ship it?", "call", {"message": "Ship it?"}),
    (
        "approval",
        {"default": "reject", "deadline": "2d", "message": "Ship it?", "form": {"type": "object"}},
        "call",
        {"message": "Ship it?", "form": {"type": "object"}, "deadline_ms": 172_800_000, "default": "reject"},
    ),
    ("uses", "build", "call", {"workflow": "build"}),
    ("uses", "build@3", "call", {"workflow": "build@3"}),
    ("uses", {"workflow": "${{ inputs.x }}"}, "call", {"workflow": "${{ inputs.x }}"}),
    ("wait_for", "deploy done", "call", {"event": "deploy done"}),
    ("wait_for", {"key": "${{ inputs.x }}", "event": "deploy"}, "call", {"event": "deploy", "key": "${{ inputs.x }}"}),
    ("writes", "out", "writes", ("out",)),
    ("writes", ["out/a", "db:main", "out/a"], "writes", ("out/a", "db:main")),
    ("with", "${{ item }}", "args", "${{ item }}"),
    ("with", {}, "args", None),
    ("env", {"A": "x", "B": 1}, "env", {"A": "x", "B": "1"}),
    ("env", {}, "env", None),
    ("cwd", "/tmp", "cwd", "/tmp"),
    ("needs", "a", "needs", ("a",)),
    ("needs", ["a", "b", "a"], "needs", ("a", "b")),
    ("map", "${{ inputs.x }}", "map", "${{ inputs.x }}"),
    ("map", [], "map", []),
    ("map", [1, "a"], "map", [1, "a"]),
    ("max_parallel", 3, "max_parallel", 3),
    ("when", "inputs.x", "when", "inputs.x"),
    ("when", True, "when", "true"),
    ("when", False, "when", "false"),
    ("retries", 2, "retry", RetryPolicy(2)),
    ("retries", 0, "retry", None),
    ("retries", {"max": 3, "delay": "2s"}, "retry", RetryPolicy(3, delay_ms=2_000)),
    (
        "retries",
        {"limit": 1, "factor": 3, "max_delay": "1m", "jitter": 0, "only": "A", "never": ["B"]},
        "retry",
        RetryPolicy(1, factor=3.0, max_delay_ms=60_000, jitter=0.0, only=("A",), never=("B",)),
    ),
    ("timeout", "1h30m", "timeout_ms", 5_400_000),
    ("timeout", 0.5, "timeout_ms", 500),
    ("timeout", timedelta(microseconds=1), "timeout_ms", 1),
    ("deadline", 60, "deadline_ms", 60_000),
    ("priority", "high", "priority", 8),
    ("priority", 10, "priority", 10),
    ("type", "testing", "type", "testing"),
    ("task_type", "testing", "type", "testing"),
    ("requires", "gpu", "requires", ("gpu",)),
    ("requires", ["gpu", "app:pkg.mod"], "requires", ("gpu", "app:pkg.mod")),
    ("resources", {"cpu": 0.5, "memory": "1KiB", "vram": 8}, "resources", Resources(500, 1_024, 8)),
    ("resources", {"cpu": 0}, "resources", Resources(0)),
    ("resources", {}, "resources", None),
    (
        "placement",
        {"policy": "fastest", "prefer": ["builder", "zone=eu"], "affinity": "${{ inputs.x }}", "cost_sensitive": True},
        "placement",
        PlacementSpec("fastest", ("builder", "zone=eu"), "${{ inputs.x }}", True),
    ),
    (
        "placement",
        {"prefer": "builder", "cpu_intensive": True},
        "placement",
        PlacementSpec(prefer=("builder",), cpu_intensive=True),
    ),
    ("placement", {"cost_sensitive": False}, "placement", None),
    ("locks", "a", "locks", (LockSpec("a"),)),
    ("locks", ["a", {"name": "b", "shared": True}], "locks", (LockSpec("a"), LockSpec("b", shared=True))),
    ("concurrency", {"key": "a"}, "concurrency", (ConcurrencySpec("a"),)),
    ("concurrency", [{"key": "a", "limit": 3}, {"key": "b"}], "concurrency", (ConcurrencySpec("a", 3), ConcurrencySpec("b"))),
    ("rate", {"key": "a", "per_minute": 90, "burst": 5}, "rates", (RateSpec("a", per_minute=90, burst=5),)),
    (
        "rate",
        [{"key": "a", "per_second": 1}, {"key": "a", "per_hour": 9}],
        "rates",
        (RateSpec("a", 1), RateSpec("a", per_hour=9)),
    ),
    ("labels", {"a": "b"}, "labels", {"a": "b"}),
    ("estimated_duration", 300, "estimated_ms", 300_000),
    ("on_failure", "continue", "on_failure", "continue"),
    ("on_failure", {"run": "tidy"}, "on_failure", "run:tidy"),
    ("isolation", "process", "isolation", "process"),
]


def with_company(key: str, value: Any) -> dict[str, Any]:
    """A task with this key, and with the other keys without which it means nothing."""
    beside = keys.TASK.by_key[key].beside
    data = {key: value} | ({"map": ["x"]} if "map" in beside else {})
    return {**data, **({"python": "m:f"} if "python" in beside else {} if key in keys.EXECUTORS else {"run": "true"})}


@pytest.mark.parametrize(("key", "value", "attribute", "expected"), TASK_CASES)
def test_task_key(key: str, value: Any, attribute: str, expected: Any) -> None:
    task = build_task("t", with_company(key, value))
    if expected is not None or attribute != "call":
        assert getattr(task, attribute) == expected
        assert type(getattr(task, attribute)) is type(expected)
    assert build_task("t", task_to_data(task)) == task


def test_equal_calls_are_equal_bytes() -> None:
    one = build_task("t", {"http": {"url": "http://x", "method": "GET", "headers": {"a": "b"}}})
    other = build_task("t", {"http": {"headers": {"a": "b"}, "method": "GET", "url": "http://x"}})
    assert msgspec.json.encode(one) == msgspec.json.encode(other)


def test_what_holds_anyway_may_be_said() -> None:
    said = {
        "run": "x",
        "on_failure": "".join(["fa", "il"]),
        "timeout": "0s",
        "retries": {"limit": 2, "factor": 2, "delay": "1s", "jitter": 0.2},
        "resources": {"memory": 0},
    }
    one = build_workflow({"name": "w", "namespace": "default", "conflicts": "error", "tasks": {"a": said}})
    other = build_workflow({"name": "w", "tasks": {"a": {"run": "x", "retries": 2}}})
    assert one.encode() == other.encode()


def test_requests_are_tried_again_where_that_may_help() -> None:
    def retry(request: Any, **more: Any) -> RetryPolicy | None:
        return build_task("t", {"http": request, **more}).retry

    often, rarely = RetryPolicy(2, only=("Busy", "Gateway", "Connection")), RetryPolicy(2, only=("Busy", "Connect"))
    assert retry("http://x") == often
    assert retry({"url": "http://x", "method": "DELETE"}) == often
    assert retry({"url": "http://x", "method": "POST"}) == rarely
    assert retry({"url": "http://x", "method": "${{ inputs.x }}"}) == rarely
    assert retry("http://x", retries=0) == RetryPolicy()
    assert retry("http://x", retries=5) == RetryPolicy(5)
    never = build_task("t", {"http": "http://x", "retries": 0})
    assert build_task("t", task_to_data(never)) == never
    (task,) = build_workflow({"name": "w", "defaults": {"retries": 1}, "tasks": {"t": {"http": "http://x"}}}).tasks
    assert task.retry == RetryPolicy(1)


INLINE: dict[str, Any] = {"required": ["x"], "tasks": {"a": {"run": "echo ${{ inputs.x }}"}}}


def test_a_workflow_that_is_written_out() -> None:
    rows = {"t": {"uses": {"workflow": INLINE, "with": {"x": 1}}}, "u": {"uses": {"workflow": INLINE}, "with": {"x": 1}}}
    spec = build_workflow({"name": "w", "namespace": "team", "tasks": rows})
    first, second = spec.tasks
    assert first.args == second.args == {"x": 1}
    assert isinstance(first.call, dict)
    child = msgspec.convert(first.call["definition"], WorkflowSpec)
    assert (child.name, child.namespace, child.tasks[0].call) == ("t", "team", "echo ${{ inputs.x }}")
    assert build_workflow(spec_to_data(spec)) == spec
    assert WorkflowSpec.decode(spec.encode()) == spec


def nested(levels: int) -> dict[str, Any]:
    tasks: dict[str, Any] = {"t": {"run": "true"}}
    for _ in range(levels):
        tasks = {"t": {"uses": {"workflow": {"tasks": tasks}}}}
    return {"name": "w", "tasks": tasks}


def test_workflows_are_nested_eight_deep_and_no_deeper() -> None:
    assert build_workflow(spec_to_data(build_workflow(nested(8)))) == build_workflow(nested(8))
    ((path, message),) = problems(nested(9))
    assert path == "tasks.t" + ".uses.workflow.tasks.t" * 8 + ".uses.workflow"
    assert message == "is nested deeper than 8 levels"


def test_defaults_are_not_for_tasks_that_they_do_not_fit() -> None:
    defaults = {
        "timeout": "1m",
        "locks": "l",
        "requires": "gpu",
        "resources": {"cpu": 1},
        "env": {"A": "1"},
        "isolation": "process",
    }
    rows = {"ask": {"approval": "?"}, "child": {"uses": "b"}, "event": {"wait_for": "e"}, "get": {"http": "http://x"}}
    ask, child, event, get = build_workflow({"name": "w", "defaults": defaults, "tasks": rows}).tasks
    assert [task.timeout_ms for task in (ask, child, event, get)] == [0, 60_000, 60_000, 60_000]
    for task in (ask, child, event):
        assert (task.locks, task.requires, task.resources, task.env, task.isolation) == ((), (), None, None, "")
    assert (get.locks, get.requires, get.env) == ((LockSpec("l"),), ("gpu",), None)


def test_every_key_of_a_task_has_a_case() -> None:
    assert {case[0] for case in TASK_CASES} >= {field.key for field in keys.TASK.fields} - {"name"}


def test_every_attribute_has_a_key() -> None:
    written = {field.attribute for field in keys.TASK.fields}
    assert written == {*TaskSpec.__struct_fields__} - {"executor"}
    assert {field.attribute for field in keys.WORKFLOW.fields} == {*WorkflowSpec.__struct_fields__, "defaults", "dependencies"}


def test_workflow_keys() -> None:
    spec = build_workflow(
        {
            "name": "2nd.flow",
            "description": "about it",
            "inputs": {"x": 1, "y": None},
            "required": ["z"],
            "tasks": {"a": {"run": "true"}},
            "output": {"o": "${{ tasks.a.output }}"},
            "timeout": "10m",
            "priority": "low",
            "labels": {"team": "a"},
            "namespace": "n",
            "conflicts": "warn",
        }
    )
    assert spec == WorkflowSpec(
        name="2nd.flow",
        description="about it",
        inputs={"x": 1, "y": None},
        required=("z",),
        tasks=(TaskSpec(name="a", executor="run", call="true"),),
        output={"o": "${{ tasks.a.output }}"},
        timeout_ms=600_000,
        priority=3,
        labels={"team": "a"},
        namespace="n",
        conflicts="warn",
    )
    assert build_workflow(spec_to_data(spec)) == spec


# -- other ways to say it


def test_a_list_of_tasks_is_the_same_as_a_mapping() -> None:
    listed = build_workflow({"name": "w", "tasks": [{"name": "a", "run": "x"}, {"task_id": "b", "run": "y", "needs": ["a"]}]})
    assert listed == build_workflow({"name": "w", "tasks": {"a": {"run": "x"}, "b": {"run": "y", "needs": "a"}}})


def test_dependencies_are_added_to_needs() -> None:
    tasks: dict[str, Any] = {"a": {"run": "x"}, "b": {"run": "x"}, "c": {"run": "y", "needs": ["a"]}}
    spec = build_workflow({"name": "w", "tasks": tasks, "dependencies": {"c": ["b", "a"], "b": "a"}})
    assert [task.needs for task in spec.tasks] == [(), ("a",), ("a", "b")]


def test_defaults_fill_what_a_task_does_not_set() -> None:
    shell, function = build_workflow(
        {
            "name": "w",
            "defaults": {
                "env": {"A": "1", "B": "1"},
                "labels": {"l": "1"},
                "resources": {"cpu": 2, "memory": 5},
                "placement": {"policy": "cheapest", "prefer": ["ssd"]},
                "timeout": "1m",
                "retries": {"limit": 2, "delay": "9s"},
                "isolation": "process",
                "type": "testing",
                "max_parallel": 2,
            },
            "tasks": {
                "shell": {"run": "x", "env": {"B": "2"}, "resources": {"cpu": 1}, "retries": 1, "task_type": "research"}
                | {"placement": {"policy": "fastest"}},
                "function": {"python": "m:f", "timeout": 0, "map": [1], "labels": {"m": "2"}},
            },
        }
    ).tasks
    assert (shell.env, shell.labels, shell.resources) == ({"A": "1", "B": "2"}, {"l": "1"}, Resources(1_000, 5))
    assert (shell.placement, function.placement) == (PlacementSpec("fastest", ("ssd",)), PlacementSpec("cheapest", ("ssd",)))
    assert (shell.timeout_ms, shell.retry, shell.isolation, shell.type) == (60_000, RetryPolicy(1), "", "research")
    assert (shell.max_parallel, function.max_parallel) == (0, 2)
    assert (function.env, function.timeout_ms, function.isolation) == (None, 0, "process")
    assert function.labels == {"l": "1", "m": "2"}
    assert function.retry == RetryPolicy(2, delay_ms=9_000)


def test_the_given_data_is_left_alone() -> None:
    data = {"name": "w", "defaults": {"env": {"A": "1"}}, "tasks": {"a": {"run": "x", "env": {"B": "2"}}}}
    build_workflow(data)
    assert data == {"name": "w", "defaults": {"env": {"A": "1"}}, "tasks": {"a": {"run": "x", "env": {"B": "2"}}}}


# -- what is refused

BAD_TASKS: list[tuple[Mapping[str, Any], str, str]] = [
    ({}, "", "says nothing to do, expected `run`, `python`, `http`, `approval`, `uses` or `wait_for`"),
    ({"run": "x", "python": "m:f"}, "", "found `run` and `python`, expected exactly one"),
    ({"run": "x", "http": {}}, "", "found `run` and `http`, expected exactly one"),
    ({"agent": "reviewer", "with": {}}, ".agent", "this version does not run `agent` tasks yet, expected `run`, `python`,"),
    ({"http": "x.org"}, ".http", "expected a URL that starts with http:// or https://"),
    ({"http": "http://a b"}, ".http", "without blanks"),
    ({"http": {"method": "GET"}}, ".http", "expected the key `url`"),
    ({"http": {"url": "http://x", "method": "get"}}, ".http.method", "one of GET, HEAD"),
    ({"http": {"url": "http://x", "headers": {"a b": "c"}}}, ".http.headers.a b", "the name of a header"),
    ({"http": {"url": "http://x", "headers": {"a": 1.5}}}, ".http.headers.a", "write it in quotes"),
    ({"http": {"url": "http://x", "json": 1, "body": "x"}}, ".http.body", "is not for `http` with `json`"),
    ({"http": {"url": "http://x", "expect": 99}}, ".http.expect", "found the number 99, expected a status"),
    ({"http": {"url": "http://x", "expect": [200, "2x"]}}, ".http.expect[1]", "a class of them, such as 2xx"),
    ({"http": {"url": "http://x", "expect": []}}, ".http.expect", "at least one status"),
    ({"http": {"url": "http://x", "expect": True}}, ".http.expect", "found true"),
    ({"http": {"url": "http://x", "max_bytes": "65MiB"}}, ".http.max_bytes", "expected 1 byte to 64MiB"),
    ({"http": {"url": "http://x", "max_bytes": 0}}, ".http.max_bytes", "expected 1 byte"),
    ({"http": {"url": "http://x", "query": [1]}}, ".http.query", "a mapping from names to values"),
    ({"http": "http://x", "env": {"A": "1"}}, ".env", "is only for a task with `run`"),
    ({"approval": ""}, ".approval", "found '', expected a text"),
    ({"approval": {"form": {}}}, ".approval", "expected the key `message`"),
    ({"approval": {"message": "?", "form": [1]}}, ".approval.form", "a JSON Schema: a mapping"),
    ({"approval": {"message": "?", "default": "reject"}}, ".approval.default", "is only for `approval` with `deadline`"),
    ({"approval": {"message": "?", "deadline": 0}}, ".approval.deadline", "a duration, such as 2d"),
    ({"approval": {"message": "?", "deadline": "1d", "default": "yes"}}, ".approval.default", "one of approve, reject"),
    ({"approval": "?", "timeout": "1d"}, ".timeout", "with `approval`: write `deadline` inside of `approval`"),
    ({"approval": "?", "locks": "l"}, ".locks", "is not for a task with `approval`: it waits and holds nothing"),
    ({"uses": "b", "requires": "gpu"}, ".requires", "is not for a task with `uses`: it waits and needs no node"),
    ({"wait_for": "e", "placement": {"policy": "fastest"}}, ".placement", "is not for a task with `wait_for`"),
    ({"run": "x", "placement": "fastest"}, ".placement", "expected a mapping with policy, prefer, affinity"),
    ({"run": "x", "placement": {"policy": "a b"}}, ".placement.policy", "the name of a policy"),
    ({"run": "x", "placement": {"prefer": ["a b"]}}, ".placement.prefer[0]", "expected one word"),
    ({"run": "x", "placement": {"affinity": 1}}, ".placement.affinity", "write it in quotes"),
    ({"run": "x", "placement": {"cheap": True}}, ".placement.cheap", "has no such key"),
    ({"wait_for": "e", "resources": {"cpu": 1}}, ".resources", "is not for a task with `wait_for`"),
    ({"wait_for": "e", "isolation": "process"}, ".isolation", "is only for a task with `python`"),
    ({"wait_for": {"key": "k"}}, ".wait_for", "expected the key `event`"),
    ({"wait_for": "e", "with": {}}, ".with", "is only for a task with `python` or `uses`"),
    ({"uses": "a b"}, ".uses", "the name of a workflow, or name@version"),
    ({"uses": "a@0"}, ".uses", "name@version"),
    ({"uses": {"name": "x", "workflow": "a"}}, ".uses.name", "`uses` has no such key; it has workflow, with"),
    ({"uses": {"workflow": "a", "with": {"y": 1}}, "with": {"x": 1}}, ".with", "stands in `uses` too"),
    ({"uses": {"workflow": {}}}, ".uses.workflow", "expected the key `tasks`"),
    ({"uses": {"workflow": {"tasks": {"a": {"run": 1}}}}}, ".uses.workflow.tasks.a.run", "found the number 1"),
    ({"uses": {"workflow": {"namespace": "n", **INLINE}}}, ".uses.workflow.namespace", "expected 'default', that of"),
    ({"run": "x", "writes": [1]}, ".writes[0]", "found the number 1"),
    ({"run": "x", "retires": 1}, ".retires", "no such key; did you mean 'retries'?"),
    ({"run": "x", "zzz": 1}, ".zzz", "no such key; it has name, run, python"),
    ({"run": ""}, ".run", "found '', expected a text that is not empty"),
    ({"run": "a\0b"}, ".run", "without NUL"),
    ({"run": "\ud800"}, ".run", "valid Unicode"),
    ({"run": []}, ".run", "found a list, expected a shell line, or a list"),
    ({"run": None}, ".run", "found nothing"),
    ({"run": ["sleep", 0.5]}, ".run[1]", "found the number 0.5, expected a text: write it in quotes"),
    ({"run": ["a", True]}, ".run[1]", "found true"),
    ({"python": "just_a_name"}, ".python", "expected module:function"),
    ({"python": "m:f()"}, ".python", "expected module:function"),
    ({"python": "m:f", "with": [1]}, ".with", "expected a mapping from names to values"),
    ({"python": "m:f", "with": {"x": {"y": {1, 2}}}}, ".with.x.y", "found a set, expected JSON"),
    ({"python": "m:f", "with": {"x": [1, float("nan")]}}, ".with.x[1]", "expected JSON"),
    ({"python": "m:f", "with": {"x": 2**63}}, ".with.x", "found a number of over 64 bits"),
    ({"python": "m:f", "with": {"x": {1: 2}}}, ".with.x.1", "a text as key"),
    ({"python": "m:f", "env": {"A": "1"}}, ".env", "is only for a task with `run`"),
    ({"run": "x", "with": {"a": 1}}, ".with", "is only for a task with `python`"),
    ({"run": "x", "isolation": "process"}, ".isolation", "is only for a task with `python`"),
    ({"python": "m:f", "isolation": "thread"}, ".isolation", "found 'thread', expected process"),
    ({"run": "x", "env": {"A": 1.10}}, ".env.A", "write it in quotes"),
    ({"run": "x", "env": {"A=B": "1"}}, ".env.A=B", "a name without '='"),
    ({"run": "x", "needs": [1]}, ".needs[0]", "found the number 1"),
    ({"run": "x", "needs": {"a": 1}}, ".needs", "found a mapping"),
    ({"run": "x", "map": 3}, ".map", "expected an expression that gives a list, or the list itself"),
    ({"run": "x", "max_parallel": 2}, ".max_parallel", "is only for a task with `map`"),
    ({"run": "x", "map": [], "max_parallel": True}, ".max_parallel", "found true, expected a whole number"),
    ({"run": "x", "map": [], "max_parallel": -1}, ".max_parallel", "from 0 to 200,000"),
    ({"run": "x", "when": 1}, ".when", "found the number 1"),
    ({"run": "x", "retries": True}, ".retries", "found true, expected a whole number"),
    ({"run": "x", "retries": 1.0}, ".retries", "found the number 1.0, expected a whole number"),
    ({"run": "x", "retries": {"delay": "1s"}}, ".retries", "expected the key `limit`"),
    ({"run": "x", "retries": {"limit": 1, "max": 1}}, ".retries.max", "`limit` and `max` mean the same"),
    ({"run": "x", "retries": {"limit": 1, "factor": 0.5}}, ".retries.factor", "a number from 1 to 1,000"),
    ({"run": "x", "retries": {"limit": 1, "jitter": float("nan")}}, ".retries.jitter", "a number from 0 to 1"),
    ({"run": "x", "timeout": True}, ".timeout", "True is not a duration"),
    ({"run": "x", "timeout": "soon"}, ".timeout", "'soon' is not a duration"),
    ({"run": "x", "timeout": -1}, ".timeout", "-1 is not a duration"),
    ({"run": "x", "timeout": [1]}, ".timeout", "is not a duration"),
    ({"run": "x", "priority": 11}, ".priority", "11 is not a priority"),
    ({"run": "x", "priority": True}, ".priority", "True is not a priority"),
    ({"run": "x", "requires": ["two words"]}, ".requires[0]", "expected one word"),
    ({"run": "x", "resources": {"cpu": "2"}}, ".resources.cpu", "a number of cores"),
    ({"run": "x", "resources": {"cpu": True}}, ".resources.cpu", "found true"),
    ({"run": "x", "resources": {"gpu": 1}}, ".resources.gpu", "`resources` has no such key"),
    ({"run": "x", "resources": {"memory": 1.5}}, ".resources.memory", "is not a size"),
    ({"run": "x", "locks": [{"shared": True}]}, ".locks[0]", "expected the key `name`"),
    ({"run": "x", "concurrency": {"limit": 2}}, ".concurrency", "expected the key `key`"),
    ({"run": "x", "concurrency": "a"}, ".concurrency", "found 'a', expected a mapping with key, limit"),
    (
        {"run": "x", "concurrency": {"key": "a", "limit": 0}},
        ".concurrency.limit",
        "found the number 0, expected a whole number from 1",
    ),
    ({"run": "x", "concurrency": {"key": "a", "limit": 1.5}}, ".concurrency.limit", "expected a whole number"),
    ({"run": "x", "concurrency": {"key": "", "limit": 1}}, ".concurrency.key", "expected a text"),
    ({"run": "x", "concurrency": [{"key": "a", "max": 1}]}, ".concurrency[0].max", "`concurrency` has no such key"),
    ({"approval": "?", "concurrency": {"key": "a"}}, ".concurrency", "it waits and holds nothing"),
    ({"run": "x", "rate": {"key": "a"}}, ".rate", "expected exactly one of per_second, per_minute and per_hour"),
    ({"run": "x", "rate": {"key": "a", "per_second": 1, "per_hour": 1}}, ".rate", "expected exactly one of"),
    (
        {"run": "x", "rate": {"key": "a", "per_minute": -1}},
        ".rate.per_minute",
        "found the number -1, expected a whole",
    ),
    ({"run": "x", "rate": {"key": "a", "per_minute": float("nan")}}, ".rate.per_minute", "expected a whole number"),
    ({"run": "x", "rate": {"key": "a", "per_minute": 1, "burst": 0}}, ".rate.burst", "found the number 0"),
    ({"run": "x", "rate": [{"key": "a", "per_day": 1}]}, ".rate[0].per_day", "`rate` has no such key"),
    ({"wait_for": "e", "rate": {"key": "a", "per_hour": 1}}, ".rate", "is not for a task with `wait_for`"),
    ({"run": "x", "locks": [{"name": "a", "shared": "yes"}]}, ".locks[0].shared", "expected true or false"),
    ({"run": "x", "labels": ["a"]}, ".labels", "found a list, expected a mapping"),
    ({"run": "x", "on_failure": "cancle"}, ".on_failure", "did you mean 'cancel'?"),
    ({"run": "x", "on_failure": {"run": "a b"}}, ".on_failure.run", "the name of a task"),
    ({"run": "x", "name": "u"}, ".name", "expected 't', the key under which the task stands"),
    ({"run": "x", "type": "a b"}, ".type", "the name of a task type"),
]


@pytest.mark.parametrize(("data", "path", "message"), BAD_TASKS)
def test_a_bad_task_is_refused_with_its_path(data: Mapping[str, Any], path: str, message: str) -> None:
    found = task_problems(**data)
    assert [place for place, _ in found] == [f"tasks.t{path}"]
    assert message in found[0][1]


BAD_WORKFLOWS: list[tuple[Any, str, str]] = [
    ([], "", "found a list, expected a mapping with the keys name, description"),
    (None, "", "found nothing, expected a mapping"),
    ({"tasks": {"a": {"run": "x"}}}, "", "expected the key `name`"),
    ({"name": "w"}, "", "expected the key `tasks`"),
    ({"name": "w", "tasks": {}}, "tasks", "expected at least one task"),
    ({"name": "w", "tasks": []}, "tasks", "expected at least one task"),
    ({"name": "w", "tasks": "x"}, "tasks", "found 'x', expected at least one task"),
    ({"name": "w", "tasks": {"a": "x"}}, "tasks.a", "found 'x', expected a mapping with `run`, `python`,"),
    ({"name": "w", "tasks": [{"run": "x"}]}, "tasks[0]", "found nothing, expected the name of a task"),
    ({"name": "w", "tasks": [{"name": "a", "run": "x"}] * 2}, "tasks[1]", "there are two tasks named 'a'"),
    ({"name": "w", "taks": 1, "tasks": {"a": {"run": "x"}}}, "taks", "did you mean 'tasks'?"),
    ({"name": "w", 1: 1, "tasks": {"a": {"run": "x"}}}, "1", "a workflow has no such key"),
    ({"name": "a b", "tasks": {"a": {"run": "x"}}}, "name", "the name of a workflow"),
    ({"name": True, "tasks": {"a": {"run": "x"}}}, "name", "found true"),
    ({"name": "w", "inputs": [], "tasks": {"a": {"run": "x"}}}, "inputs", "found a list"),
    ({"name": "w", "inputs": {"a b": 1}, "tasks": {"a": {"run": "x"}}}, "inputs.a b", "the name of an input"),
    ({"name": "w", "inputs": {"a": 1}, "required": ["a"], "tasks": {"a": {"run": "x"}}}, "required", "'a' has a default"),
    ({"name": "w", "dependencies": {"b": ["a"]}, "tasks": {"a": {"run": "x"}}}, "dependencies.b", "there is no task 'b'"),
    ({"name": "w", "defaults": {"run": "x"}, "tasks": {"a": {"run": "x"}}}, "defaults.run", "`defaults` has no such key"),
    ({"name": "w", "defaults": {"timeout": "x"}, "tasks": {"a": {"run": "x"}}}, "defaults.timeout", "not a duration"),
    ({"name": "w", "defaults": 1, "tasks": {"a": {"run": "x"}}}, "defaults", "found the number 1"),
    ({"name": "w", "output": {"a": {1}}, "tasks": {"a": {"run": "x"}}}, "output.a", "found a set"),
    ({"name": "w", "description": 1, "tasks": {"a": {"run": "x"}}}, "description", "found the number 1"),
]


@pytest.mark.parametrize(("data", "path", "message"), BAD_WORKFLOWS)
def test_a_bad_workflow_is_refused_with_its_path(data: Any, path: str, message: str) -> None:
    found = problems(data)
    assert [place for place, _ in found] == [path]
    assert message in found[0][1]


@pytest.mark.parametrize("name", ["", "1a", "a b", "a[0]", "-a", ".a", "ä", "a\n", "a" * 201, 3, None])
def test_bad_task_names(name: Any) -> None:
    [(_, message)] = problems({"name": "w", "tasks": {name: {"run": "x"}}})
    assert "the name of a task" in message


@pytest.mark.parametrize("name", ["a", "_", "A-b.c_1", "a" * 200])
def test_good_task_names(name: str) -> None:
    assert build_task(name, {"run": "x"}).name == name


def test_all_problems_are_told_at_once_with_their_lines() -> None:
    data = {"name": 1, "tasks": {"a": {"run": 1, "timeout": "x"}, "b": {}}, "x": 1}
    with pytest.raises(SpecError) as caught:
        build_workflow(data, line_of=len, source="f.yaml")
    assert [problem.path for problem in caught.value.problems] == ["name", "x", "tasks.a.run", "tasks.a.timeout", "tasks.b"]
    assert [problem.line for problem in caught.value.problems] == [1, 1, 3, 3, 2]
    assert str(caught.value).startswith("f.yaml: line 1: name: found the number 1")


def test_a_mistake_in_every_task_is_cut_short() -> None:
    found = problems({"name": "w", "tasks": {f"t{n}": {"run": 1} for n in range(MAX_PROBLEMS + 5)}})
    assert len(found) == MAX_PROBLEMS + 1
    assert found[-1] == ("", "and 5 more problems")


def test_deep_nesting_is_refused_at_once() -> None:
    deep: Any = {1, 2}
    for _ in range(60):
        deep = [deep]
    [(path, _)] = task_problems(**{"python": "m:f", "with": {"x": deep}})  # at twice the work a level it would take ages
    assert path.endswith("[0]" * 60)
    for _ in range(10_000):
        deep = [deep]
    [(_, message)] = task_problems(**{"python": "m:f", "with": {"x": deep}})
    assert message == "is nested deeper than 100 levels"


def test_a_value_seen_before_does_not_let_an_equal_one_pass() -> None:
    assert build_task("t", {"run": "x", "timeout": 1, "priority": 1}).priority == 1
    assert len(task_problems(run="x", timeout=True, priority=True)) == 2
    assert len(task_problems(run="x", resources={"memory": 1.0, "vram": False})) == 2


def test_build_task_names_the_task() -> None:
    with pytest.raises(SpecError) as caught:
        build_task("a", {"run": 1})
    assert caught.value.problems == (
        Problem("tasks.a.run", "found the number 1, expected a shell line, or a list: a program and its arguments"),
    )
    with pytest.raises(SpecError, match="the name of a task"):
        build_task("a b", {"run": "x"})


def test_equal_parts_of_tasks_are_one_object() -> None:
    def row() -> dict[str, Any]:
        return {"run": " ".join(["x"]), "needs": ["".join(["t", "0"])], "env": {"A": "1"}, "resources": {"cpu": 1}}

    rows = {"t1": row(), "t2": row()}
    first, second = build_workflow({"name": "w", "tasks": rows}).tasks
    for attribute in ("call", "needs", "env", "resources"):
        assert getattr(first, attribute) is getattr(second, attribute)


def test_arguments_that_are_equal_but_not_the_same_stay_apart() -> None:
    rows: dict[str, Any] = {f"t{n}": {"python": "m:f", "with": {"x": value}} for n, value in enumerate((1, True, 1.0))}
    tasks = build_workflow({"name": "w", "tasks": rows}).tasks
    assert [repr(task.args["x"]) for task in tasks] == ["1", "True", "1.0"]


# -- round trip

NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]{0,5}", fullmatch=True)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8)
DURATIONS = st.integers(0, 10_000_000).map(lambda ms: f"{ms}ms")
SIZES = st.integers(0, 1 << 60)
CORES = st.integers(0, 9_999).map(lambda milli: milli / 1_000)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
LABELS = st.dictionaries(TEXTS, TEXTS | st.integers(-999, 999), max_size=3)
RATES = st.one_of(
    *(
        st.fixed_dictionaries({"key": TEXTS, unit: st.integers(1, 1_000_000)}, optional={"burst": st.integers(1, 9)})
        for unit in ("per_second", "per_minute", "per_hour")
    )
)
COMMON = {
    "needs": st.lists(NAMES, max_size=3),
    "map": TEXTS | st.lists(JSON, max_size=2),
    "when": TEXTS | st.booleans(),
    "retries": st.integers(0, 9)
    | st.fixed_dictionaries(
        {"limit": st.integers(0, 9)},
        optional={
            "delay": DURATIONS,
            "factor": st.floats(1, 9),
            "jitter": st.floats(0, 1),
            "only": st.lists(TEXTS, max_size=2),
        },
    ),
    "timeout": DURATIONS,
    "deadline": DURATIONS,
    "priority": st.integers(1, 10),
    "type": NAMES,
    "requires": st.lists(NAMES, max_size=3),
    "resources": st.fixed_dictionaries({}, optional={"cpu": CORES, "memory": SIZES, "vram": SIZES}),
    "concurrency": st.lists(st.fixed_dictionaries({"key": TEXTS, "limit": st.integers(1, 9)}), max_size=3),
    "rate": st.lists(RATES, max_size=3),
    "locks": st.lists(TEXTS | st.fixed_dictionaries({"name": TEXTS, "shared": st.booleans()}), max_size=3),
    "labels": LABELS,
    "estimated_duration": DURATIONS,
    "on_failure": st.sampled_from(["fail", "cancel", "continue"]) | st.fixed_dictionaries({"run": NAMES}),
    "writes": st.lists(TEXTS, max_size=2),
}
PARKED = {key: kind for key, kind in COMMON.items() if key not in ("requires", "resources", "locks", "concurrency", "rate")}
ASKED = {key: kind for key, kind in PARKED.items() if key != "timeout"}
URLS = st.just("https://x.org/") | TEXTS.map(lambda text: f"${{{{ inputs.x }}}}{text}")
MAPPINGS = st.dictionaries(TEXTS, JSON, max_size=2)
STATUSES = st.integers(100, 599) | st.sampled_from(["2xx", "4xx"])
REQUEST = st.fixed_dictionaries(
    {"url": URLS},
    optional={
        "method": st.sampled_from(["GET", "POST", "${{ inputs.x }}"]),
        "headers": st.dictionaries(st.sampled_from(["a", "X-B"]), TEXTS, max_size=2),
        "query": MAPPINGS,
        "json": JSON,
        "expect": STATUSES | st.lists(STATUSES, min_size=1, max_size=3),
        "max_bytes": st.integers(1, 64 << 20),
        "follow_redirects": st.booleans(),
    },
)
FORMS = st.fixed_dictionaries(
    {},
    optional={
        "title": TEXTS,
        "default": JSON,
        "enum": st.just("${{ inputs.x }}") | st.lists(JSON, min_size=1, max_size=2),
        "properties": st.dictionaries(TEXTS, st.just({"type": "string"}), max_size=2),
    },
)
QUESTION = st.fixed_dictionaries(
    {"message": TEXTS, "deadline": st.integers(1, 10_000_000).map(lambda ms: f"{ms}ms")},
    optional={"form": FORMS, "default": st.sampled_from(["approve", "reject"])},
)
TASKS: st.SearchStrategy[Any] = st.fixed_dictionaries(
    {"run": TEXTS | st.lists(TEXTS, min_size=1, max_size=3)},
    optional={**COMMON, "env": st.dictionaries(NAMES, TEXTS, max_size=2), "cwd": TEXTS},
) | st.fixed_dictionaries(
    {"python": st.just("m:f")},
    optional={**COMMON, "with": MAPPINGS, "isolation": st.just("process")},
)
TASKS |= st.fixed_dictionaries({"http": URLS | REQUEST}, optional=COMMON)
TASKS |= st.fixed_dictionaries({"approval": TEXTS | QUESTION}, optional=ASKED)
TASKS |= st.fixed_dictionaries({"wait_for": TEXTS | st.fixed_dictionaries({"event": TEXTS, "key": TEXTS})}, optional=PARKED)
TASKS |= st.fixed_dictionaries({"uses": st.sampled_from(["a", "a@2"])}, optional={**PARKED, "with": MAPPINGS})
TASKS |= st.fixed_dictionaries(
    {
        "uses": st.fixed_dictionaries(
            {"workflow": st.fixed_dictionaries({"tasks": st.dictionaries(NAMES, TASKS, min_size=1, max_size=2)})}
        )
    },
    optional=PARKED,
)
WORKFLOWS = st.fixed_dictionaries(
    {"name": NAMES, "tasks": st.dictionaries(NAMES, TASKS, min_size=1, max_size=3)},
    optional={
        "description": TEXTS,
        "inputs": st.dictionaries(NAMES, JSON, max_size=2),
        "output": JSON,
        "timeout": DURATIONS,
        "priority": st.integers(1, 10),
        "labels": LABELS,
        "namespace": NAMES,
    },
)


@given(WORKFLOWS)
@settings(max_examples=200, deadline=None)
def test_writing_back_loses_nothing(data: dict[str, Any]) -> None:
    spec = build_workflow(data)
    written = spec_to_data(spec)
    assert build_workflow(written) == spec
    assert spec_to_data(build_workflow(written)) == written
    assert WorkflowSpec.decode(spec.encode()) == spec
    assert build_workflow(written).encode() == spec.encode()


KEYS = st.sampled_from([*keys.TASK.by_key, *keys.WORKFLOW.by_key, "zzz"]) | st.integers()
NONSENSE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@given(NONSENSE)
@settings(max_examples=300, deadline=None)
def test_nonsense_is_built_or_refused_and_nothing_else(data: Any) -> None:
    with suppress(SpecError):
        build_workflow({"name": "w", "tasks": {"t": data}, "defaults": data, "output": data})
