"""The JSON Schema: it takes what is right, refuses what is wrong, and the copy beside the examples is the one in use."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from skep.errors import SpecError
from skep.model import keys
from skep.model.authoring import build_workflow, spec_to_data
from skep.model.fields import Table
from skep.model.schema import json_schema, schema_text

EXAMPLES = Path(__file__).parents[2] / "examples"
VALIDATOR = jsonschema.Draft202012Validator(json_schema())


def refused(data: Any) -> bool:
    return not VALIDATOR.is_valid(data)


def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())


def test_the_copy_beside_the_examples_is_current() -> None:
    assert (EXAMPLES / "workflow.schema.json").read_text("utf-8") == schema_text(), (
        "renew it: python -m skep.model.schema > examples/workflow.schema.json"
    )
    assert json.loads(schema_text()) == json_schema()


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*/flow.yaml")), ids=lambda path: path.parent.name)
def test_examples_are_valid(path: Path) -> None:
    data = yaml.safe_load(path.read_text("utf-8"))
    VALIDATOR.validate(data)
    VALIDATOR.validate(spec_to_data(build_workflow(data)))


def test_every_key_is_described() -> None:
    schema = json_schema()
    tables: list[tuple[Table, dict[str, Any]]] = [(keys.WORKFLOW, schema), (keys.TASK, schema["$defs"]["task"])]
    for table, described in tables:
        assert described["properties"].keys() == table.by_key.keys()
        for field in table.fields:
            assert described["properties"][field.key]["description"] == field.doc
            assert field.doc.endswith(".")


GOOD: list[dict[str, Any]] = [
    {"run": "x"},
    {"run": ["sleep", 5], "env": {"A": 1}, "cwd": "/"},
    {"python": "m:f", "with": {"x": 1}, "isolation": "process"},
    {"python": "m:f", "with": "${{ item }}", "map": [1], "max_parallel": 2},
    {"run": "x", "needs": "a", "requires": ["gpu"], "when": True, "timeout": 5, "deadline": "5m", "priority": "high"},
    {"run": "x", "retries": 2, "locks": "a", "on_failure": {"run": "b"}, "resources": {"cpu": 0.5, "memory": "1GiB"}},
    {"http": "https://x.org", "timeout": 5, "locks": "l", "requires": "gpu"},
    {
        "http": {"url": "${{ inputs.x }}", "method": "POST", "json": None, "expect": [200, "3xx"], "query": "${{ item }}"},
        "map": [1],
    },
    {"approval": "Ship it?", "needs": "a", "deadline": "5d", "writes": ["out"]},
    {"approval": {"message": "Ship it?", "form": {"type": "object"}, "deadline": "2d", "default": "reject"}},
    {"uses": "build@3", "with": {"x": 1}, "timeout": "1h"},
    {"uses": {"workflow": {"tasks": {"a": {"run": "x"}}}, "with": "${{ item }}"}, "map": [1]},
    {"wait_for": {"event": "deploy", "key": "${{ inputs.x }}"}, "timeout": "1h"},
    {"run": "x", "retries": {"max": 2}, "locks": [{"name": "a", "shared": True}, "b"], "labels": {"a": "b"}, "task_type": "t"},
]


@pytest.mark.parametrize("task", GOOD)
def test_good_tasks(task: dict[str, Any]) -> None:
    build_workflow({"name": "w", "tasks": {"t": task}})
    VALIDATOR.validate({"name": "w", "tasks": {"t": task}})
    VALIDATOR.validate({"name": "w", "tasks": [{"name": "t", **task}]})


BAD: list[dict[str, Any]] = [
    {},
    {"run": "x", "python": "m:f"},
    {"run": ""},
    {"run": []},
    {"run": "x", "with": {"a": 1}},
    {"run": "x", "isolation": "process"},
    {"python": "m:f", "env": {"A": "1"}},
    {"python": "no colon"},
    {"python": "m:f", "isolation": "thread"},
    {"run": "x", "retires": 1},
    {"run": "x", "retries": True},
    {"run": "x", "retries": {"delay": 1}},
    {"run": "x", "max_parallel": 2},
    {"run": "x", "timeout": True},
    {"run": "x", "timeout": "soon"},
    {"run": "x", "priority": 11},
    {"run": "x", "needs": [1]},
    {"run": "x", "env": {"A": True}},
    {"run": "x", "resources": {"gpu": 1}},
    {"run": "x", "resources": {"cpu": "2"}},
    {"run": "x", "locks": [{"shared": True}]},
    {"run": "x", "on_failure": "ignore"},
    {"run": "x", "map": 3},
    {"agent": "reviewer"},
    {"http": "x.org"},
    {"http": {"url": "http://x", "json": 1, "body": "x"}},
    {"http": {"url": "http://x", "expect": []}},
    {"http": {"url": "http://x", "expect": "20x"}},
    {"http": {"url": "http://x", "headers": {"a b": "c"}}},
    {"http": "http://x", "with": {"x": 1}},
    {"approval": {}},
    {"approval": {"message": "?", "default": "reject"}},
    {"approval": "?", "timeout": 5},
    {"approval": "?", "locks": "l"},
    {"uses": "a b"},
    {"uses": "a@x"},
    {"uses": "a", "requires": "gpu"},
    {"uses": {"workflow": {"tasks": {"a": {}}}}},
    {"uses": {"workflow": {"name": "x"}}},
    {"wait_for": {"key": "k"}},
    {"wait_for": "e", "resources": {"cpu": 1}},
    {"wait_for": "e", "isolation": "process"},
    {"run": "x", "writes": [1]},
]


@pytest.mark.parametrize("task", BAD)
def test_bad_tasks(task: dict[str, Any]) -> None:
    data = {"name": "w", "tasks": {"t": task}}
    assert refused(data)
    with pytest.raises(SpecError):
        build_workflow(data)


@pytest.mark.parametrize(
    "data",
    [
        {"name": "w"},
        {"tasks": {"a": {"run": "x"}}},
        {"name": "w", "tasks": {}},
        {"name": "w", "tasks": []},
        {"name": "w", "tasks": [{"run": "x"}]},
        {"name": "w", "tasks": {"a b": {"run": "x"}}},
        {"name": "w", "tasks": {"a": {"run": "x"}}, "defaults": {"run": "x"}},
        {"name": "w", "tasks": {"a": {"run": "x"}}, "task": 1},
        {"name": 1, "tasks": {"a": {"run": "x"}}},
        [],
    ],
)
def test_bad_workflows(data: Any) -> None:
    assert refused(data)
    with pytest.raises(SpecError):
        build_workflow(data)


def test_defaults_need_no_company() -> None:
    data = {"name": "w", "defaults": {"env": {"A": "1"}, "isolation": "process"}, "tasks": {"a": {"run": "x"}}}
    build_workflow(data)
    VALIDATOR.validate(data)
