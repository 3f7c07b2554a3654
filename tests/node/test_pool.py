"""Python tasks in worker processes that they share: real processes, which crash, hang and change under way."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from skep.model.node import Call, ErrorInfo, Grant, Outcome
from skep.model.run import Claim, Token
from skep.node.attempt import Attempt
from skep.node.executors.pool import PoolExecutor
from skep.node.processes import Processes
from tests.node.conftest import FakeHost

CODE = """
import asyncio, os, signal, threading, time
from pathlib import Path
from skep import context

def pid(): return os.getpid()
async def apid(): return os.getpid()
def where(): return [os.getcwd(), __file__]
def add(a, b): return a + b
def boom(): raise ValueError("no")
def die():
    time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGKILL)
async def wait(file):
    Path(file).touch()
    await asyncio.sleep(60)
def sleep(file):
    Path(file).touch()
    while True: time.sleep(0.01)
def deaf(file):
    Path(file).touch()
    time.sleep(60)
def hold_gil(file):
    import ctypes
    Path(file).touch()
    ctypes.PyDLL(None).sleep(60)
def talk():
    print("said")
    context.log("logged")
    context.progress(1, 2, "half")
    context.checkpoint.save(3)
    return [context.checkpoint.load(), context.token, context.attempt]
def orphan(file):
    import subprocess
    child = subprocess.Popen(["sleep", "60"])
    Path(file).write_text(str(child.pid))
    return child.pid
def large(): return "x" * (8 * 1024 * 1024)
def snooze(): context.snooze("5s")
def secret(word):
    print(word)
    return word
def version(): return VERSION
VERSION = 1
"""


class Pool:
    """An executor, a base with a module, and attempts."""

    def __init__(self, executor: PoolExecutor, host: FakeHost, base: Path) -> None:
        self.executor, self.host, self.base = executor, host, base
        self._count = 0
        self.write(base, CODE)

    def write(self, base: Path, code: str, name: str = "code_of_test") -> None:
        base.mkdir(exist_ok=True)
        (base / f"{name}.py").write_text(code)

    def start(self, function: str, base: Path | None = None, claims: tuple[Claim, ...] = (), **args: Any) -> Started:
        self._count += 1
        call = Call("python", f"code_of_test:{function}", args or None)
        if "secrets" in str(args):
            call = msgspec.structs.replace(call, needs_secrets=True)
        where = str(base or self.base)
        token = Token(7, self._count)
        grant = Grant("run-1", self._count, function, 1, token, msgspec.json.encode(call), claims=claims, base=where)
        return Started(self.executor, grant, call)

    async def output(self, function: str, **given: Any) -> Any:
        outcome = await self.start(function, **given)
        assert outcome.result == "succeeded", outcome.error
        return msgspec.json.decode(outcome.output)


class Started:
    def __init__(self, executor: PoolExecutor, grant: Grant, call: Call) -> None:
        self._executor = executor
        self._ended: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.attempt = Attempt(grant, call, lambda _, outcome: self._ended.set_result(outcome))
        executor.start(self.attempt)

    def __await__(self) -> Any:
        return asyncio.wait_for(asyncio.shield(self._ended), 20).__await__()

    def stop(self, reason: str = "cancel") -> None:
        self.attempt.stopped = reason
        self._executor.stop(self.attempt)


Make = Callable[..., Awaitable[Pool]]


@pytest.fixture
async def make(opened: Processes, host: FakeHost, tmp_path: Path) -> AsyncIterator[Make]:
    made: list[PoolExecutor] = []

    async def pool(size: int = 1, **given: Any) -> Pool:
        executor = PoolExecutor(opened, size, **given)
        made.append(executor)
        await executor.open(host)
        return Pool(executor, host, tmp_path / "base")

    yield pool
    for executor in made:
        await executor.close()


async def exists(path: Path) -> None:
    async with asyncio.timeout(20):
        while not path.exists():  # noqa: ASYNC110, ASYNC240  another process makes it
            await asyncio.sleep(0.005)


def alive(pid: int) -> bool:
    try:
        return b") Z" not in Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False


async def gone(pid: int) -> None:
    async with asyncio.timeout(10):
        while alive(pid):  # noqa: ASYNC110  another process ends
            await asyncio.sleep(0.005)


async def test_functions_and_coroutines_run_in_one_worker_that_is_another_process(make: Make) -> None:
    pool = await make()
    pids = {await pool.output("pid"), await pool.output("apid")}
    assert len(pids) == 1
    assert os.getpid() not in pids
    assert await pool.output("add", a=1, b=2) == 3
    outcome = await pool.start("boom")
    assert outcome.error is not None
    assert (outcome.result, outcome.error.type, outcome.error.message) == ("failed", "ValueError", "no")
    assert "code_of_test.py" in outcome.error.traceback


async def test_many_at_once_are_spread_over_the_workers(make: Make, tmp_path: Path) -> None:
    pool = await make(2)
    busy = [pool.start("wait", file=str(tmp_path / f"f{n}")) for n in range(4)]
    for n in range(4):
        await exists(tmp_path / f"f{n}")
    pids = {await pool.output("apid") for _ in range(8)}
    assert sorted(worker.load for worker in pool.executor.workers if worker.base) == [2, 2]
    assert len(pids) <= 2
    for one in busy:
        one.stop()
    assert {(await one).result for one in busy} == {"cancelled"}


async def test_the_context_works_through_the_pipe(make: Make, host: FakeHost) -> None:
    pool = await make()
    assert await pool.output("talk") == [3, "7-1", 1]
    await host.until(lambda: host.progress)
    assert bytes(host.logs["out"]) == b"said\n"
    assert bytes(host.logs["log"]) == b"logged\n"
    assert host.progress == [(1.0, 2.0, "half")]
    assert (await pool.start("snooze")).delay_ms == 5_000
    assert len(await pool.output("large")) == 8 * 1024 * 1024


async def test_secrets_are_filled_in_and_masked(make: Make, host: FakeHost) -> None:
    pool = await make(secrets={"word": "open-sesame"})
    assert await pool.output("secret", word="${{ secrets.word }}") == "***"
    assert bytes(host.logs["out"]) == b"***\n"


async def test_each_base_has_workers_of_its_own(make: Make, tmp_path: Path) -> None:
    pool = await make()
    other = tmp_path / "other"
    pool.write(other, CODE)
    assert await pool.output("where") == [str(pool.base), str(pool.base / "code_of_test.py")]
    assert await pool.output("where", base=other) == [str(other), str(other / "code_of_test.py")]
    assert await pool.output("pid") != await pool.output("pid", base=other)
    outcome = await pool.start("pid", base=tmp_path / "nowhere")
    assert outcome.error is not None
    assert outcome.error.type == "NotFound"


async def test_workers_are_bounded_and_idle_ones_make_room(make: Make, tmp_path: Path) -> None:
    pool = await make()
    for n in range(8):
        base = tmp_path / f"base{n}"
        pool.write(base, CODE)
        assert (await pool.output("where", base=base))[0] == str(base)
        assert len(pool.executor.workers) <= 4


async def test_workers_of_a_base_that_is_not_used_are_ended(make: Make, tmp_path: Path) -> None:
    pool = await make(idle_s=0.1)
    first = await pool.output("pid")
    other = tmp_path / "other"
    pool.write(other, CODE)
    second = await pool.output("pid", base=other)
    await gone(first)
    assert await pool.output("pid", base=other) == second


async def test_a_worker_that_dies_fails_an_attempt_that_was_alone_in_it(make: Make) -> None:
    pool = await make()
    outcome = await pool.start("die")
    assert outcome.result == "failed"
    assert outcome.error is not None
    assert (outcome.error.type, outcome.error.signal) == ("WorkerDied", signal.SIGKILL)
    assert await pool.output("add", a=1, b=1) == 2, "there is another one"


async def test_the_death_of_a_worker_loses_several_attempts(make: Make, tmp_path: Path) -> None:
    pool = await make()
    waiting = pool.start("wait", file=str(tmp_path / "f"))
    await exists(tmp_path / "f")
    outcomes = [await pool.start("die"), await waiting]
    assert [(o.result, o.error and o.error.type) for o in outcomes] == [("lost", "WorkerDied")] * 2


@pytest.mark.parametrize(("function", "type_"), [("wait", "Timeout"), ("sleep", "Timeout"), ("deaf", "Timeout")])
async def test_a_time_limit_ends_what_runs(make: Make, tmp_path: Path, function: str, type_: str) -> None:
    pool = await make()
    started = pool.start(function, file=str(tmp_path / "f"))
    await exists(tmp_path / "f")
    started.stop("timeout")
    outcome = await started
    assert (outcome.result, outcome.error and outcome.error.type) == ("failed", type_)


async def test_a_worker_whose_code_cannot_be_stopped_takes_nothing_more(make: Make, tmp_path: Path) -> None:
    pool = await make()
    before = await pool.output("pid")
    started = pool.start("deaf", file=str(tmp_path / "f"))
    await exists(tmp_path / "f")
    started.stop()
    assert (await started).result == "cancelled"
    assert await pool.output("pid") != before
    await gone(before)


async def test_a_worker_that_does_not_answer_is_killed_and_the_others_in_it_are_lost(make: Make, tmp_path: Path) -> None:
    pool = await make()
    other = pool.start("wait", file=str(tmp_path / "g"))
    await exists(tmp_path / "g")
    started = pool.start("hold_gil", file=str(tmp_path / "f"))
    await exists(tmp_path / "f")
    started.stop()
    assert [(await started).result, (await other).result] == ["cancelled", "lost"]


async def test_code_that_holds_a_claim_does_not_outlive_its_attempt(make: Make, tmp_path: Path) -> None:
    pool = await make()
    pid = await pool.output("pid")
    started = pool.start("deaf", claims=(Claim("lock:default:x", 1, 1),), file=str(tmp_path / "f"))
    other = pool.start("wait", file=str(tmp_path / "g"))
    await exists(tmp_path / "f")
    await exists(tmp_path / "g")
    started.stop()
    assert [(await started).result, (await other).result] == ["cancelled", "lost"]
    await gone(pid)


async def test_changed_code_is_loaded_by_a_new_worker_when_the_old_one_is_idle(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skep.node.executors.crew.STALE_S", 0.0)
    pool = await make()
    running = pool.start("wait", file=str(tmp_path / "f"))
    await exists(tmp_path / "f")
    assert await pool.output("version") == 1
    pool.write(pool.base, CODE + "\nVERSION = 2\n")
    assert await pool.output("version") == 2
    assert not running.attempt.ended
    running.stop()
    assert (await running).result == "cancelled"
    assert await pool.output("version") == 2


async def test_an_attempt_may_be_stopped_before_there_is_a_worker(make: Make) -> None:
    pool = await make()
    started = pool.start("pid")
    started.stop()
    assert (await started).error == ErrorInfo("Cancelled", "stopped: cancel")


async def test_closing_ends_workers_and_all_below_them(make: Make, tmp_path: Path) -> None:
    pool = await make()
    child = await pool.output("orphan", file=str(tmp_path / "f"))
    started = pool.start("deaf", file=str(tmp_path / "g"))
    await exists(tmp_path / "g")
    await pool.executor.close()
    assert (await started).result == "failed"
    await gone(child)
