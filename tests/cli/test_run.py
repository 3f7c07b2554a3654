"""`skep run`: what goes where, what it ends with, and what it refuses."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import pytest
from typer import BadParameter

from skep.cli.local import local_nodes

TASKS = """
import os, sys, subprocess
from skep import context, task, workflow

print("printed at import")

@task
def greet(name: str) -> str:
    print("hello from the task")
    sys.stderr.write("and an error line\\n")
    sys.stdout.buffer.write(b"and bytes\\n")
    os.write(1, b"past Python\\n")
    subprocess.run(["echo", "from a child process"], check=True)
    return f"hello {name}"

@task
def broken() -> None:
    print("about to fail")
    raise ValueError("no good")

@workflow
def greeting(name: str = "you"):
    return greet(name)

@workflow
def failing():
    return broken()
"""


def test_output_goes_to_standard_output_and_the_rest_to_standard_error(skep: Any) -> None:
    skep.file("flow.yaml", "name: one\ntasks:\n  hello: {run: echo hi}\noutput: ${{ tasks.hello.output }}\n")
    done = skep("run", "flow.yaml")
    assert json.loads(done.stdout) == "hi"
    assert "ok" in done.stderr
    assert "hello on local" in done.stderr
    assert "one succeeded" in done.stderr
    assert "\x1b" not in done.stderr


def test_json_is_one_document_with_the_whole_run(skep: Any) -> None:
    flow = "name: two\ntasks:\n  a: {run: 'echo 1'}\n  b: {run: 'echo ${{ item }}', map: [x, y], needs: [a]}\n"
    skep.file("flow.yaml", flow)
    view = skep.json("run", "flow.yaml", "--json", "--label", "kind=test", "--priority", "high")
    assert {"id", "workflow", "state", "tasks"} <= view.keys()
    assert (view["workflow"], view["state"], view["priority"], view["labels"]) == ("two", "succeeded", 8, {"kind": "test"})
    tasks = {task["name"]: task for task in view["tasks"]}
    assert tasks.keys() == {"a", "b", "b[0]", "b[1]"}
    assert {"name", "state", "attempts", "node", "started_ms", "finished_ms", "output", "error", "history"} <= tasks["a"].keys()
    assert (tasks["a"]["attempts"], tasks["a"]["node"], tasks["a"]["output"]) == (1, "local", "1")
    assert tasks["a"]["finished_ms"] >= tasks["a"]["started_ms"] > 0
    assert tasks["b"]["output"] == ["x", "y"]
    assert [attempt["state"] for attempt in tasks["a"]["history"]] == ["succeeded"]


def test_nothing_that_is_printed_reaches_standard_output(skep: Any) -> None:
    skep.file("flows.py", TASKS)
    done = skep("run", "flows.py:greeting", "--input", "name=world", "--json")
    assert json.loads(done.stdout)["output"] == "hello world"
    assert "printed at import" in done.stderr
    assert "hello from the task" not in done.stderr


def test_a_failed_task_is_shown_with_its_traceback_and_log(skep: Any) -> None:
    skep.file("flows.py", TASKS)
    done = skep("run", "flows:failing", code=1)
    assert done.stdout == ""
    assert "ValueError: no good" in done.stderr
    assert 'raise ValueError("no good")' in done.stderr
    assert "about to fail" in done.stderr
    assert done.stderr.rstrip().endswith("1 failed")


def test_a_failed_command_is_shown_with_what_it_said_last(skep: Any) -> None:
    skep.file("flow.yaml", "name: bad\ntasks:\n  x: {run: 'echo why >&2; exit 3', retries: {limit: 1, delay: 1ms}}\n")
    done = skep("run", "flow.yaml", code=1)
    assert "ExitCode: exit code 3" in done.stderr
    assert "x failed on local, attempt 2" in done.stderr
    assert done.stderr.count("│ why") == 1
    view = skep.json("run", "flow.yaml", "--json", code=1)
    assert (view["state"], view["tasks"][0]["attempts"], len(view["tasks"][0]["history"])) == ("failed", 2, 2)


def test_quiet_says_only_the_end(skep: Any) -> None:
    skep.file("flow.yaml", "name: one\ntasks:\n  hello: {run: echo hi}\n")
    assert skep("run", "flow.yaml", "--quiet").stderr.startswith("one succeeded in ")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("n=3", 3),
        ("n=[1, 2]", [1, 2]),
        ("n=null", None),
        ("n=plain text", "plain text"),
        ("n=NaN", "NaN"),
        ("n=", ""),
        ("n=a=b", "a=b"),
    ],
)
def test_an_input_is_json_when_it_parses_else_text(skep: Any, given: str, expected: Any) -> None:
    skep.file("flow.yaml", "name: i\nrequired: [n]\ntasks:\n  t: {run: 'true'}\noutput: ${{ inputs.n }}\n")
    assert skep.json("run", "flow.yaml", "-q", "--input", given) == expected


def test_inputs_of_a_file_stand_below_those_of_the_line(skep: Any) -> None:
    skep.file("flow.yaml", "name: i\ninputs: {a: 0, b: 0, c: 0}\ntasks:\n  t: {run: 'true'}\noutput: ${{ inputs }}\n")
    skep.file("in.json", '{"a": 1, "b": 1}')
    assert skep.json("run", "flow.yaml", "--inputs", "in.json", "--input", "b=2") == {"a": 1, "b": 2, "c": 0}


def test_relative_paths_start_beside_the_file(skep: Any) -> None:
    skep.file(
        "sub/flow.yaml", "name: p\ntasks:\n  s: {run: cat note}\n  f: {python: 'own.py:read'}\n  m: {python: 'own:read'}\n"
    )
    skep.file("sub/note", "found")
    skep.file("sub/own.py", "def read(): return open('note').read()\n")
    assert skep.json("run", "sub/flow.yaml", "-q") == {"s": "found", "f": "found", "m": "found"}


def test_a_run_that_takes_too_long_ends_with_5(skep: Any) -> None:
    skep.file("flow.yaml", "name: long\ntasks:\n  t: {run: sleep 30}\n")
    done = skep("run", "flow.yaml", "--timeout", "300ms", code=5)
    assert "long failed (timeout)" in done.stderr


REFUSED = [
    (
        "name: x\ntasks:\n  a: {run: t, needs: [b]}\n  b: {run: t, needs: [a]}\n",
        [],
        "tasks need each other in a cycle: a → b → a",
    ),
    ("name: x\ntasks:\n  a:\n    run: t\n    retrys: 2\n", [], "flow.yaml: line 5: tasks.a.retrys:"),
    ("name: x\ntasks:\n  a:\n    run: t\n    retries: many\n", [], "flow.yaml: line 5: tasks.a.retries:"),
    ("name: x\ntasks:\n  a:\n    run: t\n    needs: [c]\n", [], "line 5: tasks.a.needs"),
    ("name: x\ntasks:\n  a:\n    run: echo ${{ tasks.z.output }}\n", [], "there is no task 'z'"),
    ("name: x\ninputs: {n: 1}\ntasks:\n  a: {run: t}\n", ["--input", "m=1"], "inputs.m: there is no"),
    ("name: x\nrequired: [n]\ntasks:\n  a: {run: t}\n", [], "inputs.n: is required"),
    ("name: x\ntasks:\n  a:\n    run: t\n    requires: [warp]\n", [], "line 5: tasks.a.requires: no node has warp"),
    ("name: x\ntasks:\n  a:\n    run: t\n    resources: {cpu: 5000}\n", [], "line 5: tasks.a.resources"),
]


@pytest.mark.parametrize(("flow", "options", "message"), REFUSED)
def test_what_is_wrong_is_refused_with_its_place_and_nothing_is_submitted(
    skep: Any, flow: str, options: list[str], message: str
) -> None:
    skep.file("flow.yaml", flow)
    done = skep("run", "flow.yaml", *options, code=3)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert skep.runs() == []


def test_a_refusal_says_what_the_nodes_have(skep: Any) -> None:
    skep.file("flow.yaml", "name: x\ntasks:\n  a: {run: t, requires: [gpu, zone=eu]}\n")
    nodes = ["--node", "one:cpu,gpu;cpu=2;slots=4", "--node", "two:cpu;cpu=1;memory=2GB;zone=eu"]
    done = skep("run", "flow.yaml", *nodes, code=3)
    assert "one lacks zone=eu; two lacks gpu" in done.stderr
    assert "node one has cpu, gpu; 2 cpu" in done.stderr
    assert "node two has cpu, zone=eu; 1 cpu, 2GB memory" in done.stderr


def test_tasks_go_to_the_nodes_that_have_what_they_need(skep: Any) -> None:
    skep.file("flow.yaml", "name: x\ntasks:\n  a: {run: 'true', requires: [gpu]}\n  b: {run: 'true', requires: [ssd]}\n")
    view = skep.json("run", "flow.yaml", "--json", "--node", "one:gpu", "--node", "two:cpu,ssd;slots=1")
    assert {task["name"]: task["node"] for task in view["tasks"]} == {"a": "one", "b": "two"}


@pytest.mark.parametrize(
    "options",
    [
        ["--input", "x"],
        ["--inputs", "absent.json"],
        ["--timeout", "soon"],
        ["--priority", "11"],
        ["--label", "x"],
        ["--node", "a;slots=x"],
        ["--node", "a", "--node", "a"],
        ["--nonsense"],
    ],
)
def test_wrong_usage_ends_with_2(skep: Any, options: list[str]) -> None:
    skep.file("flow.yaml", "name: one\ntasks:\n  hello: {run: echo hi}\n")
    done = skep("run", "flow.yaml", *options, code=2)
    assert "Traceback" not in done.stderr
    assert skep.runs() == []


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ("a:cpu;slots=x", "slots: found 'x', expected a whole number from 1"),
        ("a;slots=0", "slots: found '0', expected a whole number from 1"),
        ("a;cpu=much", "cpu: found 'much', expected a number of cores"),
        ("a;cpu=nan", "cpu: found 'nan', expected a number of cores"),
    ],
)
def test_a_wrong_node_is_told_what_was_expected(skep: Any, node: str, expected: str) -> None:
    with pytest.raises(BadParameter, match=re.escape(expected)):
        local_nodes([node])


def test_a_refusal_is_a_document_too(skep: Any) -> None:
    skep.file("flow.yaml", "name: x\ntasks:\n  a:\n    run: t\n    retries: many\n  b:\n    runs: t\n")
    done = skep("run", "flow.yaml", "--json", code=3)
    found = json.loads(done.stdout)
    assert found.keys() == {"error", "problems"}
    assert found["error"] in done.stderr
    assert {("tasks.a.retries", 5)} <= {(problem["path"], problem["line"]) for problem in found["problems"]}
    skep.file("flow.yaml", "name: x\ntasks:\n  a:\n    run: t\n    requires: [warp]\n")
    (problem,) = skep.json("run", "flow.yaml", "--json", code=3)["problems"]
    assert (problem["path"], problem["line"]) == ("tasks.a.requires", 5)
    (problem,) = skep.json("run", "absent:flow", "--json", code=3)["problems"]
    assert (problem["path"], problem["line"]) == ("", None)
    assert "absent:flow cannot be loaded" in problem["message"]


def test_failures_that_are_tolerated_are_told_apart(skep: Any) -> None:
    tasks = {
        "optional": {"run": "exit 1", "on_failure": "continue"},
        "each": {"run": "exit ${{ item }}", "map": [0, 1], "on_failure": "continue"},
        "migrate": {"run": "exit 1", "on_failure": {"run": "back"}},
        "back": {"run": "true"},
    }
    skep.file("flow.yaml", json.dumps({"name": "x", "tasks": tasks}))
    done = skep("run", "flow.yaml", "-q")
    for name in ("optional", "each[1]", "migrate"):
        assert f"! {name} failed, as its `on_failure` tolerates: ExitCode: exit code 1" in done.stderr
    assert "✗" not in done.stderr
    assert done.stderr.rstrip().endswith(": 2 succeeded, 3 failed and tolerated")
    tasks["wrong"] = {"run": "exit 1"}
    skep.file("flow.yaml", json.dumps({"name": "x", "tasks": tasks}))
    done = skep("run", "flow.yaml", "-q", code=1)
    assert "✗ wrong failed" in done.stderr
    assert "✗ optional" not in done.stderr
    assert "1 failed" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("absent.yaml", "absent.yaml: cannot be read"),
        ("absent", "expected a YAML or JSON file, module:workflow or file.py:workflow"),
        ("absent:flow", "absent:flow cannot be loaded: ModuleNotFoundError"),
        ("raises.py:flow", "raises.py:flow cannot be loaded: \nTraceback"),
        ("flows.py:nope", "flows.py:greeting, flows.py:failing"),
        ("flows.py", "flows.py:greeting, flows.py:failing"),
        ("flows", "there is no file flows"),
        ("flows:nope", "flows:greeting, flows:failing"),
        ("none.py", "there is no workflow in it"),
        (".", "is a directory"),
    ],
)
def test_a_target_that_leads_nowhere_is_refused(skep: Any, target: str, message: str) -> None:
    skep.file("flows.py", TASKS)
    skep.file("raises.py", "1 / 0\n")
    skep.file("none.py", "")
    done = skep("run", target, code=3)
    assert message in done.stderr
    assert "fault of Skep" not in done.stderr


def test_code_that_does_not_load_shows_its_own_frames_and_the_error_once(skep: Any) -> None:
    skep.file("helper.py", "def divide(by):\n    return 1 / by\n")
    skep.file("raises.py", "import helper\n\nhelper.divide(0)\n")
    skep.file(
        "builds.py", "from skep import workflow\n\n@workflow\ndef flow():\n    raise KeyError('x') from OSError('gone')\n"
    )
    skep.file("typo.py", "def flow(:\n")
    said = skep("run", "raises.py", code=3).stderr
    assert re.findall(r'File ".*?(\w+\.py)", line (\d+)', said) == [("raises.py", "3"), ("helper.py", "2")]
    assert said.count("ZeroDivisionError") == 1
    said = skep("run", "builds.py", code=3).stderr
    assert re.findall(r'File ".*?(\w+\.py)", line (\d+)', said) == [("builds.py", "5")]
    assert said.count("KeyError: 'x'") == said.count("OSError: gone") == 1
    said = skep("run", "typo.py", code=3).stderr
    assert re.findall(r'File ".*?(\w+\.py)", line (\d+)', said) == [("typo.py", "1")]
    assert said.count("SyntaxError") == 1


def test_a_data_directory_that_cannot_be_made_is_said(skep: Any) -> None:
    skep.file("flow.yaml", "name: one\ntasks:\n  hello: {run: echo hi}\n")
    skep.file("taken", "")
    done = skep("run", "flow.yaml", "--data", "taken", code=3)
    assert "the data directory" in done.stderr


def test_a_fault_of_our_own_is_a_short_message(skep: Any) -> None:
    skep.file("skep_broken.py", "import skep.cli.run as r\ndef bad(*a): raise RuntimeError('oops')\nr.find_target = bad\n")
    code = "import skep_broken, sys; sys.argv = ['skep', 'run', 'x.yaml']; from skep.cli import main; main()"
    for debug in ("", "1"):
        env = {"PYTHONPATH": f"{skep.env['PYTHONPATH']}:{skep.folder}", "SKEP_DEBUG": debug}
        done = _python(skep, code, env)
        assert "skep: RuntimeError: oops" in done
        assert ("Traceback" in done) == bool(debug)


def _python(skep: Any, code: str, env: dict[str, str]) -> str:
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env={**skep.env, **env}, cwd=skep.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    return done.stderr


@pytest.mark.parametrize(
    ("task", "code", "text"),
    [
        ("{approval: 'Ship it?'}", 3, "needs a server: `skep up`"),
        ("{approval: {message: Ship it?, deadline: 1s}}", 3, "needs a server"),
        ("{wait_for: pushed}", 3, "needs a server"),
        ("{uses: {workflow: {name: inner, tasks: {ask: {approval: 'Ship it?'}}}}}", 3, "tasks.ask"),
        ("{approval: {message: Ship it?, deadline: 10ms, default: approve}}", 0, "succeeded"),
        ("{wait_for: pushed, timeout: 10ms, on_failure: continue}", 0, "succeeded"),
        ("{uses: {workflow: {name: inner, tasks: {a: {run: 'true'}}}}}", 0, "succeeded"),
    ],
)
def test_what_waits_for_others_needs_a_server_unless_it_ends_by_itself(skep: Any, task: str, code: int, text: str) -> None:
    skep.file("flow.yaml", f"name: waits\ntasks:\n  a: {task}\n")
    done = skep("run", "flow.yaml", "--node", "small:cpu;slots=1", code=code)
    assert text in done.stderr
    if code:
        assert "line 3" in done.stderr
        assert skep.runs() == []


def test_a_dubious_workflow_is_run_with_a_warning(skep: Any) -> None:
    text = "name: two\nconflicts: warn\ntasks:\n  a: {run: 'true', writes: [x]}\n  b: {run: 'true', writes: [x]}\n"
    skep.file("flow.yaml", text)
    assert "warning: " in skep("run", "flow.yaml").stderr
    assert "warning: " in skep("check", "flow.yaml").stdout
    assert len(skep.json("check", "flow.yaml", "--json")["warnings"]) == 1
