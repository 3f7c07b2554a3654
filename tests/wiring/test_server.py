"""`skep up` as a process: who owns a data directory, what outlives it, and how it ends."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from skep.client import Client, Refusal, UnreachableError
from skep.config import socket_path
from skep.errors import WrongStateError
from skep.model.authoring import build_workflow
from skep.model.spec import WorkflowSpec
from skep.node.detached import listed
from skep.testing.up import Up
from skep.wiring import RECORD_FILE


def flow(**tasks: Any) -> WorkflowSpec:
    return build_workflow({"name": "w", "tasks": tasks})


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    with Up(tmp_path / "home", "--node", "n:cpu;slots=4;cpu=4") as server:
        yield server


def refused(home: Path) -> str:
    """What `skep up` says there, when it does not start."""
    command = [sys.executable, "-m", "skep", "up", "--data", str(home), "--no-node"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 3, ended
    assert "Traceback" not in ended.stderr
    return ended.stderr


def waiting(path: Path) -> dict[str, str]:
    """A command that runs until there is a file."""
    return {"run": f"until test -e {path}; do sleep 0.05; done"}


# -- who owns the data


def test_a_second_server_is_told_who_has_the_data(up: Up) -> None:
    up.start()
    assert up.process is not None
    said = refused(up.home)
    assert f"process {up.process.pid}" in said
    assert "--data" in said
    assert up.client.insight.status().state in ("rejoin", "ready"), "the first one does not notice"


def test_what_a_killed_server_left_behind_is_no_hindrance(up: Up) -> None:
    up.start()
    up.kill()
    assert socket_path(up.home).exists()
    with pytest.raises(UnreachableError, match="skep up"):
        up.client.insight.status()
    up.start()
    assert up.client.runs.submit(flow(a={"run": "true"}), wait_s=10).state == "succeeded"


def test_a_file_in_the_place_of_the_socket_is_not_removed(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "skep.sock").write_text("mine")
    assert "no socket" in refused(home)
    assert (home / "skep.sock").read_text() == "mine"


def test_a_long_path_has_its_socket_elsewhere(tmp_path: Path) -> None:
    home = tmp_path / ("long" * 30)
    with Up(home, "--node", "n:cpu;slots=1;cpu=1") as server:
        server.start()
        assert not (home / "skep.sock").exists()
        assert server.client.runs.submit(flow(a={"run": "true"}), wait_s=10).state == "succeeded"


def test_nobody_else_can_connect(up: Up) -> None:
    up.start()
    assert up.home.stat().st_mode & 0o077 == 0
    assert socket_path(up.home).stat().st_mode & 0o077 == 0


def test_a_record_of_a_newer_version_is_refused_with_both_named(up: Up) -> None:
    up.start()
    up.kill()
    record = sqlite3.connect(up.home / RECORD_FILE)
    (version,) = record.execute("SELECT version FROM record_version").fetchone()
    record.execute("UPDATE record_version SET version = 99")
    record.commit()
    record.close()
    said = refused(up.home)
    assert "99" in said
    assert str(version) in said


def test_a_damaged_record_is_refused_with_what_can_be_done(up: Up) -> None:
    up.start()
    up.client.runs.submit(flow(a={"run": "true"}), wait_s=10)
    up.kill()
    for suffix in ("-wal", "-shm"):
        (up.home / f"{RECORD_FILE}{suffix}").unlink(missing_ok=True)
    file = up.home / RECORD_FILE
    file.write_bytes(b"\0" * 4096 + file.read_bytes()[4096:])
    assert "backup" in refused(up.home)


# -- another version


def test_a_client_of_another_version_is_refused_with_both_named(up: Up) -> None:
    up.start()
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(socket_path(up.home)))
    connection.request("GET", "/status", headers={"Skep-Protocol": "77"})
    response = connection.getresponse()
    told = msgspec.json.decode(response.read(), type=Refusal)
    connection.close()
    assert response.status == 422
    assert "protocol 1" in told.detail
    assert "77" in told.detail


# -- what outlives it


def test_pauses_and_drains_are_kept(up: Up) -> None:
    up.start()
    up.until(lambda: up.client.nodes.list(), "the node is there")
    up.client.nodes.drain("n")
    up.client.queue.pause("quiet")
    run = up.client.runs.submit(flow(a={"run": "true"}))
    up.kill()
    up.start()
    up.until(lambda: up.client.nodes.list(), "the node is back")
    assert up.client.queue.stats().paused == ["quiet"]
    up.until(lambda: up.client.nodes.list()[0].state == "draining", "it still drains")
    assert up.client.runs.get(run.id).state != "succeeded"
    up.client.nodes.drain("n", on=False)
    up.client.queue.resume()
    assert up.client.runs.wait(run.id, 20).state == "succeeded"


def test_a_paused_queue_starts_nothing(up: Up) -> None:
    up.start()
    up.client.queue.pause()
    run = up.client.runs.submit(flow(a={"run": "true"})).id
    up.until(lambda: up.client.queue.stats().ready == 1, "it is ready")
    assert up.client.queue.stats().running == 0
    up.client.queue.resume()
    assert up.client.runs.wait(run, 20).state == "succeeded"


def test_hang_up_leaves_the_nodes_at_work(up: Up, tmp_path: Path) -> None:
    up.start()
    go = tmp_path / "go"
    run = up.client.runs.submit(flow(a=waiting(go))).id
    up.until(lambda: up.client.queue.stats().running == 1, "it runs")
    (node,) = listed(up.home)
    up.signal(signal.SIGHUP)
    assert up.wait() == 0
    assert listed(up.home) == [node]
    up.start()
    go.touch()
    assert up.client.runs.wait(run, 20).state == "succeeded"
    assert up.client.tasks.get(run, "a").attempts == 1


def test_a_local_node_that_is_gone_is_started_again(up: Up) -> None:
    up.start()
    up.until(lambda: up.client.nodes.list(), "the node is there")
    (node,) = listed(up.home)
    os.kill(node.pid, signal.SIGKILL)
    up.until(lambda: [other for other in listed(up.home) if other.pid != node.pid], "another one is there")
    assert up.client.runs.submit(flow(a={"run": "true"}), wait_s=20).state == "succeeded"
    assert "node n is gone" in up.said()


# -- how it ends


def test_the_first_signal_lets_what_runs_end(up: Up, tmp_path: Path) -> None:
    up.start()
    go = tmp_path / "go"
    run = up.client.runs.submit(flow(a=waiting(go), b={"run": "true", "needs": ["a"]})).id
    up.until(lambda: up.client.queue.stats().running == 1, "it runs")
    (node,) = listed(up.home)
    up.signal(signal.SIGTERM)
    up.until(lambda: up.client.insight.status().state == "draining", "it drains")
    go.touch()
    assert up.wait() == 0
    assert node not in listed(up.home)
    up.start()
    assert up.client.runs.wait(run, 20).state == "succeeded"
    assert [task.attempts for task in up.client.runs.view(run).tasks] == [1, 1]


def test_the_second_stops_what_runs_and_it_begins_again(up: Up, tmp_path: Path) -> None:
    up.start()
    go = tmp_path / "go"
    run = up.client.runs.submit(flow(a=waiting(go))).id
    up.until(lambda: up.client.queue.stats().running == 1, "it runs")
    up.signal(signal.SIGTERM)
    up.until(lambda: up.client.insight.status().state == "draining", "it drains")
    up.signal(signal.SIGTERM)
    assert up.wait() == 0
    assert not listed(up.home)
    up.start()
    go.touch()
    assert up.client.runs.wait(run, 20).state == "succeeded"
    assert up.client.tasks.get(run, "a").attempts == 2


# -- commands


def test_what_has_ended_is_not_cancelled_and_what_never_failed_not_retried(up: Up) -> None:
    up.start()
    client: Client = up.client
    run = client.runs.submit(flow(a={"run": "true"}), wait_s=10).id
    with pytest.raises(WrongStateError, match="succeeded"):
        client.runs.cancel(run)
    with pytest.raises(WrongStateError, match="nothing of run"):
        client.runs.retry(run)
    client.runs.retry(run, ["a"])
    assert client.runs.wait(run, 20).state == "succeeded"
    assert client.tasks.get(run, "a").attempts == 2


def test_a_run_that_is_due_later_can_be_cancelled_now(up: Up) -> None:
    up.start()
    run = up.client.runs.submit(flow(a={"run": "true"}), in_ms=3_600_000).id
    assert up.client.runs.get(run).state == "queued"
    up.client.runs.cancel(run)
    assert up.client.runs.wait(run, 20).state == "cancelled"


def test_a_run_that_is_due_soon_starts_then(up: Up) -> None:
    up.start()
    run = up.client.runs.submit(flow(a={"run": "true"}), in_ms=300).id
    ended = up.client.runs.wait(run, 20)
    assert ended.state == "succeeded"
    assert ended.started_ms is not None
    assert ended.due_ms is not None
    assert ended.started_ms >= ended.due_ms
