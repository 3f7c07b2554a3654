"""`skep doctor` without a server: what it looks at, and what it finds wrong."""

from __future__ import annotations

import os
import socket
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from skep.config import socket_path
from skep.testing.servers import PostgresServer

MACHINE = {"skep", "python", "sqlite", "clock", "open files", "processes", "memory"}
DATA = {"data", "disk", "file system", "fsync", "commit", "record", "server"}
FLOW = "name: one\ntasks:\n  hello: {run: echo hi}\n"


def findings(skep: Any, code: int = 0) -> dict[str, dict[str, str]]:
    answer = skep.json("doctor", "--json", code=code)
    assert answer["ok"] is (code == 0)
    for found in answer["findings"]:
        assert found["level"] in ("fine", "note", "wrong")
        assert bool(found["advice"]) == (found["level"] != "fine"), found
    return {found["what"]: found for found in answer["findings"]}


def test_a_sound_machine_has_nothing_wrong(skep: Any) -> None:
    found = findings(skep)
    assert found.keys() >= MACHINE | DATA
    assert not skep.home.exists(), "looking makes nothing"
    assert "is not there yet" in found["data"]["found"]


def test_people_get_a_line_each_and_the_count(skep: Any) -> None:
    done = skep("doctor")
    assert "✓ fsync" in done.stdout
    assert done.stderr == "nothing is wrong\n"


def test_a_sound_record_is_counted(skep: Any) -> None:
    skep.file("flow.yaml", FLOW)
    skep("run", "flow.yaml", "-q")
    assert "1 runs and 1 tasks" in findings(skep)["record"]["found"]
    assert not list(skep.home.glob(".skep-doctor*")), "nothing is left behind"


def test_a_damaged_record_is_wrong_and_says_what_to_do(skep: Any) -> None:
    skep.file("flow.yaml", FLOW)
    skep("run", "flow.yaml", "-q")
    record = skep.home / "record.sqlite"
    with sqlite3.connect(record) as base:
        base.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    base.close()
    size = record.stat().st_size
    with record.open("r+b") as file:
        file.seek(8_192)
        file.write(os.urandom(size - 8_192))
    done = skep("doctor", code=1)
    assert "✗ record" in done.stdout
    assert "skep restore" in done.stdout


def test_others_who_may_read_the_data_are_noted(skep: Any) -> None:
    skep.home.mkdir(mode=0o755)
    skep.home.chmod(0o755)
    found = findings(skep)["data"]
    assert (found["level"], "chmod 700" in found["advice"]) == ("note", True)


def test_a_data_directory_that_is_a_file_is_wrong(skep: Any) -> None:
    skep.home.write_text("")
    assert findings(skep, code=1)["data"]["level"] == "wrong"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_data_directory_that_cannot_be_written_is_wrong(skep: Any) -> None:
    skep.home.mkdir(mode=0o500)
    found = findings(skep, code=1)
    assert found["data"]["level"] == found["fsync"]["level"] == "wrong"


def test_a_socket_left_behind_is_noted(skep: Any) -> None:
    skep.home.mkdir(mode=0o700)
    path = socket_path(Path(skep.home))
    path.parent.mkdir(parents=True, exist_ok=True)
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    found = findings(skep)["server"]
    assert (found["level"], "left behind" in found["found"]) == ("note", True)
    path.unlink()


def test_a_record_of_the_future_means_that_the_clock_was_set_back(skep: Any) -> None:
    skep.file("flow.yaml", FLOW)
    skep("run", "flow.yaml", "-q")
    later = (skep.home / "record.sqlite").stat().st_mtime + 86_400
    os.utime(skep.home / "record.sqlite", (later, later))
    assert findings(skep, code=1)["clock and record"]["level"] == "wrong"


def test_a_record_in_postgresql_is_looked_at(skep: Any) -> None:
    with PostgresServer(fsync="off") as server:
        found = {one["what"]: one for one in skep.json("doctor", "--record", server.url, "--json", code=1)["findings"]}
        assert found["record"]["found"] == f"none yet in {server.url}"
        assert found["database fsync"]["level"] == "wrong"
        assert found["postgresql"]["level"] == found["database commit"]["level"] == "fine"
        secret = server.url.replace("skep@", "skep:hunter2@")
        server.kill()
        done = skep("doctor", "--record", secret, code=1)
        assert "does not answer" in done.stdout
        assert "hunter2" not in done.stdout + done.stderr
