"""check, schema, import, demo, and what the program says of itself."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from skep import __version__
from skep.cli.app import COMMANDS, load_command

EXAMPLES = Path(__file__).parents[2] / "examples"
FLOW = """name: flow
description: What it is for.
inputs: {n: 1}
required: [m]
tasks:
  a: {run: 'true', estimated_duration: 2s}
  b: {run: 'true', needs: [a], estimated_duration: 3s, requires: [gpu]}
  c: {run: 'echo ${{ item }}', map: [1, 2], needs: [a]}
"""


def test_version(skep: Any) -> None:
    assert skep("--version").stdout == f"skep {__version__}\n"


@pytest.mark.parametrize("command", [[], ["run"], ["check"], ["schema"], ["import"], ["import", "wfformat"], ["demo"]])
def test_help_shows_examples(skep: Any, command: list[str]) -> None:
    text = skep(*command, "--help").stdout
    assert "skep " in text
    if command:
        assert "Example" in text


def test_an_unknown_command_is_wrong_usage(skep: Any) -> None:
    assert "Did you mean 'check'" in skep("chek", code=2).stderr


def test_check_says_what_a_workflow_is(skep: Any) -> None:
    skep.file("flow.yaml", FLOW)
    text = skep("check", "flow.yaml").stdout
    assert "flow: What it is for." in text
    assert "a → b" in text
    assert "5s along the critical path" in text
    assert text.rstrip().endswith("ok")


def test_check_as_json(skep: Any) -> None:
    skep.file("flow.yaml", FLOW)
    found = skep.json("check", "flow.yaml", "--json")
    assert found["ok"] is True
    assert (found["tasks"], found["edges"], found["levels"], found["maps"]) == (3, 2, [1, 2], ["c"])
    assert (found["critical_path"], found["critical_path_ms"]) == (["a", "b"], 5_000)
    assert {"executor": "run", "requires": "gpu, 1 cpu", "tasks": 1} in found["classes"]
    assert (found["inputs"], found["required"]) == ({"n": 1}, ["m"])


def test_check_draws_the_graph(skep: Any) -> None:
    skep.file("flow.yaml", FLOW)
    drawing = skep("check", "flow.yaml", "--graph").stdout
    assert drawing.splitlines() == [
        "flowchart LR",
        '    t0["a"]',
        '    t1["b"]',
        '    t2[["c × n"]]',
        "    t0 --> t1",
        "    t0 --> t2",
    ]


def test_check_names_every_problem_with_its_line(skep: Any) -> None:
    skep.file("flow.yaml", "name: x\ntasks:\n  a:\n    run: t\n    retries: many\n  b:\n    runs: t\n")
    done = skep("check", "flow.yaml", code=3)
    assert "flow.yaml: line 5: tasks.a.retries" in done.stderr
    assert "flow.yaml: line 6: tasks.b" in done.stderr
    assert done.stdout == ""
    done = skep("check", "flow.yaml", "--json", code=3)
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert found["ok"] is False
    assert {"tasks.a.retries": 5}.items() <= {problem["path"]: problem["line"] for problem in found["problems"]}.items()


def test_schema_fits_the_examples(skep: Any) -> None:
    schema = json.loads(skep("schema").stdout)
    jsonschema.validate({"name": "x", "tasks": {"a": {"run": "true"}}}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"name": "x"}, schema)


INSTANCE = {
    "name": "tiny",
    "schemaVersion": "1.5",
    "workflow": {
        "specification": {
            "tasks": [
                {"name": "a", "id": "a_1", "parents": [], "children": ["b_2"]},
                {"name": "b", "id": "b_2", "parents": ["a_1"], "children": []},
            ]
        },
        "execution": {"tasks": [{"id": "a_1", "runtimeInSeconds": 2}, {"id": "b_2", "runtimeInSeconds": 4}]},
    },
}


def test_import_writes_a_workflow_that_runs(skep: Any) -> None:
    skep.file("tiny.json", json.dumps(INSTANCE))
    done = skep("import", "wfformat", "tiny.json", "-o", "tiny.yaml", "--time-scale", "0.001")
    assert "tiny, 2 tasks" in done.stderr
    assert (skep.folder / "tiny.yaml").read_text().startswith("# Imported by `skep import wfformat` from tiny.json")
    view = skep.json("run", "tiny.yaml", "--json")
    assert [(task["name"], task["state"]) for task in view["tasks"]] == [("a_1", "succeeded"), ("b_2", "succeeded")]


def test_import_does_not_overwrite(skep: Any) -> None:
    skep.file("tiny.json", json.dumps(INSTANCE))
    skep.file("tiny.yaml", "mine")
    assert "--force" in skep("import", "wfformat", "tiny.json", "-o", "tiny.yaml", code=3).stderr
    assert (skep.folder / "tiny.yaml").read_text() == "mine"
    skep("import", "wfformat", "tiny.json", "-o", "tiny.yaml", "--force", "--command", "echo {id}")
    assert "echo a_1" in (skep.folder / "tiny.yaml").read_text()


@pytest.mark.parametrize("text", ["{", "[]", '{"schemaVersion": "1.4"}'])
def test_import_refuses_what_is_not_wfformat(skep: Any, text: str) -> None:
    skep.file("bad.json", text)
    assert "bad.json: " in skep("import", "wfformat", "bad.json", "-o", "out.yaml", code=3).stderr
    assert not (skep.folder / "out.yaml").exists()


def test_demo_runs_all_workflows_and_cleans_up(skep: Any) -> None:
    temporary = skep.folder / "tmp"
    temporary.mkdir()
    done = skep("demo", "--examples", str(EXAMPLES), TMPDIR=str(temporary))
    assert "release-gate succeeded" in done.stderr
    assert "specialised succeeded" in done.stderr
    assert "montage succeeded" in done.stderr
    assert "critical path" in done.stderr
    assert "builder" in done.stderr
    assert list(temporary.iterdir()) == []
    assert skep.runs() == []


def test_demo_without_examples_says_where_they_are(skep: Any) -> None:
    assert "--examples DIR" in skep("demo", "--examples", str(skep.folder), code=3).stderr


# -- all of them


def _every() -> list[str]:
    found = []
    for name in COMMANDS:
        below = getattr(load_command(name), "commands", {})
        found += [name, *(f"{name} {sub}" for sub in below)]
    return found


@pytest.mark.parametrize("command", _every())
def test_every_command_teaches_by_example(command: str) -> None:
    name, _, sub = command.partition(" ")
    found = load_command(name)
    found = found.commands[sub] if sub else found
    assert "**Example" in found.help
    assert "`skep " in found.help or "$(skep " in found.help
    for param in found.params:
        assert param.name == "help" or param.help, param.name


def test_the_list_of_commands_says_the_same_as_each_of_them(skep: Any) -> None:
    text = skep("--help").stdout
    for panel in ("Run", "Look", "Steer", "Serve"):
        assert f"─ {panel} ─" in text
    for name in COMMANDS:
        assert re.search(rf"^│ {name} ", text, re.MULTILINE)


HEAVY = ("rich", "yaml", "asyncio", "sqlite3", "psutil", "starlette", "skep.flow", "skep.engine", "skep.hub", "skep.wiring")
LIGHT = ("runs", "show", "cancel x", "approve x", "nodes", "status", "queue stats", "definitions list")


@pytest.mark.parametrize("command", LIGHT)
def test_a_command_loads_only_what_it_needs(skep: Any, command: str) -> None:
    skep.file("look.py", LOOK)
    skep.program = ["look.py"]
    done = skep(*command.split(), code=6)
    loaded = set(done.stdout.split())
    assert "skep.client" in loaded
    assert loaded.isdisjoint(HEAVY)


LOOK = """
import sys
from skep.cli import main
try:
    main()
finally:
    print(*sys.modules)
"""
