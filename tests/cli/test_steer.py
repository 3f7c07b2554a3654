"""Commands that change what happens: one run, or many by filter; decisions of people; nodes and the queue."""

from __future__ import annotations

import json
from typing import Any

import pytest

LONG = """
name: {name}
tasks:
  a: {{run: "touch started; until [ -e go ]; do sleep 0.02; done"}}
  b: {{run: "true", needs: [a]}}
"""
ASK = """
name: ask
tasks:
  ship: {approval: {message: Ship it?, form: {type: object, properties: {version: {type: string}}, required: [version]}}}
  done: {run: "echo ${{ tasks.ship.output.data.version }}", needs: [ship]}
"""


def started(server: Any, wait: Any, name: str) -> str:
    (server.folder / "started").unlink(missing_ok=True)
    run: str = server.submit("flow.yaml", LONG.format(name=name))
    wait(lambda: (server.folder / "started").exists())
    return run


def parked(server: Any, wait: Any, flow: str = ASK) -> str:
    run: str = server.submit("flow.yaml", flow)
    with server.client() as client:
        wait(lambda: client.tasks.waits(run=run))
    return run


# -- runs


def test_cancel_stops_what_runs(server: Any, wait: Any) -> None:
    run = started(server, wait, "cancelled")
    assert run in server("cancel", run).stderr
    told = server("watch", run, code=4).stderr
    assert "  cancelling\n" in told
    assert f"cancelled {run}" in server("cancel", run, "--reason", "no need").stderr
    wait(lambda: server.state(run) == "cancelled")
    assert f"cancelled {run}" in server("cancel", run).stderr, "once more is no error"


def test_pause_starts_nothing_more_until_resume(server: Any, wait: Any) -> None:
    run = started(server, wait, "paused")
    server("pause", run)
    server.file("go", "")
    with server.client() as client:
        wait(lambda: client.runs.get(run).counts.get("succeeded") == 1)
        assert client.runs.get(run).paused
    assert "running, paused" in server("runs", "--search", run).stdout
    server("resume", run)
    wait(lambda: server.state(run) == "succeeded")


def test_retry_takes_up_what_failed(server: Any, wait: Any) -> None:
    flow = "name: again\ntasks:\n  a: {run: 'echo x >> a'}\n  b: {run: 'test -e mended', needs: [a]}\n"
    run = server.submit("flow.yaml", flow)
    wait(lambda: server.state(run) == "failed")
    server.file("mended", "")
    server("retry", run)
    wait(lambda: server.state(run) == "succeeded")
    assert (server.folder / "a").read_text() == "x\n"
    server("retry", run, "--from", "a")
    wait(lambda: (server.folder / "a").read_text() == "x\nx\n")
    wait(lambda: server.state(run) == "succeeded")


def test_retry_of_what_never_failed_is_refused(server: Any, wait: Any) -> None:
    run = server.submit("flow.yaml", "name: good\ntasks:\n  a: {run: 'true'}\n")
    wait(lambda: server.state(run) == "succeeded")
    assert f"nothing of run {run} failed" in server("retry", run, code=3).stderr


def test_many_are_chosen_by_a_filter_only_with_a_yes(server: Any, wait: Any) -> None:
    flow = "name: bulk\ntasks:\n  a: {run: 'sleep 60'}\n"
    runs = [server.submit("flow.yaml", flow, "--label", "bulk=1") for _ in range(3)]
    refused = server("cancel", "--label", "bulk=1", code=2)
    assert "3 runs" in refused.stderr
    assert "--yes" in refused.stderr
    assert {server.state(run) for run in runs} <= {"queued", "running"}
    bulk = server.json("cancel", "--label", "bulk=1", "--yes", "--json")
    assert (sorted(bulk["done"]), bulk["refused"]) == (sorted(runs), {})
    for run in runs:
        wait(lambda run=run: server.state(run) == "cancelled")
    assert "no runs to cancel" in server("cancel", "--label", "bulk=1").stderr


def test_several_by_name_are_each_told(server: Any, wait: Any) -> None:
    run = server.submit("flow.yaml", "name: some\ntasks:\n  a: {run: 'sleep 60'}\n")
    done = server("cancel", run, "ffffffff", code=3)
    assert f"cancelling {run}" in done.stderr
    assert "refused: ffffffff" in done.stderr


@pytest.mark.parametrize("args", [("cancel",), ("pause", "x", "--label", "y"), ("retry", "x", "y", "--from", "z")])
def test_what_is_meant_must_be_clear(server: Any, args: tuple[str, ...]) -> None:
    server(*args, code=2)


# -- people


def test_what_waits_for_a_person_is_listed_and_approved(server: Any, wait: Any) -> None:
    run = parked(server, wait)
    line = next(line for line in server("approvals").stdout.splitlines() if run in line)
    assert "Ship it? (--field version)" in line
    assert "Ship it?" in server("show", run).stdout
    done = server("approve", run, "--field", "version=1.2", "--comment", "fine", "--by", "ada")
    assert "ship" in done.stderr
    wait(lambda: server.state(run) == "succeeded")
    output = server.json("show", run, "ship", "--json")["output"]
    assert output == {"approved": True, "comment": "fine", "by": "ada", "data": {"version": "1.2"}}


def test_an_approval_by_somebody_twice_is_refused(server: Any, wait: Any) -> None:
    run = parked(server, wait)
    assert "--field NAME=VALUE" in server("approve", run, "ship", code=3).stderr
    server("reject", run, "ship", "--comment", "not now", "--by", "ada")
    wait(lambda: server.state(run) == "failed")
    assert "ship" in server("approve", run, "ship", "--field", "version=1", code=3).stderr
    assert "waits for a person" in server("approve", run, code=3).stderr
    assert server.json("show", run, "ship", "--json")["error"]["type"] == "Rejected"


def test_an_event_wakes_who_waits_for_it(server: Any, wait: Any) -> None:
    flow = "name: wait\ntasks:\n  w: {wait_for: {event: pushed, key: web}}\n"
    run = parked(server, wait, flow)
    assert "the event pushed of web" in server("show", run).stdout
    assert server("event", "pushed", "--key", "web", "--payload", '{"tag": 3}').stdout.strip()
    wait(lambda: server.state(run) == "succeeded")
    assert {"tag": 3} in (output := server.json("show", run, "w", "--json")["output"], output.get("data"))


# -- definitions and schedules


def test_definitions_are_kept_in_versions(server: Any) -> None:
    server.file("flow.yaml", "name: kept\ntasks:\n  a: {run: 'true'}\n")
    assert "kept@1" in server("definitions", "put", "flow.yaml", "--note", "first").stderr
    assert "kept@1" in server("definitions", "put", "flow.yaml").stderr
    server.file("flow.yaml", "name: kept\ntasks:\n  a: {run: 'false'}\n")
    assert "kept@2" in server("definitions", "put", "flow.yaml").stderr
    assert "first" in server("definitions", "list", "kept").stdout
    assert "run: 'true'" in server("definitions", "show", "kept@1").stdout.replace('"', "'")
    server.file("flow.yaml", server("definitions", "show", "kept").stdout)
    assert "kept@2" in server("definitions", "put", "flow.yaml").stderr, "what is shown is what was stored"
    assert "--yes" in server("definitions", "remove", "kept", code=2).stderr
    server("definitions", "remove", "kept", "--yes")
    assert "kept" in server("definitions", "show", "kept", code=3).stderr
    assert "no definition 'kept'" in server("definitions", "remove", "kept", code=3).stderr


def test_a_schedule_fires_is_paused_and_forgotten(server: Any, wait: Any) -> None:
    server.file("flow.yaml", "name: poll\ntasks:\n  a: {run: 'true'}\n")
    when = ("--cron", "30 2 * * *", "--timezone", "Europe/Berlin")
    assert "next" in server("schedule", "put", "nightly", "flow.yaml", *when).stderr
    assert "nightly" in server("schedule", "list").stdout
    run = server("schedule", "fire", "nightly").stdout.strip()
    wait(lambda: server.state(run) == "succeeded")
    shown = server("schedule", "show", "nightly").stdout
    assert "Europe/Berlin" in shown
    assert run in shown
    assert [found["id"] for found in server.json("runs", "--schedule", "nightly", "--json")["runs"]] == [run]
    assert server.json("schedule", "pause", "nightly", "--json")["paused"] is True
    assert "paused" in server("schedule", "list").stdout
    server("schedule", "resume", "nightly")
    server("schedule", "remove", "nightly")
    assert "nightly" in server("schedule", "show", "nightly", code=3).stderr
    assert "no schedule 'nightly'" in server("schedule", "remove", "nightly", code=3).stderr


def test_a_schedule_that_starts_nothing_says_why(server: Any, wait: Any) -> None:
    server.file("flow.yaml", "name: gone\ntasks:\n  a: {run: 'true'}\n")
    server("definitions", "put", "flow.yaml")
    server("schedule", "put", "vain", "--workflow", "gone", "--every", "1s")
    server("definitions", "remove", "gone")
    with server.client() as client:
        wait(lambda: client.schedules.get("vain").trouble)
    line = next(line for line in server("schedule", "list").stdout.splitlines() if line.startswith("vain"))
    assert "no definition 'gone'" in line
    assert "its last time started no run: " in server("schedule", "show", "vain").stdout
    server("schedule", "remove", "vain")


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (("flow.yaml", "--cron", "0 0 30 2 *"), 3, "never"),
        (("flow.yaml", "--cron", "61 * * * *"), 3, "cron"),
        (("flow.yaml",), 3, "cron"),
        (("--every", "5m"), 2, "FLOW"),
        (("--every", "5m", "--workflow", "x", "--overlap", "odd"), 3, "overlap"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(server: Any, options: tuple[str, ...], code: int, text: str) -> None:
    server.file("flow.yaml", "name: poll\ntasks:\n  a: {run: 'true'}\n")
    assert text in server("schedule", "put", "odd", *options, code=code).stderr


# -- nodes and the queue


def test_a_drained_node_gets_nothing_until_that_is_taken_back(own_server: Any, wait: Any) -> None:
    server = own_server
    line = server("nodes").stdout.splitlines()[1]
    assert line.split()[:2] == ["local", "live"]
    server("drain", "local")
    assert "draining" in server("nodes").stdout
    run = server.submit("flow.yaml", "name: one\ntasks:\n  a: {run: 'true'}\n")
    wait(lambda: server.json("queue", "stats", "--json")["ready"] == 1)
    server("drain", "local", "--undo")
    wait(lambda: server.state(run) == "succeeded")
    assert "nowhere" in server("drain", "nowhere", code=3).stderr


def test_a_paused_queue_starts_nothing(own_server: Any, wait: Any) -> None:
    server = own_server
    server("queue", "pause")
    run = server.submit("flow.yaml", "name: one\ntasks:\n  a: {run: 'true'}\n")
    wait(lambda: server.json("queue", "stats", "--json")["ready"] == 1)
    assert "paused: everything" in server("queue", "stats").stdout
    server("queue", "resume")
    wait(lambda: server.state(run) == "succeeded")


def test_shares_of_namespaces_are_told_and_kept(server: Any) -> None:
    assert "equal" in server("queue", "stats").stdout
    assert "namespace web: weight 2.5" in server("queue", "share", "web", "2.5").stderr
    assert "web 2.5" in server("queue", "stats").stdout
    assert server.json("queue", "share", "web", "1", "--json")["shares"] == {}
    for weight in ("0", "nan"):
        assert "weight" in server("queue", "share", "web", weight, code=3).stderr
    assert "-1" in server("queue", "share", "web", "--", "-1", code=3).stderr


def test_status_says_how_the_server_is(server: Any) -> None:
    assert "ready" in server("status").stdout
    found = server.json("status", "--json")
    assert (found["state"], found["data"]) == ("ready", str(server.home))
    answer = server.json("doctor", "--json")
    assert any(one["what"] == "server" and "ready" in one["found"] for one in answer["findings"])


def test_a_backup_is_written_while_the_server_runs(server: Any, wait: Any) -> None:
    run = server.submit("flow.yaml", "name: saved\ntasks:\n  a: {run: 'true'}\n")
    wait(lambda: server.state(run) == "succeeded")
    assert server.json("backup", "copy", "--json")["runs"] >= 1
    assert "runs on" in server("restore", "copy", "--force", code=3).stderr
    server("restore", "copy", "--data", "other")
    assert json.loads((server.folder / "copy" / "backup.json").read_bytes())["format"] == 1


def test_shells_are_offered_what_the_server_knows(server: Any, wait: Any) -> None:
    run = parked(server, wait)

    def offered(*words: str) -> list[str]:
        env = {"_SKEP_COMPLETE": "complete_bash", "COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1)}
        return [word for word in server(**env).stdout.split("\n") if word]

    assert run in offered("skep", "watch", "")
    assert offered("skep", "approve", run, "") == ["ship"]
    assert offered("skep", "drain", "lo") == ["local"]
    assert offered("skep", "logs", run, "d") == offered("skep", "logs", "last", "d") == ["done"]
    assert offered("skep", "retry", run, "--from", "s") == ["ship"]
    server("cancel", run)
