"""`skep node`: real nodes of a real server, over TCP and TLS, with keys; killed, frozen, drained and left alone."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from skep.client import Client
from skep.model.views import NodeView
from tests.cli.conftest import Skep, until
from tests.server.tls import make_certificate

WAIT = "python3 -c 'import time, pathlib, sys\nwhile not pathlib.Path(sys.argv[1]).exists(): time.sleep(0.01)' {go}"


class Fleet(Skep):
    """`skep up --listen` without a node of its own, and nodes that join it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.up: subprocess.Popen[str] | None = None
        self.options: list[str] = []
        self.tls: list[str] = []
        self.url = ""
        self.keys: dict[str, Any] = {}

    def begin(self, *options: str, listen: str = "127.0.0.1:0") -> None:
        for role in ("node", "admin"):
            if role not in self.keys:
                self.keys[role] = self.json("keys", "create", "--role", role, "--json")
        file = self.home / "server.url"
        file.unlink(missing_ok=True)
        with (self.folder / "up.log").open("a") as log:
            self.up = self.start("up", "--no-node", "--listen", listen, *options, stdout=log.fileno(), stderr=log.fileno())
        self.options = list(options)
        until(lambda: file.exists() and file.read_text().endswith("\n"))
        self.url = file.read_text().strip()

    def again(self) -> None:
        """The same server, after it was killed, at the same place."""
        self.begin(*self.options, listen=self.url.partition("://")[2])

    def node(self, name: str, *options: str, **env: str) -> subprocess.Popen[str]:
        """Joins, and returns without waiting."""
        home = self.folder / f"of-{name}"
        given = {"SKEP_HOME": str(home), "SKEP_TOKEN": self.keys["node"]["key"], **env}
        with (self.folder / f"{name}.log").open("a") as log:
            command = ["node", "--server", self.url, "--name", name, "--slots", "4", "--cpu", "4", *self.tls, *options]
            return self.start(*command, stdout=log.fileno(), stderr=log.fileno(), env=given)

    def said(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def client(self) -> Client:
        return Client(self.home)

    def nodes(self, **states: str) -> bool:
        """Whether exactly these nodes are there, in these states."""
        with self.client() as client:
            return {node.id: node.state for node in client.nodes.list()} == states

    def view(self, name: str) -> NodeView:
        with self.client() as client:
            return next(node for node in client.nodes.list(all=True) if node.id == name)

    def submit(self, text: str) -> str:
        """Over the network: with no directory of this machine. Answers the run's id."""
        flow = self.file("flow.yaml", text)
        key = self.keys["admin"]["key"]
        env = {"SKEP_TOKEN": key, "SKEP_URL": self.url, "SKEP_TLS_CA": str(self.folder / "server.pem")}
        run: str = self(
            "submit", str(flow), **(env if self.tls else {k: env[k] for k in ("SKEP_TOKEN", "SKEP_URL")})
        ).stdout.strip()
        return run

    def waiting(self, name: str, count: int = 2, locks: str = "") -> tuple[str, Path]:
        """A run whose tasks wait for a file; answers its id and the file."""
        go = self.folder / f"go-{name}"
        tasks = {f"t{number}": {"run": WAIT.format(go=go) + f"; echo {number}"} for number in range(count)}
        if locks:
            tasks["t0"]["locks"] = [locks]  # type: ignore[assignment]
        return self.submit(json.dumps({"name": name, "tasks": tasks})), go

    def running(self, run: str) -> dict[str, str]:
        """Tasks that run, and where."""
        with self.client() as client:
            return {task.name: task.node or "" for task in client.runs.tasks(run).tasks if task.state == "running"}

    def state(self, run: str) -> str:
        with self.client() as client:
            return client.runs.get(run).state


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(tmp_path)
    yield made
    made.sweep()
    for process in made.started:
        process.communicate()


def test_a_workflow_runs_on_two_nodes_elsewhere(fleet: Fleet) -> None:
    fleet.begin()
    fleet.node("a", "--label", "zone=eu", "--capability", "fast", "--swarm", "s", "--region", "r", "--cost-per-hour", "2.5")
    fleet.node("b")
    until(lambda: fleet.nodes(a="live", b="live"))
    a = fleet.view("a")
    assert (a.swarm, a.region, a.cost_per_hour, a.slots, a.labels) == ("s", "r", 2.5, 4, {"zone": "eu"})
    assert "fast" in a.capabilities
    tasks = "  x: {run: 'pwd; env', requires: [zone=eu]}\n  y: {run: pwd, needs: [x]}\n  z: {run: pwd, needs: [x]}\n"
    run = fleet.submit(f"name: two\ntasks:\n{tasks}")
    until(lambda: fleet.state(run) == "succeeded")
    with fleet.client() as client:
        seen = {task.name: (task.node, client.tasks.get(run, task.name).output) for task in client.runs.tasks(run).tasks}
    assert {seen["y"][0], seen["z"][0]} == {"a", "b"}
    for node, output in seen.values():
        assert str(output).startswith(str(fleet.folder / f"of-{node}" / "joined" / "work" / str(node)))
    assert fleet.keys["node"]["key"] not in json.dumps(seen), "tasks do not inherit the node's key"
    assert re.search(r"a: joined http://127.0.0.1:\d+, which has Skep", fleet.said("a"))
    with fleet.client() as client:
        assert client.insight.status().url == fleet.url


def test_it_all_works_over_tls(fleet: Fleet) -> None:
    made = make_certificate(fleet.folder)
    fleet.begin("--tls-cert", str(made.cert), "--tls-key", str(made.key))
    assert fleet.url.startswith("https://")
    stranger = fleet.node("stranger")
    until(lambda: "not trusted" in fleet.said("stranger"))
    fleet.tls = ["--tls-ca", str(made.cert)]
    fleet.node("a")
    until(lambda: fleet.nodes(a="live"))
    run = fleet.submit("name: tls\ntasks:\n  x: {run: 'echo hi'}\n")
    until(lambda: fleet.state(run) == "succeeded")
    assert stranger.poll() is None, "it goes on trying"


def test_functions_of_an_app_run_where_it_is(fleet: Fleet) -> None:
    fleet.file("code/shop/__init__.py", "")
    fleet.file("code/shop/tasks.py", "import os\ndef add(a, b):\n    return [a + b, os.environ.get('SKEP_TOKEN')]\n")
    fleet.begin()
    fleet.node("plain")
    until(lambda: fleet.nodes(plain="live"))
    run = fleet.submit("name: app\ntasks:\n  x: {python: 'shop.tasks:add', with: {a: 1, b: 2}}\n")
    assert fleet.state(run) in ("queued", "running")
    fleet.node("shop", "--app", "shop.tasks", PYTHONPATH=f"{fleet.env['PYTHONPATH']}:{fleet.folder / 'code'}")
    until(lambda: fleet.state(run) == "succeeded")
    with fleet.client() as client:
        task = client.tasks.get(run, "x")
        assert (task.node, task.output) == ("shop", [3, None])
    assert "app:shop.tasks" in fleet.view("shop").capabilities
    nope = fleet.node("nope", "--app", "shop.nothing")
    assert nope.wait(20) == 3
    assert "--app shop.nothing cannot be imported here" in fleet.said("nope")


def test_a_node_may_run_no_commands(fleet: Fleet) -> None:
    fleet.begin()
    fleet.node("a", "--no-shell")
    until(lambda: fleet.nodes(a="live"))
    assert "run" not in fleet.view("a").executors
    run = fleet.submit("name: no\ntasks:\n  x: {run: 'echo hi'}\n")
    fleet.node("b")
    until(lambda: fleet.state(run) == "succeeded")
    with fleet.client() as client:
        assert client.tasks.get(run, "x").node == "b"


def test_a_directory_that_is_not_there_is_told(fleet: Fleet) -> None:
    fleet.begin()
    fleet.node("a")
    until(lambda: fleet.nodes(a="live"))
    run = fleet.submit("name: dir\ntasks:\n  x: {run: 'echo hi', cwd: /no/such/place}\n")
    until(lambda: fleet.state(run) == "failed")
    with fleet.client() as client:
        error = client.tasks.get(run, "x").error
    assert error is not None
    assert "there is no directory /no/such/place on this node" in error["message"]


def test_a_wrong_key_and_a_taken_name_end_a_node_with_3(fleet: Fleet) -> None:
    fleet.begin()
    fleet.node("a")
    until(lambda: fleet.nodes(a="live"))
    wrong = fleet.node("w", SKEP_TOKEN="skep_00000000_00")
    assert wrong.wait(20) == 3
    assert "nobody has this key" in fleet.said("w")
    assert "00000000_00" not in (fleet.folder / "up.log").read_text()
    file = fleet.file("key", fleet.keys["node"]["key"] + "\n")
    taken = fleet.start(
        "node", "--server", fleet.url, "--name", "a", "--token-file", str(file), "--data", str(fleet.folder / "x")
    )
    _, said = taken.communicate(timeout=20)
    assert taken.returncode == 3
    assert "another node is named 'a'" in said
    assert "--name" in said
    assert fleet.nodes(a="live")


def test_a_node_that_starts_again_takes_its_own_place_at_once(fleet: Fleet) -> None:
    fleet.begin()
    first = fleet.node("a")
    until(lambda: fleet.nodes(a="live"))
    incarnation = fleet.view("a").incarnation
    run, go = fleet.waiting("back", 1)
    until(lambda: fleet.running(run) == {"t0": "a"})
    first.kill()
    first.wait()
    began = time.monotonic()
    fleet.node("a")
    until(lambda: fleet.nodes(a="live") and fleet.view("a").incarnation > incarnation)
    until(lambda: fleet.running(run) == {"t0": "a"})
    assert time.monotonic() - began < 9, "it did not wait for the older one to be lost"
    go.touch()
    until(lambda: fleet.state(run) == "succeeded")


def test_a_revoked_key_ends_its_nodes(fleet: Fleet) -> None:
    fleet.begin()
    a = fleet.node("a")
    until(lambda: fleet.nodes(a="live"))
    fleet("keys", "revoke", fleet.keys["node"]["id"])
    assert a.wait(10) == 3
    assert "was revoked" in fleet.said("a")
    until(lambda: fleet.nodes())


def test_what_a_killed_node_ran_runs_elsewhere_within_3_s(fleet: Fleet) -> None:
    fleet.begin()
    a, _ = fleet.node("a"), fleet.node("b")
    until(lambda: fleet.nodes(a="live", b="live"))
    run, go = fleet.waiting("killed", 4)
    until(lambda: set(fleet.running(run).values()) == {"a", "b"})
    a.kill()
    assert until(lambda: set(fleet.running(run).values()) == {"b"} and len(fleet.running(run)) == 4) < 3
    go.touch()
    until(lambda: fleet.state(run) == "succeeded")


def test_what_a_frozen_node_ran_runs_elsewhere_and_its_outcome_counts_once(fleet: Fleet) -> None:
    fleet.begin()
    a, _ = fleet.node("a"), fleet.node("b")
    until(lambda: fleet.nodes(a="live", b="live"))
    run, go = fleet.waiting("frozen", 2)
    until(lambda: set(fleet.running(run).values()) == {"a", "b"})
    a.send_signal(signal.SIGSTOP)
    until(lambda: fleet.nodes(a="silent", b="live"))
    assert until(lambda: set(fleet.running(run).values()) == {"b"} and len(fleet.running(run)) == 2) < 14
    go.touch()
    until(lambda: fleet.state(run) == "succeeded")
    a.send_signal(signal.SIGCONT)
    until(lambda: fleet.nodes(a="live", b="live"))
    with fleet.client() as client:
        assert {task.node for task in client.runs.tasks(run).tasks} == {"b"}


def test_nodes_find_a_server_that_was_killed_and_their_work_is_adopted(fleet: Fleet) -> None:
    fleet.begin()
    fleet.node("a")
    fleet.node("b")
    until(lambda: fleet.nodes(a="live", b="live"))
    run, go = fleet.waiting("adopted", 4, locks="db")
    until(lambda: len(fleet.running(run)) == 4)
    before = fleet.running(run)
    assert fleet.up is not None
    fleet.up.kill()
    fleet.up.wait()
    fleet.again()
    until(lambda: fleet.nodes(a="live", b="live"))
    until(lambda: fleet.running(run) == before)
    go.touch()
    until(lambda: fleet.state(run) == "succeeded")
    with fleet.client() as client:
        assert all(client.tasks.get(run, task).attempts == 1 for task in before)
    assert "the connection to" in fleet.said("a")


def test_a_drained_node_ends_what_it_has_and_takes_nothing(fleet: Fleet) -> None:
    fleet.begin()
    a = fleet.node("a")
    until(lambda: fleet.nodes(a="live"))
    run, go = fleet.waiting("drained", 2)
    until(lambda: len(fleet.running(run)) == 2)
    a.send_signal(signal.SIGTERM)
    until(lambda: fleet.nodes(a="draining"))
    later, _ = fleet.waiting("drained", 1)
    assert fleet.running(later) == {}
    assert a.poll() is None
    fleet.node("b")
    until(lambda: len(fleet.running(later)) == 1)
    go.touch()
    assert a.wait(20) == 0
    until(lambda: fleet.state(run) == "succeeded" and fleet.state(later) == "succeeded")
    with fleet.client() as client:
        assert {client.tasks.get(run, task).node for task in ("t0", "t1")} == {"a"}
        assert all(client.tasks.get(run, task).attempts == 1 for task in ("t0", "t1"))


def test_a_second_signal_hands_work_over_and_a_third_kills(fleet: Fleet) -> None:
    fleet.begin()
    a, b = fleet.node("a"), fleet.node("b")
    until(lambda: fleet.nodes(a="live", b="live"))
    run, go = fleet.waiting("second", 2)
    until(lambda: set(fleet.running(run).values()) == {"a", "b"})
    a.send_signal(signal.SIGTERM)
    until(lambda: fleet.nodes(a="draining", b="live"))
    a.send_signal(signal.SIGTERM)
    assert a.wait(20) == 0
    until(lambda: set(fleet.running(run).values()) == {"b"} and len(fleet.running(run)) == 2)
    for _ in range(3):
        if b.poll() is None:
            os.kill(b.pid, signal.SIGTERM)
            time.sleep(0.05)
    assert b.wait(20) in (0, 137, -signal.SIGTERM), "the last one may find it ending already"
    go.touch()


def test_it_goes_on_with_the_next_server(fleet: Fleet) -> None:
    fleet.begin()
    url, fleet.url = fleet.url, f"http://127.0.0.1:1,{fleet.url},http://127.0.0.1:2"
    fleet.node("a")
    fleet.url = url
    until(lambda: fleet.nodes(a="live"))


def test_without_a_server_it_waits_and_says_so_and_a_signal_ends_it(fleet: Fleet) -> None:
    fleet.keys = {"node": {"key": ""}}
    fleet.url = "http://127.0.0.1:1"
    a = fleet.node("a", SKEP_TOKEN="")
    until(lambda: "no server: http://127.0.0.1:1 does not answer" in fleet.said("a"))
    a.send_signal(signal.SIGINT)
    assert a.wait(10) == 0


@pytest.mark.parametrize(
    ("options", "code", "why"),
    [
        ([], 2, "--server"),
        (["--server", "nonsense"], 3, "expected https://host:port"),
        (["--server", "http://x", "--token", "secret"], 2, "is no key"),
        (["--server", "http://x", "--token-file", "none"], 2, "cannot be read"),
        (["--server", "http://x", "--name", "a/b"], 3, "a node is named by"),
        (["--server", "http://x", "--cpu", "many"], 2, "expected a number of cores"),
        (["--server", "https://x", "--tls-ca", "none.pem"], 3, "--tls-ca"),
        (["--server", "http://x", "--label", "x"], 2, "name=value"),
    ],
)
def test_what_is_wrong_is_told(skep: Skep, options: list[str], code: int, why: str) -> None:
    said = skep("node", *options, code=code).stderr
    assert why in " ".join(re.sub(r"[│╭╮╰╯─]", " ", said).split())
    assert "secret" not in said
