"""`skep keys`, with a server and without one, and servers that refuse to start."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from tests.cli.conftest import Server, Skep


def test_the_first_key_is_made_before_there_is_a_server(skep: Skep) -> None:
    made = skep("keys", "create", "--role", "node", "--note", "first")
    key = made.stdout.strip()
    assert key.startswith("skep_")
    assert "\n" not in key, "nothing else goes to standard output"
    (listed,) = skep.json("keys", "list", "--json")
    assert (listed["role"], listed["note"], listed["revoked_ms"]) == ("node", "first", None)
    assert key not in str(listed)
    with sqlite3.connect(skep.home / "record.sqlite") as base:
        assert key.rpartition("_")[2] not in "\n".join(base.iterdump())
    base.close()
    assert skep.json("keys", "revoke", listed["id"], "--json")["revoked_ms"]
    assert "revoked" in skep("keys", "list").stdout
    assert "no key" in skep("keys", "revoke", "nope", code=3).stderr
    assert "expected admin or node" in skep("keys", "create", "--role", "root", code=3).stderr


def test_there_may_be_none(skep: Skep) -> None:
    assert skep.json("keys", "list", "--json") == []
    assert "keys create" in skep("keys", "list").stderr


def test_with_a_server_they_go_through_it(server: Server) -> None:
    made = server.json("keys", "create", "--role", "admin", "--json")
    assert made["id"] in server("keys", "list").stdout
    server("keys", "revoke", made["id"])
    assert next(key for key in server.json("keys", "list", "--json") if key["id"] == made["id"])["revoked_ms"]


def test_beyond_loopback_a_server_does_not_start_without_a_key(skep: Skep) -> None:
    said = skep("up", "--no-node", "--listen", "0.0.0.0:0", code=3).stderr
    assert "skep keys create --role node" in said
    assert not (skep.home / "skep.sock").exists()
    assert "keys create" in skep("up", "--no-node", code=3, SKEP_LISTEN="0.0.0.0:0").stderr


@pytest.mark.parametrize(
    ("options", "code", "why"),
    [
        (["--listen", "nonsense"], 2, "HOST:PORT"),
        (["--listen", "192.0.2.1:0"], 3, "cannot listen"),
        (["--tls-cert", "a.pem"], 2, "belong together"),
        (["--tls-cert", "a.pem", "--tls-key", "a.key"], 2, "--listen"),
        (["--listen", "127.0.0.1:0", "--tls-cert", "a.pem", "--tls-key", "a.key"], 3, "a.pem"),
        (["--listen", "127.0.0.1:0", "--tls-client-ca", "a.pem"], 2, "--tls-cert"),
    ],
)
def test_what_cannot_be_listened_to_is_refused(skep: Skep, options: list[str], code: int, why: str) -> None:
    assert why in " ".join(skep("up", "--no-node", *options, code=code).stderr.split())


@pytest.mark.parametrize(
    ("options", "code", "why"),
    [
        (["--server", "skep.example"], 3, "expected https://host:port"),
        (["--server", "http://user:secret@x"], 3, "--token"),
        (["--server", "http://127.0.0.1:1"], 6, "no server answers"),
        (["--server", "http://127.0.0.1:1", "--data", "x"], 2, "--data"),
        (["--server", "https://127.0.0.1:1", "--tls-ca", "none.pem"], 3, "--tls-ca"),
    ],
)
def test_a_server_that_cannot_be_reached(skep: Skep, options: list[str], code: int, why: str) -> None:
    said = skep("status", *options, code=code).stderr
    assert why in " ".join(said.split())
    assert "secret" not in said


def test_the_environment_names_a_server_and_an_option_another(skep: Skep, tmp_path: Path) -> None:
    assert "http://127.0.0.1:9" in skep("status", code=6, SKEP_URL="http://127.0.0.1:9").stderr
    assert str(tmp_path) in skep("status", "--data", str(tmp_path), code=6, SKEP_URL="http://127.0.0.1:9").stderr
