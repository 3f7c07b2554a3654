"""The command line as a real process: each test has a data directory, a working directory and a mark of its own."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from skep.client import Client, UnreachableError

SOURCE = Path(__file__).parents[2] / "src"


class Skep:
    """Runs `python -m skep` in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.mark = uuid.uuid4().hex
        self.program = ["-m", "skep"]
        self.started: list[subprocess.Popen[str]] = []
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SKEP_", "NO_COLOR", "PYTEST"))}
        self.env = {
            **kept,
            "PYTHONPATH": str(SOURCE),
            "SKEP_HOME": str(self.home),
            "SKEP_TEST_MARK": self.mark,
            "TERM": "xterm-256color",
        }

    def file(self, name: str, text: str) -> Path:
        """Writes a file into the folder."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def __call__(self, *args: str, code: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
        """Runs it to the end and checks its exit code."""
        process = self.start(*args, env=env)
        out, err = process.communicate(timeout=50)
        assert process.returncode == code, f"exit code {process.returncode}, expected {code}\n{out}\n{err}"
        return subprocess.CompletedProcess(args, code, out, err)

    def start(
        self, *args: str, stdout: int = subprocess.PIPE, stderr: int = subprocess.PIPE, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *self.program, *args],
            cwd=self.folder,
            env={**self.env, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            text=True,
        )
        self.started.append(process)
        return process

    def json(self, *args: str, code: int = 0) -> Any:
        """The one document on standard output."""
        return json.loads(self(*args, code=code).stdout)

    def runs(self) -> list[tuple[str, str, str]]:
        """(workflow, state, reason) of every recorded run, oldest first."""
        file = self.home / "record.sqlite"
        if not file.exists():
            return []
        with sqlite3.connect(file) as base:
            states = ("queued", "running", "cancelling", "succeeded", "failed", "cancelled")
            rows = base.execute("SELECT workflow, state, reason FROM runs ORDER BY accepted_ms").fetchall()
        base.close()
        return [(workflow, states[state], reason) for workflow, state, reason in rows]

    def processes(self) -> list[psutil.Process]:
        """Everything alive that inherited this test's mark."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("SKEP_TEST_MARK") == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def sweep(self) -> None:
        """Kills all of them."""
        for process in self.processes():
            try:
                process.kill()
            except psutil.NoSuchProcess:
                pass


def until(condition: Callable[[], object], seconds: float = 20) -> float:
    """Waits for the condition; answers how long it took."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, f"not within {seconds} s"
        time.sleep(0.01)
    return time.monotonic() - start


@pytest.fixture
def skep(tmp_path: Path) -> Iterator[Skep]:
    runner = Skep(tmp_path)
    yield runner
    runner.sweep()
    for process in runner.started:
        process.communicate()


class Server(Skep):
    """`skep up` on `home`, and commands that speak to it."""

    def __init__(self, folder: Path, *options: str) -> None:
        super().__init__(folder)
        self.options = options
        self.up: subprocess.Popen[str] | None = None

    def begin(self) -> None:
        """Starts it and waits until it answers."""
        with (self.folder / "up.log").open("a") as log:
            self.up = self.start("up", *self.options, stdout=log.fileno(), stderr=log.fileno())
        until(self.answers)

    def answers(self) -> bool:
        assert self.up is not None
        assert self.up.poll() is None, (self.folder / "up.log").read_text()
        with Client(self.home) as client:
            try:
                return client.insight.status().state == "ready" and len(client.nodes.list()) > 0
            except UnreachableError:
                return False

    def kill(self) -> None:
        """As a crash does it: the nodes stay."""
        assert self.up is not None
        self.up.kill()
        self.up.wait()

    def end(self) -> None:
        self.sweep()
        for started in self.started:
            started.communicate()

    def submit(self, name: str, text: str, *options: str) -> str:
        """Submits a workflow; answers the id of its run."""
        self.file(name, text)
        run: str = self("submit", name, *options).stdout.strip()
        return run

    def client(self) -> Client:
        return Client(self.home)

    def state(self, run: str) -> str:
        with self.client() as client:
            return client.runs.get(run).state


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests of this process that leave it as it is."""
    server = Server(tmp_path_factory.mktemp("server"), "--node", "local:cpu,ssd;cpu=8;slots=8")
    try:
        server.begin()
        yield server
    finally:
        server.end()


@pytest.fixture
def server(running: Server, tmp_path: Path) -> Iterator[Server]:
    """The running server, with a folder of the test's own."""
    mine = Server(tmp_path)
    mine.home, mine.env = running.home, {**mine.env, "SKEP_HOME": str(running.home)}
    yield mine
    mine.sweep()
    for process in mine.started:
        process.communicate()


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    """A server that a test may stop, kill and start again."""
    mine = Server(tmp_path, "--node", "local:cpu;cpu=8;slots=8")
    try:
        mine.begin()
        yield mine
    finally:
        mine.end()


@pytest.fixture
def wait() -> Callable[..., float]:
    return until
