"""`skep submit`: what is accepted, what is refused, and what --wait does."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest

ONE = """
name: one
inputs: {who: world}
tasks:
  hello: {run: "echo hello ${{ inputs.who }}"}
output: ${{ tasks.hello.output }}
"""
SUMS = """
from skep import task, workflow

@task
def add(a: int, b: int) -> int:
    return a + b

@workflow
def sums(n: int = 2):
    return add(n, 3)
"""
ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")


def test_the_id_goes_to_standard_output_and_nothing_else(server: Any) -> None:
    server.file("flow.yaml", ONE)
    done = server("submit", "flow.yaml", "--input", "who=you", "--label", "team=web", "--priority", "high")
    assert ID.fullmatch(done.stdout.strip())
    assert done.stderr == ""
    with server.client() as client:
        run = client.runs.wait(done.stdout.strip(), 20)
        assert (run.state, run.labels, run.priority) == ("succeeded", {"team": "web"}, 8)
        assert client.runs.view(run.id).output == "hello you"


def test_json_is_the_run(server: Any) -> None:
    server.file("flow.yaml", ONE)
    run = server.json("submit", "flow.yaml", "--json")
    assert (run["workflow"], run["tasks"]) == ("one", 1)


def test_waiting_prints_the_output_and_says_how_it_went(server: Any) -> None:
    server.file("flow.yaml", ONE)
    done = server("submit", "flow.yaml", "--wait")
    assert json.loads(done.stdout) == "hello world"
    assert "ok" in done.stderr
    assert "hello on local" in done.stderr
    assert "one succeeded" in done.stderr
    assert "\x1b" not in done.stderr
    view = server.json("submit", "flow.yaml", "--wait", "--json")
    assert [task["output"] for task in view["tasks"]] == ["hello world"]


@pytest.mark.parametrize(
    ("options", "body", "code", "text"),
    [
        ((), "run: 'echo oh dear >&2; exit 3'", 1, "oh dear"),
        (("--timeout", "300ms"), "run: 'sleep 60'", 5, "timeout"),
    ],
)
def test_waiting_exits_as_the_run_ended(server: Any, options: tuple[str, ...], body: str, code: int, text: str) -> None:
    server.file("flow.yaml", f"name: bad\ntasks:\n  a: {{{body}}}\n")
    done = server("submit", "flow.yaml", "--wait", *options, code=code)
    assert done.stdout == ""
    assert text in done.stderr
    assert "bad failed" in done.stderr


def test_a_run_that_somebody_cancels_exits_with_4(server: Any, wait: Any) -> None:
    server.file("flow.yaml", "name: long\ntasks:\n  a: {run: 'touch started; sleep 60'}\n")
    process = server.start("submit", "flow.yaml", "--wait", "--label", "mine=4")
    wait(lambda: (server.folder / "started").exists())
    server("cancel", "--label", "mine=4", "--state", "running")
    assert process.wait(timeout=20) == 4


def test_relative_paths_start_beside_the_file(server: Any) -> None:
    run = server.submit("deep/flow.yaml", "name: here\ntasks:\n  a: {run: 'touch mark'}\n")
    with server.client() as client:
        assert client.runs.wait(run, 20).state == "succeeded"
    assert (server.folder / "deep" / "mark").exists()


def test_python_workflows_run_on_the_nodes(server: Any) -> None:
    server.file("flow.py", SUMS)
    assert json.loads(server("submit", "flow.py:sums", "--input", "n=4", "--wait").stdout) == 7


def test_a_stored_workflow_is_named_by_version(server: Any) -> None:
    server.file("flow.yaml", "name: stored\ntasks:\n  a: {run: echo 1}\n")
    server("definitions", "put", "flow.yaml")
    server.file("flow.yaml", "name: stored\ntasks:\n  a: {run: echo 2}\n")
    server("definitions", "put", "flow.yaml")
    outputs = [json.loads(server("submit", name, "--wait").stdout) for name in ("stored", "stored@1")]
    assert outputs == [{"a": "2"}, {"a": "1"}]
    assert "no version 9" in server("submit", "stored@9", code=3).stderr
    assert "nowhere" in server("submit", "nowhere", code=3).stderr


def test_the_same_key_gives_the_same_run(server: Any) -> None:
    first, second = (server.submit("flow.yaml", ONE, "--idempotency-key", "job-1") for _ in range(2))
    assert first == second
    assert "job-1" in server("submit", "flow.yaml", "--input", "who=other", "--idempotency-key", "job-1", code=3).stderr


def test_a_unique_run_is_given_while_it_goes_on(server: Any) -> None:
    server.file("flow.yaml", "name: one\nunique: only\ntasks:\n  a: {approval: 'Go on?'}\n")
    run = server("submit", "flow.yaml").stdout.strip()
    done = server("submit", "flow.yaml")
    assert done.stdout.strip() == run
    assert f"nothing was started: run {run} has this key" in done.stderr
    assert json.loads(server("submit", "flow.yaml", "--json").stdout)["known"] is True
    other = server("submit", "flow.yaml", "--unique", "another").stdout.strip()
    assert other != run
    server("cancel", run, other)


def test_a_run_may_start_later(server: Any) -> None:
    run = server.submit("flow.yaml", ONE, "--in", "1h")
    with server.client() as client:
        found = client.runs.get(run)
        assert found.state == "queued"
        assert found.due_ms is not None
        assert 3_500_000 < found.due_ms - time.time() * 1000 <= 3_600_000
    assert re.search("queued, due in (59m|1h) ", server("runs", "--search", run).stdout)
    assert "due " in server("show", run).stdout
    server("cancel", run)
    assert "--at or --in" in server("submit", "flow.yaml", "--in", "1h", "--at", "08:00", code=2).stderr
    assert "for example" in server("submit", "flow.yaml", "--at", "soon", code=2).stderr


def test_what_is_wrong_is_told_with_its_line_and_nothing_is_accepted(server: Any) -> None:
    server.file("flow.yaml", "name: x\ntasks:\n  a: {run: 'true', needs: [b]}\n")
    assert "line 3" in server("submit", "flow.yaml", code=3).stderr
    assert "problems" in json.loads(server("submit", "flow.yaml", "--json", code=3).stdout)
    server.file("flow.yaml", ONE)
    assert "there is no such input" in server("submit", "flow.yaml", "--input", "whom=x", code=3).stderr


def test_a_dubious_workflow_is_accepted_with_a_warning(server: Any) -> None:
    text = "name: two\nconflicts: warn\ntasks:\n  a: {run: 'true', writes: [x]}\n  b: {run: 'true', writes: [x]}\n"
    server.file("flow.yaml", text)
    done = server("submit", "flow.yaml")
    assert ID.fullmatch(done.stdout.strip())
    assert "warning" in done.stderr


def test_without_a_server_it_says_how_to_start_one(skep: Any) -> None:
    skep.file("flow.yaml", ONE)
    done = skep("submit", "flow.yaml", code=6)
    assert "skep up" in done.stderr
    assert "error" in json.loads(skep("submit", "flow.yaml", "--json", code=6).stdout)
