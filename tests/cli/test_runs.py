"""`skep runs`, `skep show` and `skep logs`: what there is, and how it is found."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

import pytest

from skep.client import Filter

CHILDREN = """
name: parent
labels: {family: parent}
tasks:
  each: {uses: {workflow: {name: child, labels: {family: child}, tasks: {a: {run: "true"}}}}, map: [1, 2]}
"""
FLOW = """
name: {name}
tasks:
  say: {{run: "echo first; echo second >&2"}}
  each: {{run: "echo item ${{{{ item }}}}", map: [1, 2, 3], needs: [say]}}
  end: {{run: "exit {code}", needs: [each]}}
"""


def ended(server: Any, name: str, *options: str, code: int = 0) -> str:
    """A run of this name that is over."""
    run: str = server.submit(f"{name}.yaml", FLOW.format(name=name, code=code), *options)
    with server.client() as client:
        client.runs.wait(run, 20)
    return run


# -- runs


def test_the_newest_run_stands_first(server: Any) -> None:
    older, newer = ended(server, "listing"), ended(server, "listing", code=1)
    lines = server("runs", "--workflow", "listing").stdout.splitlines()
    assert lines[0].split() == ["run", "workflow", "state", "tasks", "accepted", "took", "labels"]
    assert [line.split()[:3] for line in lines[1:]] == [[newer, "listing", "failed"], [older, "listing", "succeeded"]]


def test_filters_hold_together(server: Any) -> None:
    ended(server, "filtered", "--label", "team=web")
    bad = ended(server, "filtered", "--label", "team=web", code=1)
    ended(server, "filtered", "--label", "team=app", code=1)

    def found(*options: str) -> list[str]:
        return [run["id"] for run in server.json("runs", "--workflow", "filtered", "--json", *options)["runs"]]

    assert found("--state", "failed", "--label", "team=web") == [bad]
    assert len(found("--label", "team")) == 3
    assert len(found("--since", "1h")) == 3
    assert found("--until", "1h") == []
    assert found("--search", bad[:20]) == [bad]
    assert "no such runs" in server("runs", "--workflow", "never").stderr
    assert "expected one of" in server("runs", "--state", "odd", code=2).stderr


def test_pages_follow_each_other_without_gap_or_repeat(server: Any) -> None:
    every = [ended(server, "paged") for _ in range(5)]
    seen: list[str] = []
    cursor: list[str] = []
    for _ in range(3):
        page = server.json("runs", "--workflow", "paged", "--limit", "2", "--json", *cursor)
        seen += [run["id"] for run in page["runs"]]
        cursor = ["--cursor", page["next"] or ""]
    assert seen == every[::-1]
    assert "--cursor" in server("runs", "--workflow", "paged", "--limit", "2").stderr
    lines = server("runs", "--workflow", "paged", "--all", "--json").stdout.splitlines()
    assert [json.loads(line)["id"] for line in lines] == seen
    assert len(server("runs", "--workflow", "paged", "--all").stdout.splitlines()) == 6


def test_children_are_listed_only_when_they_are_asked_for(server: Any) -> None:
    server.file("parent.yaml", CHILDREN)
    parent = server.json("submit", "parent.yaml", "--wait", "--json")["id"]

    def found(*options: str) -> list[str]:
        return [run["id"] for run in server.json("runs", "--label", "family", "--json", *options)["runs"]]

    with server.client() as client:
        children = [run.id for run in client.runs.list(Filter(parent=parent)).runs]
    assert len(children) == 2
    assert found() == [parent]
    assert sorted(found("--children")) == sorted([parent, *children])
    assert sorted(run["id"] for run in server.json("runs", "--parent", parent, "--json")["runs"]) == sorted(children)
    assert parent in server("show", "last").stdout.splitlines()[1], "the newest run is nobody's child"
    assert "--children" in server("runs", "--search", children[0]).stderr


def test_a_run_that_is_due_later_says_when(server: Any) -> None:
    run = server.submit("later.yaml", FLOW.format(name="later", code=0), "--in", "1h")
    line = server("runs", "--workflow", "later").stdout.splitlines()[1]
    assert re.fullmatch(rf"{run}  later +queued, due in (59m|1h) +- +(now|\d+s ago) +-", line.rstrip())
    server("cancel", run)


def test_an_empty_id_is_no_run(server: Any) -> None:
    for command in ("show", "watch", "logs", "cancel"):
        assert "is empty" in server(command, "", code=2).stderr


@pytest.mark.parametrize("command", ["queue pause", "queue stats", "cancel --yes --state running", "runs"])
def test_an_empty_name_does_not_mean_everything(server: Any, command: str) -> None:
    assert "is empty" in server(*command.split(), "--namespace", "", code=2).stderr
    if "queue" not in command:
        for option in ("--label", "--workflow", "--search", "--parent", "--since", "--schedule"):
            assert "is empty" in server(*command.split(), option, "", code=2).stderr


def test_a_reader_that_leaves_early_is_no_error(server: Any) -> None:
    ended(server, "piped")
    process = server.start("runs", "--all", "--json")
    process.stdout.close()
    process.wait(timeout=20)
    assert process.stderr.read() == ""


# -- show


def test_a_run_that_is_held_by_the_queue_says_so(own_server: Any, wait: Any) -> None:
    own_server("queue", "pause")
    run = own_server.submit("held.yaml", FLOW.format(name="held", code=0))
    with own_server.client() as client:
        wait(lambda: client.queue.stats().ready)
    assert "held      the queue is paused; `skep queue resume` goes on" in own_server("show", run).stdout
    own_server("queue", "resume")
    wait(lambda: own_server.state(run) == "succeeded")
    assert "held  " not in own_server("show", run).stdout.split("\n", 1)[1]
    run = own_server.submit("gpu.yaml", "name: gpu\ntasks:\n  a: {run: 'true', requires: [gpu]}\n")
    with own_server.client() as client:
        wait(lambda: any(one.unplaced for one in client.queue.stats().classes))
    assert "a task finds no node with room" in own_server("show", run).stdout
    asks = own_server.submit("ask.yaml", "name: ask\ntasks:\n  a: {approval: sure?}\n  b: {run: 'true', needs: [a]}\n")
    with own_server.client() as client:
        wait(lambda: client.tasks.waits(run=asks))
    assert "held  " not in own_server("show", asks).stdout, "it is not the queue that it waits for"


def test_show_says_how_a_run_stands_problems_first(server: Any) -> None:
    run = ended(server, "shown", "--label", "team=web", code=3)
    lines = server("show", run).stdout.splitlines()
    assert lines[0] == "shown  failed"
    text = "\n".join(lines)
    assert run in text
    assert "team=web" in text
    assert "1 failed" in text
    table = [line.split()[:2] for line in lines[lines.index("") + 2 :]]
    assert table[0] == ["end", "failed"]
    assert ["each[2]", "succeeded"] in table
    assert "ExitCode" in text


def test_a_run_is_named_by_the_beginning_of_its_id(server: Any) -> None:
    run = ended(server, "named")
    assert run in server("show", run[:23]).stdout
    assert run in server("show", "last").stdout
    assert run in server("show", "-").stdout
    assert run in server("show").stdout
    assert "no run" in server("show", "ffffffff", code=3).stderr


def test_json_is_the_document_of_skep_run(server: Any) -> None:
    run = ended(server, "whole")
    view = server.json("show", run, "--json")
    assert [task["name"] for task in view["tasks"]] == ["say", "each", "each[0]", "each[1]", "each[2]", "end"]


def test_one_task_is_shown_with_its_attempts_and_output(server: Any) -> None:
    run = ended(server, "single", code=3)
    assert "exit code 3" in server("show", run, "end").stdout
    assert "item 2" in server("show", run, "each[1]").stdout
    assert server.json("show", run, "each[1]", "--json")["output"] == "item 2"
    assert "no task 'nix'" in server("show", run, "nix", code=3).stderr


def test_tasks_are_paged_and_filtered(server: Any) -> None:
    run = ended(server, "tasks", code=3)
    page = server.json("show", run, "--tasks", "--limit", "4", "--json")
    rest = server.json("show", run, "--tasks", "--cursor", page["next"], "--json")
    assert [task["index"] for task in page["tasks"] + rest["tasks"]] == list(range(6))
    assert [task["name"] for task in server.json("show", run, "--state", "failed", "--json")["tasks"]] == ["end"]
    lines = server("show", run, "--search", "each[", "--all", "--json").stdout.splitlines()
    assert [json.loads(line)["name"] for line in lines] == ["each[0]", "each[1]", "each[2]"]


# -- logs


def test_logs_of_several_tasks_name_them(server: Any) -> None:
    run = ended(server, "logged")
    lines = server("logs", run).stdout.splitlines()
    assert {tuple(part.strip() for part in line.split("│")) for line in lines} == {
        ("say", "first"),
        ("say", "second"),
        *((f"each[{at}]", f"item {at + 1}") for at in range(3)),
    }


def test_logs_of_one_task_are_as_it_wrote_them(server: Any) -> None:
    run = ended(server, "plain")
    assert sorted(server("logs", run, "say").stdout.splitlines()) == ["first", "second"]
    assert server("logs", run, "each[0]", "--attempt", "1").stdout == "item 1\n"
    pieces = [json.loads(line) for line in server("logs", run, "say", "--json").stdout.splitlines()]
    assert {piece["stream"] for piece in pieces} == {"out", "err"}


def test_a_tail_is_the_last_lines_of_what_is_there(server: Any) -> None:
    flow = "name: long\ntasks:\n  a: {run: 'seq 1 500; printf open'}\n  b: {run: 'echo x; echo y', needs: [a]}\n"
    run = server.submit("long.yaml", flow)
    with server.client() as client:
        client.runs.wait(run, 20)
    assert server("logs", run, "a", "--tail", "3").stdout == "499\n500\nopen"
    assert server("logs", run, "--tail", "2").stdout.splitlines() == server("logs", run).stdout.splitlines()[-2:]
    assert server("logs", run, "--tail", "2", "-f").stdout == "b │ x\nb │ y\na │ open\n", "the open line ends with the run"
    assert json.loads(server("logs", run, "--tail", "1", "--json").stdout)["task"] == "b"


def test_logs_are_followed_to_the_end_of_the_run(server: Any, wait: Any) -> None:
    flow = "name: slow\ntasks:\n  a: {run: 'echo one; until [ -e go ]; do sleep 0.02; done; echo two'}\n"
    run = server.submit("flow.yaml", flow)
    process = server.start("logs", run, "a", "-f")
    assert process.stdout.readline() == "one\n"
    server.file("go", "")
    out, err = process.communicate(timeout=20)
    assert (out, err, process.returncode) == ("two\n", "", 0)


ASKING = ("runs", "show", "logs x", "watch", "nodes", "status", "approvals", "queue stats", "cancel x")


@pytest.mark.parametrize("command", ASKING)
def test_without_a_server_everything_says_so(skep: Any, command: str) -> None:
    done: subprocess.CompletedProcess[str] = skep(*command.split(), code=6)
    assert "no server runs" in done.stderr
    assert done.stdout == ""
