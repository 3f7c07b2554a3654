"""Supervisors as the processes that they are, with a server that does what the test says."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from skep.errors import RefusedError
from skep.model.node import Adopted, Call, Grant, NodeInfo, Stop
from skep.model.run import Claim, Token
from skep.node import detached
from skep.node.detached import Listed, cap_log, folder, listed, start_detached, take_name
from tests.server.links import FakeWork, Served

CODE = """
import os, time
from pathlib import Path
def add(a, b): return a + b
def wait(started, go):
    Path(started).write_text(str(os.getpid()))
    while not Path(go).exists(): time.sleep(0.01)
    return "done"
"""


class Home:
    """A data directory with its server and its supervisors."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(mode=0o700)
        (path / "code_of_test.py").write_text(CODE)
        self.socket = path / "skep.sock"
        self.work = FakeWork()
        self.served: Served | None = None
        self._count = 0

    async def serve(self, work: FakeWork | None = None) -> FakeWork:
        self.work = work or self.work
        self.served = await Served(self.socket, self.work).start()
        return self.work

    async def stop(self) -> None:
        if self.served is not None:
            await self.served.stop()
            self.served = None

    def start(self, name: str = "n", idle_s: float = 30.0) -> None:
        start_detached(self.path, NodeInfo(name, slots=8, cpu_milli=1_000), self.socket, idle_s)

    async def joined(self) -> Listed:
        await self.work.until(lambda: self.work.registered)
        return listed(self.path)[0]

    def give(self, executor: str, call: Any, claims: tuple[Claim, ...] = (), **args: Any) -> Token:
        self._count += 1
        data = msgspec.json.encode(Call(executor, call, args or None))
        token = Token(self.work.epoch, self._count)
        self.work.give(Grant("run-1", self._count, f"t{self._count}", 1, token, data, claims=claims, base=str(self.path)))
        return token

    def said(self, name: str = "n") -> str:
        return (folder(self.path) / f"{name}.log").read_text()


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  other processes do not tell
            await asyncio.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return b") Z" not in Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False


def below(pid: int) -> list[int]:
    """A process and all its descendants."""
    found = [pid]
    for one in found:
        for task in Path(f"/proc/{one}/task").glob("*/children"):
            found += map(int, task.read_text().split())
    return found


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[Home]:
    made = Home(tmp_path / "home")
    yield made
    for one in listed(made.path):
        os.kill(one.pid, signal.SIGKILL)
    await until(lambda: not listed(made.path))
    await made.stop()


async def test_it_joins_works_and_leaves_in_good_order_when_it_is_told_to(home: Home, tmp_path: Path) -> None:
    work = await home.serve()
    home.start()
    one = await home.joined()
    assert (one.id, one.incarnation) == ("n", work.registered["n"])
    home.give("python", "code_of_test:add", a=1, b=2)
    home.give("run", "echo hello; pwd")
    await work.until(lambda: len(work.outcomes) == 2)
    outputs = [msgspec.json.decode(o.output) for o in sorted(work.outcomes, key=lambda o: o.token)]
    assert outputs == [3, f"hello\n{home.path}"]
    home.give("python", "code_of_test:wait", started=str(tmp_path / "started"), go=str(tmp_path / "go"))
    await until((tmp_path / "started").exists)
    os.kill(one.pid, signal.SIGTERM)
    await work.until(lambda: work.drained)
    (tmp_path / "go").touch()
    await work.until(lambda: len(work.outcomes) == 3)
    assert listed(home.path), "the outcome is not recorded yet"
    work.record()
    await work.until(lambda: work.retired)
    assert work.retired == [("n", False)]
    await until(lambda: not listed(home.path))


async def test_what_runs_outlives_the_server(home: Home, tmp_path: Path) -> None:
    await home.serve()
    home.start()
    await home.joined()
    old = home.give("python", "code_of_test:wait", started=str(tmp_path / "started"), go=str(tmp_path / "go"))
    await until((tmp_path / "started").exists)
    await home.stop()
    work = await home.serve(FakeWork(epoch=8))
    await work.until(lambda: work.presented)
    assert [one.grant.token for one in work.presented[0][0]] == [old]
    work.give(Adopted(old, Token(8, 1)))
    (tmp_path / "go").touch()
    await work.until(lambda: work.outcomes)
    assert [(o.token, o.output) for o in work.outcomes] == [(Token(8, 1), b'"done"')]


async def test_what_ended_while_there_was_no_server_is_kept_for_the_next(home: Home, tmp_path: Path) -> None:
    await home.serve()
    home.start(idle_s=0.3)
    one = await home.joined()
    home.give("run", f"touch {tmp_path}/started; while ! test -e {tmp_path}/go; do sleep 0.01; done; exec sleep 0.01")
    await until((tmp_path / "started").exists)
    shells = set(below(one.pid))
    await home.stop()
    (tmp_path / "go").touch()
    await until(lambda: not shells <= set(below(one.pid)))
    work = await home.serve(FakeWork(epoch=8))
    await work.until(lambda: work.presented)
    if work.presented[0][0]:  # its end was not known yet
        work.give(Adopted(Token(7, 1), Token(8, 1)))
    await work.until(lambda: [*work.presented[0][1], *work.outcomes])
    assert listed(home.path)


async def test_kill_9_leaves_no_child(home: Home, tmp_path: Path) -> None:
    await home.serve()
    home.start()
    one = await home.joined()
    home.give("python", "code_of_test:wait", started=str(tmp_path / "started"), go=str(tmp_path / "go"))
    home.give("run", f"sleep 60 & echo $! > {tmp_path}/pid.new; mv {tmp_path}/pid.new {tmp_path}/pid; wait")
    await until(lambda: (tmp_path / "started").exists() and (tmp_path / "started").read_text())
    await until((tmp_path / "pid").exists)
    pids = below(one.pid)
    assert {int((tmp_path / "started").read_text()), int((tmp_path / "pid").read_text())} <= set(pids)
    os.kill(one.pid, signal.SIGKILL)
    await until(lambda: not any(map(alive, pids)))
    await home.work.until(lambda: home.work.retired)
    assert home.work.retired == [("n", True)]


async def test_a_second_signal_stops_it_and_gives_its_work_back(home: Home, tmp_path: Path) -> None:
    work = await home.serve()
    home.start()
    one = await home.joined()
    home.give("python", "code_of_test:wait", started=str(tmp_path / "started"), go=str(tmp_path / "go"))
    await until((tmp_path / "started").exists)
    os.kill(one.pid, signal.SIGTERM)
    await work.until(lambda: work.drained)
    os.kill(one.pid, signal.SIGTERM)
    await work.until(lambda: work.retired)
    assert work.retired == [("n", False)]
    assert work.outcomes == []
    await until(lambda: not listed(home.path))


async def test_without_a_server_and_without_work_it_ends(home: Home) -> None:
    home.start(idle_s=0.3)
    await until(lambda: listed(home.path))
    await until(lambda: not listed(home.path))
    assert "no server and nothing to do" in home.said()


async def test_a_later_start_of_the_same_name_is_refused_while_the_first_lives(home: Home) -> None:
    await home.serve()
    home.start()
    first = await home.joined()
    with pytest.raises(RefusedError, match="runs on"):
        take_name(home.path, "n")
    os.kill(first.pid, signal.SIGKILL)
    await until(lambda: not listed(home.path))
    file, second = take_name(home.path, "n")
    with file:
        assert second.incarnation > first.incarnation
        assert [one.pid for one in listed(home.path)] == [os.getpid()]


async def test_a_node_that_is_not_wanted_ends(home: Home) -> None:
    work = await home.serve()
    work.registered["n"] = 1 << 60
    home.start()
    await until(lambda: "later start" in home.said())
    await until(lambda: not listed(home.path))


async def test_a_superseded_command_is_ended_with_all_below_it(home: Home, tmp_path: Path) -> None:
    work = await home.serve()
    home.start()
    await home.joined()
    token = home.give("run", f"sleep 60 & echo $! > {tmp_path}/pid.new; mv {tmp_path}/pid.new {tmp_path}/pid; wait")
    await until((tmp_path / "pid").exists)
    work.give(Stop(token, "superseded"))
    pid = int((tmp_path / "pid").read_text())
    await until(lambda: not alive(pid))
    assert work.outcomes == []


@pytest.mark.parametrize("name", ["", "a/b", "..", "-x", "x" * 101, "a b"])
def test_a_name_is_a_name_of_a_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(RefusedError, match="is named by"):
        start_detached(tmp_path, NodeInfo(name))


def test_a_log_is_kept_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detached, "MOST_LOG", 1_000)
    monkeypatch.setattr(detached, "KEPT_LOG", 10)
    folder(tmp_path).mkdir()
    path = folder(tmp_path) / "n.log"
    with path.open("ab") as log:
        log.write(b"x" * 2_000 + b"0123456789")
        log.flush()
        cap_log(tmp_path, "n")
        log.write(b"next")
    assert path.read_bytes() == b"(cut)\n0123456789next"
    cap_log(tmp_path, "n")
    cap_log(tmp_path, "unknown")
    assert path.read_bytes() == b"(cut)\n0123456789next"
