"""Functions in worker processes: results, failures of every kind, the context over the socket, and the ends."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from skep.errors import ConflictError
from skep.model.node import Call, ErrorInfo
from skep.node.executors import isolated
from skep.node.executors.isolated import IsolatedExecutor
from skep.node.processes import Processes

TASKS = """
import asyncio, ctypes, os, signal, subprocess, sys, threading, time
from skep.errors import ConflictError
from skep.node.context import TaskCancelled, current_context

def add(a, b=1): return a + b
def pid(): return os.getpid()
async def coroutine(n):
    await asyncio.sleep(0)
    return n * 2
def here(): return [os.getcwd(), os.environ.get("MINE")]
def move():
    os.chdir("/"); os.environ["MINE"] = "left behind"
def printing(n):
    print("x" * n); print("warning", file=sys.stderr); subprocess.run(["echo", "child"]); os.write(1, b"raw")
def told(word): print(word, end=""); return word
def wrong(): raise ValueError("no\\0 good")
async def wrong_async():
    await asyncio.sleep(0)
    raise KeyError("k")
def leave(code): sys.exit(code)
def interrupted(): raise KeyboardInterrupt
async def leave_async(): sys.exit(5)
def gone(code): os._exit(code)
def killed(): os.kill(os.getpid(), signal.SIGKILL)
def crash(): ctypes.string_at(0)
def no_json(): return {1, object()}
def infinite(): return 10 ** 400
def too_large(): return "x" * (64 * 2 ** 20)
def nul(): return "a\\0b"
def snooze(): current_context().snooze("2s")
def close_all(): os.closerange(3, 256)
def fork():
    if os.fork() == 0: return "child"
    os.wait()
    return "parent"
def daemon():
    process = subprocess.Popen(["setsid", "sleep", "93"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return process.pid
def talk():
    context = current_context()
    context.log("one", 1); context.progress(3, 4, "three"); context.checkpoint.save({"n": context.checkpoint.load(0)})
    return [context.run_id, context.task_name, context.attempt, context.token]
def conflict():
    try: current_context().state.put("k", 1, expect=3)
    except ConflictError as error: return str(error)
async def locked():
    async with current_context().lock("a"): return "held"
async def both():
    context = current_context()
    async def hold():
        async with context.lock("slow"): return "held"
    waiting = asyncio.ensure_future(hold())
    await asyncio.sleep(0)
    await asyncio.to_thread(context.checkpoint.save, 1)
    return await waiting
def unknown(): current_context()._port.call("nonsense")
def wait():
    print("up", flush=True)
    try: time.sleep(60)
    except TaskCancelled: print("cleaned"); raise
async def wait_async():
    print("up", flush=True)
    try: await asyncio.sleep(60)
    except asyncio.CancelledError: print("cleaned"); raise
def deaf():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    code = "import signal, time; signal.signal(15, 1); print('up', flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code])
    print(os.getpid(), child.pid, flush=True)
    time.sleep(60)
def waiting_for_lock():
    print("up", flush=True)
    with current_context().lock("never"): pass
def finishes_anyway():
    print("up", flush=True)
    try: time.sleep(60)
    except TaskCancelled: return "made it"
def path(): return sys.path
"""


NODE = """
import asyncio, sys
from pathlib import Path
from types import SimpleNamespace
from skep.model.node import Call, Grant
from skep.model.run import Token
from skep.node.attempt import Attempt
from skep.node.executors.isolated import IsolatedExecutor
from skep.node.processes import Processes

async def main():
    async with Processes() as processes:
        executor = IsolatedExecutor(processes, 1, Path(sys.argv[1]))
        await executor.open(SimpleNamespace(write_log=lambda attempt, stream, data: print(data.decode(), end="", flush=True)))
        call = Call("python", "tasks.py:deaf", isolation="process")
        executor.start(Attempt(Grant("r", 0, "t", 1, Token(1, 1), b""), call, print))
        await asyncio.Future()

asyncio.run(main())
"""


class Bench:
    """The executor with its host, and a short way to call one function of TASKS."""

    def __init__(self, executor: IsolatedExecutor, host: Any, trial: Any) -> None:
        self.executor, self.host, self._trial = executor, host, trial

    def __call__(self, name: str, args: Any = None, attempt: int = 1, timeout_ms: int = 0, **more: Any) -> Any:
        call = Call("python", name if ":" in name else f"tasks.py:{name}", args, isolation="process", **more)
        return self._trial(self.executor, call, attempt, timeout_ms)

    async def up(self) -> None:
        await self.host.until(lambda: b"up\n" in self.host.logs["out"])


@pytest.fixture
async def run(host: Any, trial: Any, opened: Processes, tmp_path: Path) -> AsyncIterator[Bench]:
    (tmp_path / "tasks.py").write_text(TASKS)
    executor = IsolatedExecutor(opened, 1, tmp_path, {"key": "s3cr3t"})
    await executor.open(host)
    yield Bench(executor, host, trial)
    await executor.close()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):  # the second when it goes while it is being read
        return False


async def test_results(run: Bench) -> None:
    assert await run("add", {"a": 2}).output() == 3
    assert await run("coroutine", {"n": 21}).output() == 42
    assert await run("add", {"a": 10**30}).output() == 10**30 + 1
    assert await run("nul").output() == "a\0b"


async def test_one_warm_worker_serves_all(run: Bench) -> None:
    trials = [run("pid") for _ in range(5)]
    assert len({await one.output() for one in trials}) == 1


async def test_more_workers_when_there_is_more_to_do(host: Any, trial: Any, opened: Processes, tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text(TASKS)
    executor = IsolatedExecutor(opened, 2, tmp_path)
    await executor.open(host)
    run = Bench(executor, host, trial)
    waiting = [run("wait"), run("wait"), run("pid")]
    await host.until(lambda: host.logs["out"].count(b"up\n") == 2)
    assert not waiting[2].attempt.ended
    waiting[0].stop("cancel")
    await waiting[2].output()
    await executor.close()
    assert waiting[1].attempt.ended


async def test_modules_are_found_where_the_node_finds_them(run: Bench) -> None:
    expected = list(map(os.path.abspath, sys.path))
    assert (await run("path").output())[1:] == expected  # behind the folder of the file itself


async def test_each_attempt_begins_in_the_same_place(run: Bench, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    await run("move").output()
    assert await run("here").output() == [str(tmp_path), None]
    assert await run("here", cwd="inner", env={"MINE": "yes"}).output() == [str(tmp_path / "inner"), "yes"]
    assert await run("here").output() == [str(tmp_path), None]
    assert (await run("here", cwd="none").error()).type == "FileNotFoundError"


async def test_output_belongs_to_its_attempt(run: Bench) -> None:
    await run("printing", {"n": 300_000}).output()
    assert bytes(run.host.logs["out"]) == b"x" * 300_000 + b"\nchild\nraw"
    assert bytes(run.host.logs["err"]) == b"warning\n"
    for n in range(50):
        run.host.logs["out"].clear()
        await run("told", {"word": f"word {n}"}).output()
        assert run.host.logs["out"] == f"word {n}".encode()


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("wrong", "ValueError", "no\ufffd good"),
        ("wrong_async", "KeyError", "'k'"),
        ("leave", "TypeError", "missing 1 required"),
        ("leave_async", "SystemExit", "5"),
        ("interrupted", "KeyboardInterrupt", ""),
        ("no_json", "Result", "not JSON"),
        ("too_large", "Result", "64.0 MiB"),
        ("missing", "Import", "no function 'missing'"),
        ("other.py:x", "Import", "no Python file other.py"),
        ("no_such_module:x", "Import", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("unknown", "SkepError", "no answer for nonsense"),
    ],
)
async def test_failures_leave_the_worker_alive(run: Bench, name: str, kind: str, message: str) -> None:
    worker = await run("pid").output()
    error = await run(name).error()
    assert error.type == kind
    assert message in error.message
    assert await run("pid").output() == worker


async def test_traceback_shows_only_the_task(run: Bench) -> None:
    for name in ("wrong", "wrong_async"):
        error = await run(name).error()
        assert f"in {name}" in error.traceback
        assert "worker.py" not in error.traceback
        assert "asyncio" not in error.traceback


async def test_exit_code_of_the_exit_call(run: Bench) -> None:
    assert (await run("leave", {"code": 3}).error()).message == "3"


ENDED_BY_NODE = (None, signal.SIGTERM)
"""Of one that hangs up: whoever sees it first, the node or the worker itself, ends it."""


@pytest.mark.parametrize(
    ("name", "args", "code", "number"),
    [
        ("gone", {"code": 7}, 7, None),
        ("gone", {"code": 0}, 0, None),
        ("killed", None, None, signal.SIGKILL),
        ("crash", None, None, signal.SIGSEGV),
        ("close_all", None, 1, None),
    ],
)
async def test_death_of_the_worker_is_the_attempts_failure(
    run: Bench, name: str, args: Any, code: int | None, number: int | None
) -> None:
    waiting = run(name, args), run("add", {"a": 1})
    error: ErrorInfo = await waiting[0].error()
    assert error.type == "WorkerDied"
    assert (error.exit_code, error.signal) in ((code, number), ENDED_BY_NODE if name == "close_all" else ())
    assert (b"Segmentation fault" in run.host.logs["err"]) == (name == "crash")
    assert await waiting[1].output() == 2  # in a fresh one


async def test_worker_that_cannot_start_fails_the_attempts(run: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    errors = [await one.error() for one in [run("pid"), run("pid")]]
    assert [error.type for error in errors] == ["WorkerDied"] * 2
    monkeypatch.setattr(sys, "executable", "/no/python")
    assert (await run("pid").error()).type == "SpawnError"


async def test_fork_that_returns(run: Bench) -> None:
    assert await run("fork").output() == "parent"
    assert await run("add", {"a": 1}).output() == 2


async def test_what_an_attempt_leaves_behind_is_ended(run: Bench) -> None:
    worker = await run("pid").output()
    pid = await run("daemon").output()
    assert not alive(pid)
    assert b"ended 1 process that the task had left behind" in run.host.logs["log"]
    assert await run("pid").output() != worker


async def test_context(run: Bench) -> None:
    assert await run("talk", attempt=4).output() == ["run-1", "build", 4, "7-42"]
    assert run.host.logs["log"] == b"one 1\n"
    assert run.host.progress == [(3.0, 4.0, "three")]
    assert run.host.saved == [b'{"n":0}']


async def test_errors_of_the_node_arrive_as_themselves(run: Bench) -> None:
    def refuse(*_: object) -> None:
        raise ConflictError("version 5, not 3")

    run.host.answers["put_state"] = refuse
    assert await run("conflict").output() == "version 5, not 3"


async def test_calls_from_coroutines_and_threads_do_not_wait_for_each_other(run: Bench) -> None:
    saved = asyncio.Event()

    async def claim(*_: object) -> str:
        await run.host.until(lambda: run.host.saved)  # only when the thread's call was answered
        saved.set()
        return "ok"

    run.host.answers = {"claim": claim, "release": lambda *_: None}
    assert await run("both").output() == "held"
    assert saved.is_set()


async def test_snooze(run: Bench) -> None:
    outcome = await run("snooze").outcome()
    assert (outcome.result, outcome.delay_ms) == ("snoozed", 2000)


async def test_secrets(run: Bench) -> None:
    trial = run("told", {"word": "<${{ secrets.key }}>"}, needs_secrets=True)
    assert await trial.output() == "<***>"
    assert run.host.logs["out"] == b"<***>"
    assert (await run("told", {"word": "${{ secrets.no }}"}, needs_secrets=True).error()).type == "Secrets"


@pytest.mark.parametrize("name", ["wait", "wait_async"])
@pytest.mark.parametrize(("reason", "kind"), [("cancel", "Cancelled"), ("timeout", "Timeout"), ("deadline", "Deadline")])
async def test_stop_lets_the_code_clean_up(run: Bench, name: str, reason: str, kind: str) -> None:
    trial = run(name)
    await run.up()
    began = time.monotonic()
    trial.stop(reason)
    trial.stop(reason)
    outcome = await trial.outcome()
    assert time.monotonic() - began < 2
    assert outcome.error.type == kind
    assert "Cancelled" not in outcome.error.message
    assert run.host.logs["out"] == b"up\ncleaned\n"
    assert await run("add", {"a": 1}).output() == 2


async def test_stop_reaches_the_whole_tree(run: Bench) -> None:
    trial = run("deaf", timeout_ms=100)
    await run.up()
    await run.host.until(lambda: run.host.logs["out"].count(b"\n") == 2)
    pids = [int(word) for word in run.host.logs["out"].replace(b"up", b"").split()]
    assert all(map(alive, pids))
    began = time.monotonic()
    trial.stop("timeout")
    assert (await trial.error()).type == "Timeout"
    assert time.monotonic() - began < 2
    assert not any(map(alive, pids))


async def test_worker_ends_with_its_node(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text(TASKS)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    pipe = asyncio.subprocess.PIPE
    node = await asyncio.create_subprocess_exec(sys.executable, "-c", NODE, str(tmp_path), env=env, stdout=pipe)
    assert node.stdout is not None
    said = b""
    async with asyncio.timeout(10):
        while said.count(b"\n") < 2:
            said += await node.stdout.readline()
        pids = [int(word) for word in said.replace(b"up", b"").split()]
        assert all(map(alive, pids))
        began = time.monotonic()
        node.kill()
        await node.wait()
        while any(map(alive, pids)):  # noqa: ASYNC110 - they are nobody's children here
            await asyncio.sleep(0.01)
    assert time.monotonic() - began < 2


async def test_stop_of_a_call_that_waits_for_the_node(run: Bench) -> None:
    asked = asyncio.Event()

    async def never(*_: object) -> None:
        asked.set()
        await asyncio.Future()

    run.host.answers["claim"] = never
    trial = run("waiting_for_lock")
    await asyncio.wait_for(asked.wait(), 10)
    trial.stop("cancel")
    assert (await trial.outcome(2)).result == "cancelled"


async def test_who_finishes_in_spite_of_the_stop_has_finished(run: Bench) -> None:
    trial = run("finishes_anyway")
    await run.up()
    trial.stop("cancel")
    assert await trial.output() == "made it"


async def test_stop_while_it_waits_for_a_worker(run: Bench) -> None:
    trials = [run("add", {"a": 1}), run("add", {"a": 2})]
    for one in trials:
        one.stop("cancel")
    assert [(await one.outcome()).result for one in trials] == ["cancelled"] * 2
    assert await run("add", {"a": 1}).output() == 2


async def test_recycling(run: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated, "RECYCLE_AFTER", 3)
    pids = [await run("pid").output() for _ in range(7)]
    assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [3, 3, 1]
    run.executor.recycle()
    assert await run("pid").output() != pids[-1]


async def test_recycling_of_a_busy_worker(run: Bench) -> None:
    claimed = asyncio.Event()
    go_on = asyncio.Event()

    async def claim(*_: object) -> str:
        claimed.set()
        await go_on.wait()
        return "ok"

    run.host.answers = {"claim": claim, "release": lambda *_: None}
    worker = await run("pid").output()
    trial = run("locked")
    await claimed.wait()
    run.executor.recycle()
    go_on.set()
    assert await trial.output() == "held"
    assert await run("pid").output() != worker


async def test_idle_worker_that_is_killed_is_replaced(run: Bench, opened: Processes) -> None:
    pid = await run("pid").output()
    ended = next(iter(opened._live)).ended
    os.kill(pid, signal.SIGKILL)
    await asyncio.wait([ended])
    await asyncio.sleep(0)
    assert await run("pid").output() != pid


async def test_close_ends_everything(host: Any, trial: Any, opened: Processes, tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text(TASKS)
    executor = IsolatedExecutor(opened, 1, tmp_path)
    await executor.open(host)
    run = Bench(executor, host, trial)
    trials = [run("wait"), run("wait")]
    await run.up()
    await executor.close()
    assert all(one.attempt.ended for one in trials)
    assert not opened._live
    launching = IsolatedExecutor(opened, 1, tmp_path)
    await launching.open(host)
    trials = [Bench(launching, host, trial)("wait")]
    await launching.close()
    assert (await trials[0].outcome()).error.type == "Cancelled"


async def test_workers_belong_to_a_base_and_make_room_for_those_of_another(run: Bench, trial: Any, tmp_path: Path) -> None:
    base = tmp_path / "elsewhere"
    (base / "sub").mkdir(parents=True)
    (base / "here_only.py").write_text("import os\ndef place(): return [os.getcwd(), __file__]\n")
    for cwd in ("", "sub"):
        there = trial(run.executor, Call("python", "here_only:place", cwd=cwd or None), base=str(base))
        assert await there.output() == [str(base / cwd), str(base / "here_only.py")]
    assert (await run("here_only:place").error()).type == "Import", "the other base has no such module"
    both = [trial(run.executor, Call("python", "here_only:place"), base=str(base)), run("pid")]
    assert (await both[0].output())[0] == str(base)
    assert await both[1].output()
