"""Real servers on one Redis and one PostgreSQL: what is killed, emptied or away costs nothing that was accepted."""

from __future__ import annotations

import shutil
import socket
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from skep.client import Client
from skep.model.authoring import build_workflow
from skep.testing.lab.figures import workflow
from skep.testing.servers import PostgresServer, RedisServer
from skep.testing.up import Up

LIMIT_S = 60.0


class Fleet:
    """Servers, each with a node of its own, on one Redis and one PostgreSQL."""

    def __init__(self, folder: Path, redis: RedisServer, postgres: PostgresServer) -> None:
        self.folder = folder
        self.redis = redis
        self.postgres = postgres
        self.ledger = folder / "ledger"
        self.ups: list[Up] = []

    def server(self, name: str, slots: int = 8) -> Up:
        node = ("--node", f"{name}:cpu,{name};slots={slots};cpu=8")
        up = Up(self.folder / name, *node, "--engine", self.redis.url, "--record", self.postgres.url)
        self.ups.append(up)
        up.start()
        return up

    def redis_is_told(self, *words: bytes) -> None:
        said = b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)
        with socket.create_connection(("127.0.0.1", self.redis.port), timeout=10) as connection:
            connection.sendall(said)
            assert connection.recv(64)[:1] in b"+:"

    def writes(self, seconds: float = 0, **more: Any) -> dict[str, Any]:
        """A task that notes in the ledger when it begins, and takes so long."""
        note = f'echo "$SKEP_RUN $SKEP_TASK $SKEP_ATTEMPT" >> {self.ledger}'
        return {"run": f"{note}; sleep {seconds}" if seconds else note, **more}

    def begun(self) -> Counter[str]:
        """How often each task began."""
        lines = self.ledger.read_text().splitlines() if self.ledger.exists() else []
        return Counter(" ".join(line.split()[:2]) for line in lines)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with RedisServer() as redis, PostgresServer() as postgres:
        made = Fleet(tmp_path, redis, postgres)
        try:
            yield made
        finally:
            for up in made.ups:
                up.close()


def flow(tasks: dict[str, Any], name: str = "flow") -> Any:
    return build_workflow({"name": name, "tasks": tasks})


def ends(client: Client, runs: list[str], limit_s: float = LIMIT_S) -> list[str]:
    """How they ended; what is known of the first that does not, if one does not in time."""
    until = time.monotonic() + limit_s
    states = []
    for run in runs:
        try:
            states.append(client.runs.wait(run, timeout_s=max(until - time.monotonic(), 1)).state)
        except TimeoutError:
            view = client.runs.view(run)
            tasks = Counter((task.state, task.reason) for task in view.tasks)
            about = f"{view.state}, {tasks}\n{client.queue.stats()}\n{client.nodes.list()}\n{client.insight.status()}"
            raise AssertionError(f"run {run} has not ended: {about}") from None
    return states


def test_two_servers_serve_one_fleet(fleet: Fleet) -> None:
    a, b = fleet.server("a", slots=2), fleet.server("b", slots=2)
    a.until(lambda: len(a.client.nodes.list()) == 2, "both nodes are there")
    assert [up.client.insight.status().leads for up in (a, b)] == [True, False]
    run = a.client.runs.submit(flow({f"t{at}": fleet.writes(0.3) for at in range(4)}))
    assert ends(b.client, [run.id]) == ["succeeded"]
    assert {task.node for task in b.client.runs.view(run.id).tasks} == {"a", "b"}
    other = b.client.runs.submit(flow({"ask": {"approval": "Go on?"}, "t": {**fleet.writes(), "needs": ["ask"]}}))
    a.until(lambda: a.client.tasks.waits(), "it asks")
    a.client.tasks.approve(other.id, "ask", by="ada")
    assert ends(a.client, [other.id]) == ["succeeded"]


def test_the_leader_is_killed_in_the_middle(fleet: Fleet) -> None:
    a, b = fleet.server("a"), fleet.server("b")
    a.until(lambda: len(a.client.nodes.list()) == 2, "both nodes are there")
    long = b.client.runs.submit(flow({"long": fleet.writes(6, requires=["b"])}))
    a.until(lambda: fleet.begun(), "it has begun")
    runs = [up.client.runs.submit(workflow([()] * 400)).id for up in (a, b) * 3]
    a.kill()
    later = b.client.runs.submit(flow({"t": fleet.writes()}))
    assert ends(b.client, [later.id]) == ["succeeded"]
    assert ends(b.client, [*runs, long.id]) == ["succeeded"] * 7
    assert max(fleet.begun().values()) == 1, "the node of the server that is gone went on, and its outcome counts"
    a.start()
    assert ends(a.client, [a.client.runs.submit(flow({"t": fleet.writes()})).id]) == ["succeeded"]


@pytest.mark.parametrize("how", ["emptied", "killed", "a second older"])
def test_redis_loses_what_it_has(fleet: Fleet, how: str) -> None:
    a, b = fleet.server("a"), fleet.server("b")
    a.until(lambda: len(a.client.nodes.list()) == 2, "both nodes are there")
    long = [up.client.runs.submit(flow({"long": fleet.writes(8)})).id for up in (a, b)]
    a.until(lambda: len(fleet.begun()) == 2, "they have begun")
    kept = fleet.folder / "kept"
    if how == "a second older":
        time.sleep(1.1)  # the file is synced every second, and what follows shall not be in it
        shutil.copytree(fleet.redis.folder, kept)
    runs = [up.client.runs.submit(workflow([()] * 1_000)).id for up in (a, b) * 5]
    a.until(lambda: a.client.queue.stats().runs.get("succeeded", 0) >= 1, "some are done")
    if how == "emptied":
        fleet.redis_is_told(b"FLUSHALL")
    else:
        fleet.redis.kill()
        if how == "a second older":
            shutil.rmtree(fleet.redis.folder)
            shutil.copytree(kept, fleet.redis.folder)
        fleet.redis.start()
    runs.append(b.client.runs.submit(workflow([()] * 10)).id)
    assert ends(b.client, [*runs, *long]) == ["succeeded"] * 13
    begun = fleet.begun()
    assert [begun[f"{run} long"] for run in long] == [1, 1], "work in flight is adopted, not repeated"
    for up in (a, b):
        up.until(lambda up=up: up.client.insight.status().state == "ready", "it is well")  # type: ignore[misc]
        assert not up.client.insight.status().rejected_events


@pytest.mark.parametrize("what", ["redis", "postgres"])
def test_a_database_is_away_for_a_while(fleet: Fleet, what: str) -> None:
    a = fleet.server("a")
    a.until(lambda: a.client.nodes.list(), "the node is there")
    long = a.client.runs.submit(flow({"long": fleet.writes(4)}))
    a.until(lambda: fleet.begun(), "it has begun")
    server = fleet.redis if what == "redis" else fleet.postgres
    server.stop()
    a.until(lambda: a.client.insight.status().trouble, "it says what is wrong")
    server.start()
    run = a.client.runs.submit(flow({"t": fleet.writes()}))
    assert ends(a.client, [run.id, long.id]) == ["succeeded"] * 2
    assert max(fleet.begun().values()) == 1
    a.until(lambda: not a.client.insight.status().trouble, "all is well")


def test_nothing_is_started_while_redis_is_nearly_full(fleet: Fleet) -> None:
    a = fleet.server("a")
    a.until(lambda: a.client.nodes.list(), "the node is there")
    fleet.redis_is_told(b"CONFIG", b"SET", b"maxmemory", b"64mb")
    others = [b"else-%d" % at for at in range(44)]
    for name in others:
        fleet.redis_is_told(b"SET", name, b"x" * (1 << 20))
    a.until(lambda: a.client.queue.stats().full, "it says that it is full")
    run = a.client.runs.submit(flow({"t": fleet.writes()}))
    a.until(lambda: a.client.queue.stats().ready == 1, "it is loaded")
    assert not fleet.begun()
    fleet.redis_is_told(b"DEL", *others)
    assert ends(a.client, [run.id]) == ["succeeded"]
