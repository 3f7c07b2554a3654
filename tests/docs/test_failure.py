"""What the page on failures promises, seen as a user sees it; and that every test it names is there."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import psutil
import pytest

from skep.testing.engine import EngineConformance

ROOT = Path(__file__).parents[2]
Terminal = Callable[[str], CompletedProcess[str]]


def test_every_test_that_the_page_names_is_there() -> None:
    named = re.findall(r"`((?:tests|src)/[\w/]+\.py)::([\w:]+)`", (ROOT / "docs" / "failure.md").read_text("utf-8"))
    assert len(named) > 40
    assert [f"{file}::{name}" for file, name in named if not _is_there(ROOT / file, name)] == []


def _is_there(file: Path, name: str) -> bool:
    owner, _, test = name.rpartition("::")
    if owner:  # a class that takes its tests from the published suite
        return f"class {owner}(EngineConformance)" in file.read_text("utf-8") and hasattr(EngineConformance, test)
    body = ast.parse(file.read_text("utf-8")).body if file.exists() else ()
    return any(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == test for node in body)


def view_of(ended: CompletedProcess[str]) -> Any:
    """The document of `skep run --json`, between what else was printed."""
    start = ended.stdout.index("{\n")
    return json.JSONDecoder().raw_decode(ended.stdout, start)[0]


# -- refused

WRONG = {
    "cycle": ("{a: {run: x, needs: b}, b: {run: x, needs: a}}", "cycle: a → b → a"),
    "unknown needs": (
        "{test: {run: x}, b: {run: x, needs: tets}}",
        "tasks.b.needs: there is no task 'tets'; did you mean 'test'?",
    ),
    "unknown task": ("{a: {run: x, when: tasks.c.output}}", "tasks.a.when: there is no task 'c'"),
    "unknown input": ("{a: {run: x, when: inputs.c}}", "tasks.a.when: there is no input 'c'"),
    "twice": ("[{name: a, run: x}, {name: a, run: y}]", "there are two tasks named 'a'"),
    "wrong type": ("{a: {run: x, timeout: soon}}", "tasks.a.timeout: 'soon' is not a duration"),
    "unknown key": ("{a: {run: x, retires: 1}}", "tasks.a.retires: a task has no such key; did you mean 'retries'?"),
    "two executors": ("{a: {run: x, python: 'm:f'}}", "found `run` and `python`, expected exactly one executor"),
    "no executor": ("{a: {needs: []}}", "says nothing to do, expected `run`, `python`, `http`, `approval`, `uses`"),
    "planned executor": ("{a: {agent: reviewer}}", "this version does not run `agent` tasks yet"),
    "no expression": ("{a: {run: x, when: '1 +'}}", "tasks.a.when: expected an expression"),
    "no whitelist": ("{a: {run: x, when: '[x for x in [1]]'}}", "ListComp is not available, at column 1"),
    "in quotes": ("""{a: {run: "echo '${{ inputs.i }}'"}}""", "must not stand inside of quotes"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_workflow_is_refused(case: str, terminal: Terminal, tmp_path: Path) -> None:
    tasks, message = WRONG[case]
    (tmp_path / "wrong.yaml").write_text(f"name: wrong\ninputs: {{i: 1}}\ntasks: {tasks}\n")
    ended = terminal("skep run wrong.yaml")
    assert ended.returncode == 3
    assert message in ended.stdout
    assert "line 3: " in ended.stdout
    assert not (tmp_path / ".data").exists()


@pytest.mark.parametrize(
    ("given", "message"), [("", "inputs.i: is required"), ("--input i=1 --input j=2", "no such input; did you mean")]
)
def test_wrong_inputs_are_refused(given: str, message: str, terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "flow.yaml").write_text("name: w\nrequired: [i]\ntasks: {a: {run: 'true'}}\n")
    ended = terminal(f"skep run flow.yaml {given}")
    assert ended.returncode == 3
    assert message.partition(";")[0] in ended.stdout


# -- results and functions

ODD = """
import sys

from skep import task, workflow


class Odd(BaseException):
    pass


@task(on_failure="continue")
def no_json(): return object()

@task(on_failure="continue")
def odd(): raise Odd("odd")

@task(on_failure="continue")
async def odd_coroutine(): raise Odd("odd")

@task(on_failure="continue")
def leaves(): sys.exit(3)

@task(on_failure="continue", isolation="process")
def leaves_apart(): sys.exit(3)

@task(on_failure="continue")
def interrupts(): raise KeyboardInterrupt

@task(on_failure="continue")
def number(): return 1

@task(on_failure="continue")
def takes(x): return x

@task
def fine(): return "fine"


@workflow
def odds():
    one = number()
    takes(one.name)
    takes.options(name="mapped").map(one)
    no_json(), odd(), odd_coroutine(), leaves(), leaves_apart(), interrupts(), fine()
"""


def test_what_tasks_do_wrong_is_their_failure(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "odds.py").write_text(ODD)
    ended = terminal("skep run odds.py --json")
    assert ended.returncode == 0, ended.stdout
    view = view_of(ended)
    assert {task["name"]: (task["error"] or {}).get("type") for task in view["tasks"]} == {
        "number": None,
        "takes": "Expression",
        "mapped": "Map",
        "no_json": "Result",
        "odd": "Odd",
        "odd_coroutine": "Odd",
        "leaves": "SystemExit",
        "leaves_apart": "SystemExit",
        "interrupts": "KeyboardInterrupt",
        "fine": None,
    }
    assert "Return numbers, texts, lists" in ended.stdout


def test_a_nul_character_arrives(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "nul.py").write_text(
        "from skep import task, workflow\n"
        "@task\ndef nul(): return 'a\\0b'\n"
        "@task\ndef size(text): return len(text)\n"
        "@workflow\ndef main():\n    text = nul()\n    return [text, size(text)]\n"
    )
    ended = terminal("skep run nul.py --json")
    assert view_of(ended)["output"] == ["a\0b", 3]


def test_a_large_output_is_an_artifact(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "large.py").write_text(
        "from skep import task, workflow\n"
        "@task\ndef large(): return 'x' * 100_000\n"
        "@task\ndef size(text): return len(text)\n"
        "@workflow\ndef main(): return size(large())\n"
    )
    assert view_of(terminal("skep run large.py --json"))["output"] == 100_000
    files = [file for file in (tmp_path / ".data" / "artifacts").rglob("*") if file.is_file()]
    assert [file.stat().st_size for file in files] == [100_002]


# -- what does not stop

BLOCKS = """
import time

from skep import task, workflow

@task(timeout="200ms", on_failure="continue")
async def blocks():
    time.sleep(30)

@task
async def after(nothing): return "after"

@workflow
def main(): return after(blocks())
"""


def test_a_coroutine_that_blocks_the_loop(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "blocks.py").write_text(BLOCKS)
    view = view_of(terminal("skep run blocks.py --json"))
    assert view["output"] == "after"
    (error,) = [task["error"] for task in view["tasks"] if task["name"] == "blocks"]
    assert error["type"] == "Timeout"
    assert view["finished_ms"] - view["started_ms"] < 15_000


STUBBORN = """
import time

from skep import task, workflow

@task(timeout="200ms", on_failure="continue")
def stubborn():
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            time.sleep(0.01)
        except BaseException:
            pass
    return "late"

@workflow
def main(): return stubborn()
"""


def test_a_function_that_does_not_stop(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    ended = terminal("skep run stubborn.py --json")
    view = view_of(ended)
    (task,) = view["tasks"]
    assert (task["error"]["type"], task["output"], view["output"]) == ("Timeout", None, None)
    assert "left behind" in ended.stdout


def test_a_timeout_ends_the_whole_tree(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "tree.yaml").write_text(
        "name: tree\ntasks: {a: {run: 'trap \"\" TERM; sleep 300 & echo $! >> pids; echo $$ >> pids; wait', timeout: 300ms}}\n"
    )
    assert terminal("skep run tree.yaml").returncode == 1
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 2
    assert not any(psutil.pid_exists(pid) and psutil.Process(pid).name() in ("sh", "sleep", "dash") for pid in pids)
