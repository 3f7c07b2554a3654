"""Python tasks in threads and on the loop of coroutines."""

import asyncio
import functools
import gc
import random
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import msgspec
import pytest

from skep.errors import SupersededError
from skep.model.node import Call
from skep.node.context import TaskCancelled, current_context
from skep.node.executors import coroutines, job, python, threads
from skep.node.executors.python import PythonExecutor
from skep.node.functions import registry

Task = Callable[[Callable[..., Any]], str]
LIMIT_S = 10.0


@pytest.fixture
async def executor(host: Any) -> AsyncIterator[PythonExecutor]:
    opened = PythonExecutor(threads=4, secrets={"key": "hunter22"})
    await opened.open(host)
    yield opened
    await opened.close()


@pytest.fixture
def task() -> Iterator[Task]:
    """Makes a function known to executors and answers its reference."""
    made: list[str] = []

    def add(function: Callable[..., Any]) -> str:
        made.append(f"test:{id(made)}.{len(made)}")
        registry[made[-1]] = function
        return made[-1]

    yield add
    for reference in made:
        del registry[reference]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little patience, for tests of what does not end."""
    monkeypatch.setattr(python, "GRACE_S", 0.2)
    monkeypatch.setattr(python, "STUCK_S", 0.1)
    monkeypatch.setattr(coroutines, "STUCK_S", 0.1)
    monkeypatch.setattr(coroutines, "END_S", 0.1)
    monkeypatch.setattr(job, "PATIENCE_S", 0.05)


class Gate:
    """Something that a task on another thread reaches, and then waits at."""

    def __init__(self) -> None:
        self.reached, self._open = threading.Event(), threading.Event()

    def wait(self) -> None:
        self.reached.set()
        assert self._open.wait(LIMIT_S)

    def open(self) -> None:
        self._open.set()

    async def arrival(self) -> None:
        assert await asyncio.to_thread(self.reached.wait, LIMIT_S)


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.open()


async def gone(thread: threading.Thread) -> None:
    await asyncio.to_thread(thread.join, LIMIT_S)
    assert not thread.is_alive()


def colours(body: Callable[..., Any]) -> list[Callable[..., Any]]:
    """The same function, plain and as a coroutine."""

    async def coroutine(**args: Any) -> Any:
        return body(**args)

    return [body, coroutine]


both = pytest.mark.parametrize("colour", [0, 1], ids=["plain", "coroutine"])


# -- what is called


class Called:
    def __call__(self, x: int) -> int:
        return x + 1


class CalledAsync:
    async def __call__(self, x: int) -> int:
        await asyncio.sleep(0)
        return x + 1


async def plus(x: int, y: int) -> int:
    return x + y


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x + 1,
        Called(),
        CalledAsync(),
        functools.partial(plus, y=1),
        lambda x: plus(x, 1),
    ],
    ids=["function", "object", "async object", "partial", "gives a coroutine"],
)
async def test_whatever_can_be_called(executor: PythonExecutor, trial: Any, task: Task, function: Callable[..., Any]) -> None:
    running = trial(executor, Call("python", task(function), {"x": 41}))
    assert await running.output() == 42


@both
async def test_wrong_arguments_are_named(executor: PythonExecutor, trial: Any, task: Task, colour: int) -> None:
    def add(x: int) -> int:
        return x

    async def add_async(x: int) -> int:
        return x

    reference = task((add, add_async)[colour])
    missing = await trial(executor, Call("python", reference)).error()
    unknown = await trial(executor, Call("python", reference, {"x": 1, "why": 2})).error()
    assert (missing.type, missing.traceback) == ("TypeError", "")
    assert "missing 1 required positional argument: 'x'" in missing.message
    assert "unexpected keyword argument 'why'" in unknown.message


async def test_arguments_must_have_names(executor: PythonExecutor, trial: Any, task: Task) -> None:
    error = await trial(executor, Call("python", task(lambda: None), [1, 2])).error()
    assert (error.type, error.message) == ("TypeError", "`with` must give the arguments by name, got list")


@both
async def test_attempts_do_not_share_arguments(executor: PythonExecutor, trial: Any, task: Task, colour: int) -> None:
    def grow(items: list[int]) -> list[int]:
        items.append(len(items))
        return items

    call = Call("python", task(colours(grow)[colour]), {"items": []})
    assert [await trial(executor, call).output() for _ in range(2)] == [[0], [0]]


@both
async def test_attempts_do_not_share_context_variables(executor: PythonExecutor, trial: Any, task: Task, colour: int) -> None:
    variable: ContextVar[int] = ContextVar("variable", default=0)

    def bump() -> int:
        variable.set(variable.get() + 1)
        return variable.get()

    call = Call("python", task(colours(bump)[colour]))
    assert [await trial(executor, call).output() for _ in range(3)] == [1, 1, 1]


async def test_many_functions(executor: PythonExecutor, trial: Any, task: Task) -> None:
    reference = task(lambda x: x * 2)
    running = [trial(executor, Call("python", reference, {"x": x})) for x in range(1_000)]
    assert [await one.output() for one in running] == [x * 2 for x in range(1_000)]


async def test_functions_that_block_run_side_by_side(executor: PythonExecutor, trial: Any, task: Task) -> None:
    barrier = threading.Barrier(4, timeout=LIMIT_S)
    running = [trial(executor, Call("python", task(barrier.wait))) for _ in range(4)]
    assert sorted([await one.output() for one in running]) == [0, 1, 2, 3]


async def test_no_more_threads_than_allowed(executor: PythonExecutor, trial: Any, task: Task, gate: Gate) -> None:
    running = [trial(executor, Call("python", task(gate.wait))) for _ in range(6)]
    await gate.arrival()
    gate.open()
    for one in running:
        await one.outcome()
    assert 1 <= len(executor._functions.threads) <= 4


@pytest.mark.parametrize("busy", [False, True], ids=["sleeping", "counting"])
async def test_a_result_is_not_held_back_by_what_comes_after_it(
    executor: PythonExecutor, trial: Any, task: Task, gate: Gate, busy: bool
) -> None:
    def wait() -> None:
        gate.reached.set()
        while busy and not gate._open.is_set():
            pass
        gate.wait()

    quick, slow = (trial(executor, Call("python", task(function))) for function in (lambda: 1, wait))
    assert await quick.output() == 1
    assert not slow.attempt.ended
    gate.open()
    await slow.outcome()


# -- how it fails


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, BaseException, TaskCancelled, StopIteration])
@both
async def test_whatever_is_raised_is_the_attempts_failure(
    executor: PythonExecutor, trial: Any, task: Task, colour: int, kind: type[BaseException]
) -> None:
    def fail() -> None:
        raise kind("no more")

    error = await trial(executor, Call("python", task(colours(fail)[colour]))).error()
    told = "Cancelled" if kind is TaskCancelled else kind.__name__
    assert error.type == (told if not (colour and kind is StopIteration) else "RuntimeError")
    assert "in fail" in error.traceback
    assert "skep/node" not in error.traceback
    assert await trial(executor, Call("python", task(colours(lambda: 1)[colour]))).output() == 1


async def test_an_exit_in_a_task_that_user_code_made_ends_only_that(
    executor: PythonExecutor, trial: Any, task: Task, caplog: pytest.LogCaptureFixture
) -> None:
    async def leave() -> None:
        sys.exit(3)

    async def main() -> str:
        made = asyncio.create_task(leave())
        await asyncio.wait([made])
        return type(made.exception()).__name__

    assert await trial(executor, Call("python", task(main))).output() == "SystemExit"
    assert "ended the event loop of coroutine tasks; it goes on" in caplog.text


class Odd:
    def __str__(self) -> str:
        raise SystemExit


def _loop() -> list[Any]:
    rows: list[Any] = []
    rows.append(rows)
    return rows


def _numbers() -> Iterator[int]:
    yield 1


async def _async_numbers() -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (object, "Encoding objects of type object is unsupported"),
        (_loop, "recursion"),
        (lambda: "\ud800", "surrogates"),
        (_numbers, "_numbers is a generator. Return a list"),
        (_async_numbers, "_async_numbers is a generator. Return a list"),
    ],
    ids=["object", "loop", "surrogate", "generator", "async generator"],
)
async def test_results_that_are_not_json(
    executor: PythonExecutor, trial: Any, task: Task, function: Callable[..., Any], said: str
) -> None:
    error = await trial(executor, Call("python", task(function))).error()
    assert (error.type, error.traceback) == ("Result", "")
    assert "not JSON" in error.message
    assert said in error.message


async def test_a_result_may_be_too_large(
    executor: PythonExecutor, trial: Any, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skep.node.functions.MAX_RESULT", 2**20)
    assert len(await trial(executor, Call("python", task(lambda: "x" * (2**20 - 2)))).output()) == 2**20 - 2
    error = await trial(executor, Call("python", task(lambda: "x" * 2**21))).error()
    assert error.type == "Result"
    assert "2.0 MiB of JSON" in error.message


@both
async def test_nul_characters(executor: PythonExecutor, trial: Any, task: Task, host: Any, colour: int) -> None:
    def say(fail: bool) -> str:
        current_context().log("a\0b")
        if fail:
            raise ValueError("c\0d")
        return "e\0f"

    reference = task(colours(say)[colour])
    assert await trial(executor, Call("python", reference, {"fail": False})).output() == "e\0f"
    error = await trial(executor, Call("python", reference, {"fail": True})).error()
    assert error.message == "c\ufffdd"
    assert host.logs["log"] == b"a\0b\na\0b\n"


@both
async def test_endless_recursion(executor: PythonExecutor, trial: Any, task: Task, colour: int) -> None:
    def deeper() -> Any:
        return deeper()

    error = await trial(executor, Call("python", task(colours(deeper)[colour]))).error()
    assert error.type == "RecursionError"
    assert len(error.traceback) < 5_000


async def test_an_error_that_cannot_be_shown(executor: PythonExecutor, trial: Any, task: Task) -> None:
    def fail() -> None:
        raise ValueError(Odd())

    error = await trial(executor, Call("python", task(fail))).error()
    assert (error.type, error.message) == ("ValueError", "(its text cannot be made: SystemExit)")


# -- imports


async def test_modules_are_imported_in_threads_and_files_once(executor: PythonExecutor, trial: Any, tmp_path: Path) -> None:
    file = tmp_path / "slow.py"
    file.write_text(
        "import threading, time\nname = threading.current_thread().name\nloads = []\ntime.sleep(0.05)\nloads.append(1)\n"
        "def plain(): return [name, len(loads)]\nasync def coroutine(): return [name, len(loads)]\n"
    )
    running = [trial(executor, Call("python", f"{file}:{name}")) for name in ("plain", "coroutine") * 2]
    assert [await one.output() for one in running] == [["skep-task", 1]] * 4


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("no_such_module:f", "`no_such_module:f` cannot be imported: ModuleNotFoundError: No module named 'no_such_module'"),
        ("json:nothing", "`json:nothing` cannot be imported: there is no function 'nothing' in json: check the task's"),
        ("json:__doc__", "there is no function '__doc__' in json"),
        ("/no/such/file.py:f", "there is no Python file /no/such/file.py on this node"),
        ("{path}/leaves.py:f", "cannot be imported: SystemExit: 3"),
        ("{path}/broken.py:f", "cannot be imported: SyntaxError"),
    ],
)
async def test_what_cannot_be_imported(executor: PythonExecutor, trial: Any, tmp_path: Path, reference: str, said: str) -> None:
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(3)\n")
    (tmp_path / "broken.py").write_text("def f(:\n")
    for _ in range(2):
        error = await trial(executor, Call("python", reference.format(path=tmp_path))).error()
        assert error.type == "Import"
        assert said in error.message
        assert "importlib" not in error.traceback


async def test_who_is_stopped_during_an_import_leaves_no_half_of_it(
    executor: PythonExecutor, trial: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "slowly_imported"
    package.mkdir()
    began = tmp_path / "began"
    (package / "inner.py").write_text("VALUE = 7\n")
    (package / "__init__.py").write_text(
        "import sys, pathlib, time\nfrom slowly_imported.inner import VALUE\n"
        f"pathlib.Path({str(began)!r}).touch()\nfor _ in range(50): time.sleep(0.01)\n"
        "def f(): return sys.modules[__name__].inner.VALUE\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    first = trial(executor, Call("python", "slowly_imported:f"))
    async with asyncio.timeout(LIMIT_S):
        while not began.exists():  # noqa: ASYNC110  a file says so
            await asyncio.sleep(0.01)
    first.stop("cancel")
    assert (await first.outcome()).result == "cancelled"
    assert await trial(executor, Call("python", "slowly_imported:f")).output() == 7


# -- secrets


@both
async def test_secrets_are_filled_in_and_masked(
    executor: PythonExecutor, trial: Any, task: Task, host: Any, colour: int
) -> None:
    def use(key: str, fail: bool) -> str:
        current_context().log("the key is", key)
        current_context().progress(1, 2, key)
        if fail:
            raise ValueError(key)
        return f"{key} has {len(key)}"

    call = Call("python", task(colours(use)[colour]), {"key": "${{ secrets.key }}", "fail": False}, needs_secrets=True)
    assert await trial(executor, call).output() == "*** has 8"
    error = await trial(executor, msgspec.structs.replace(call, args={**call.args, "fail": True})).error()
    assert error.message == "***"
    assert host.logs["log"] == b"the key is ***\n" * 2
    assert {message for _, _, message in host.progress} == {"***"}
    missing = Call("python", call.call, {"key": "${{ secrets.other }}"}, needs_secrets=True)
    assert (await trial(executor, missing).error()).type == "Secrets"


# -- being stopped


async def test_a_coroutine_is_cancelled(executor: PythonExecutor, trial: Any, task: Task, host: Any) -> None:
    async def sleep() -> None:
        try:
            current_context().log("here")
            await asyncio.sleep(3600)
        finally:
            current_context().checkpoint.save("cleaned up")

    running = trial(executor, Call("python", task(sleep)), timeout_ms=1_000)
    await host.until(lambda: host.logs["log"])
    running.stop("timeout")
    error = await running.error()
    assert (error.type, error.message) == ("Timeout", "still running after its timeout of 1 s")
    assert "await asyncio.sleep(3600)" in error.traceback
    assert host.checkpoint == b'"cleaned up"'


async def test_a_function_gets_an_exception(executor: PythonExecutor, trial: Any, task: Task, host: Any) -> None:
    def count() -> None:
        try:
            current_context().log("here")
            while True:
                pass
        finally:
            current_context().checkpoint.save("cleaned up")

    running = trial(executor, Call("python", task(count)))
    await host.until(lambda: host.logs["log"])
    running.stop("cancel")
    outcome = await running.outcome()
    assert (outcome.result, outcome.error.message) == ("cancelled", "stopped: cancel")
    assert "in count" in outcome.error.traceback
    assert host.checkpoint == b'"cleaned up"'


async def test_a_result_that_comes_after_the_stop_counts(executor: PythonExecutor, trial: Any, task: Task, host: Any) -> None:
    def hold_on() -> str:
        try:
            current_context().log("here")
            while True:
                pass
        except TaskCancelled:
            return "finished all the same"

    running = trial(executor, Call("python", task(hold_on)))
    await host.until(lambda: host.logs["log"])
    running.stop("cancel")
    assert await running.output() == "finished all the same"


@both
async def test_stopped_before_it_began(executor: PythonExecutor, trial: Any, task: Task, gate: Gate, colour: int) -> None:
    called: list[int] = []
    busy = [trial(executor, Call("python", task(gate.wait))) for _ in range(4)] if not colour else []
    waiting = trial(executor, Call("python", task(colours(lambda: called.append(1))[colour])))
    waiting.stop("cancel")
    assert (await waiting.outcome()).result == "cancelled"
    gate.open()
    for one in busy:
        await one.output()
    assert not called


@pytest.mark.usefixtures("short")
async def test_a_function_that_does_not_end_is_left_behind(
    executor: PythonExecutor, trial: Any, task: Task, gate: Gate, host: Any, caplog: pytest.LogCaptureFixture
) -> None:
    late: list[type[BaseException]] = []

    def hang() -> str:
        try:
            gate.wait()
        except TaskCancelled:
            pass
        context = current_context()
        context.log("nobody reads this")
        try:
            context.checkpoint.save(1)
        except BaseException as error:  # noqa: BLE001
            late.append(type(error))
        return "too late"

    running = trial(executor, Call("python", task(hang)))
    await gate.arrival()
    (left,) = executor._functions.threads
    running.stop("timeout")
    error = await running.error()
    assert error.type == "Timeout"
    assert "in hang" in error.traceback
    assert "left behind" in caplog.text
    assert left not in executor._functions.threads
    assert await trial(executor, Call("python", task(lambda: 1))).output() == 1
    gate.open()
    await gone(left.thread)
    assert late == [TaskCancelled]
    assert not host.logs["log"]


@pytest.mark.usefixtures("short")
async def test_a_coroutine_that_ignores_its_cancellation_is_given_up(
    executor: PythonExecutor, trial: Any, task: Task, host: Any
) -> None:
    async def stay() -> None:
        current_context().log("here")
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                current_context().log("no")

    running = trial(executor, Call("python", task(stay)))
    await host.until(lambda: host.logs["log"])
    running.stop("cancel")
    assert (await running.outcome()).result == "cancelled"
    assert await trial(executor, Call("python", task(plus), {"x": 1, "y": 2})).output() == 3
    assert executor._coroutines is not None
    assert not executor._left_behind


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("stopped", [True, False])
async def test_a_coroutine_that_blocks_its_loop(
    executor: PythonExecutor, trial: Any, task: Task, gate: Gate, host: Any, stopped: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def other() -> str:
        current_context().log("here")
        await asyncio.sleep(0.001)
        return threading.current_thread().name

    async def nap() -> str:
        current_context().log("here")
        for _ in range(1_000):
            await asyncio.sleep(0)
            if gate.reached.is_set():
                return "went on"
        raise AssertionError

    async def block() -> None:
        gate.wait()

    beside = trial(executor, Call("python", task(nap)))
    blocking = trial(executor, Call("python", task(block)))
    await gate.arrival()
    assert executor._coroutines is not None
    old = executor._coroutines.thread
    if stopped:
        blocking.stop("cancel")
        assert (await blocking.outcome()).result == "cancelled"
    after = trial(executor, Call("python", task(other)))
    assert await after.output() == "skep-coroutines"
    assert "a coroutine task blocks the event loop of all of them" in caplog.text
    assert "in block" in caplog.text
    assert executor._coroutines.thread is not old
    assert not beside.attempt.ended
    gate.open()
    assert await beside.output() == "went on"
    assert (await blocking.outcome()).result == ("cancelled" if stopped else "succeeded")
    await gone(old)


async def test_stops_at_any_moment_hit_nobody_else(executor: PythonExecutor, trial: Any, task: Task) -> None:
    """Functions that end at about the moment at which they are stopped: no thread dies, no outcome is lost or doubled."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    gc.disable()  # a stop that lands in a callback of the collector (Hypothesis has one) is lost, and pytest fails for that
    try:
        chance = random.Random(7)
        reference = task(lambda n: sum(range(n)))
        for _ in range(40):
            running = [trial(executor, Call("python", reference, {"n": chance.randrange(3_000)})) for _ in range(25)]
            stopped = set()
            for one in running:
                if chance.random() < 0.5:
                    await asyncio.sleep(0)
                if chance.random() < 0.5 and not one.attempt.ended:
                    stopped.add(one)
                    one.stop("cancel")
            for one in running:
                outcome = await one.outcome()
                assert outcome.result == "succeeded" or one in stopped, outcome
    finally:
        gc.enable()
        sys.setswitchinterval(before)
    assert all(thread.thread.is_alive() for thread in executor._functions.threads)
    assert await trial(executor, Call("python", reference, {"n": 3})).output() == 3


async def test_an_exception_that_comes_late_is_taken_back(
    executor: PythonExecutor, trial: Any, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stop comes when the function has ended and its thread is still busy with the result."""
    running: list[Any] = []
    loop = asyncio.get_running_loop()
    settle = threads.FunctionThread._settle

    def stop_first(self: threads.FunctionThread) -> None:
        if not running[-1].attempt.stopped:
            asyncio.run_coroutine_threadsafe(stop(), loop).result(LIMIT_S)
        settle(self)

    async def stop() -> None:
        running[-1].stop("cancel")

    for function, result in ((lambda: 1, "succeeded"), (lambda: 1 / 0, "cancelled")):
        for _ in range(20):
            monkeypatch.setattr(threads.FunctionThread, "_settle", stop_first)
            running.append(trial(executor, Call("python", task(function))))
            assert (await running[-1].outcome()).result == result
            monkeypatch.setattr(threads.FunctionThread, "_settle", settle)
            assert await trial(executor, Call("python", task(lambda: 2))).output() == 2


# -- asking the node


@both
async def test_a_call_that_is_never_answered_ends_with_its_attempt(
    executor: PythonExecutor, trial: Any, task: Task, host: Any, colour: int, monkeypatch: pytest.MonkeyPatch, short: None
) -> None:
    met: list[type[BaseException]] = []
    ended = threading.Event()

    def ask() -> None:
        try:
            current_context().state.get("key")
        except BaseException as error:
            met.append(type(error))
            raise
        finally:
            ended.set()

    host.answers["get_state"] = lambda key: host.changed.set() or asyncio.sleep(3600)
    host.changed.clear()
    running = trial(executor, Call("python", task(colours(ask)[colour])))
    await host.changed.wait()
    running.stop("timeout")
    assert (await running.error()).type == "Timeout"
    assert await asyncio.to_thread(ended.wait, LIMIT_S)
    assert met == [TaskCancelled]


async def test_threads_that_outlive_their_attempt_are_refused(
    executor: PythonExecutor, trial: Any, task: Task, gate: Gate
) -> None:
    met: list[BaseException] = []

    def later() -> None:
        context = current_context()

        def work() -> None:
            gate.wait()
            context.log("nobody reads this")
            try:
                context.checkpoint.load()
            except SupersededError as error:
                met.append(error)

        threading.Thread(target=work, name="later").start()

    await trial(executor, Call("python", task(later))).outcome()
    (thread,) = (thread for thread in threading.enumerate() if thread.name == "later")
    gate.open()
    await gone(thread)
    assert "has ended" in str(met[0])


async def test_code_that_logs_faster_than_the_node_takes_it_waits(
    executor: PythonExecutor, trial: Any, task: Task, host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "CROWD", 10)
    most = 0

    def chatter() -> None:
        nonlocal most
        for _ in range(200):
            current_context().log("x")
            most = max(most, executor.waiting)

    running = trial(executor, Call("python", task(chatter)))
    time.sleep(0.03)  # noqa: ASYNC251  the node's loop is busy
    await running.output()
    assert host.logs["log"] == b"x\n" * 200
    assert most <= 12


# -- the end


async def test_close_ends_everything(host: Any, trial: Any, task: Task, caplog: pytest.LogCaptureFixture) -> None:
    async def sleep() -> None:
        asyncio.get_running_loop().create_task(asyncio.sleep(3600))
        await asyncio.sleep(3600)

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            await asyncio.sleep(0)

    async def half() -> None:
        async for _ in numbers():
            current_context().log("here")
            await asyncio.sleep(3600)

    def count() -> None:
        while True:
            pass

    executor = PythonExecutor(threads=2)
    await executor.open(host)
    running = [trial(executor, Call("python", task(function))) for function in (sleep, half, count, count, count)]
    await host.until(lambda: host.logs["log"])
    crew = [thread.thread for thread in executor._functions.threads]
    loops = [coroutine.thread for coroutine in executor._loops()]
    await executor.close()
    assert [(await one.outcome()).error.type for one in running] == ["Cancelled"] * 5
    assert not any(thread.is_alive() for thread in crew + loops)
    assert not caplog.records


@pytest.mark.usefixtures("short")
async def test_close_does_not_wait_for_ever(host: Any, trial: Any, task: Task, gate: Gate) -> None:
    inner = Gate()

    async def block() -> None:
        inner.wait()

    executor = PythonExecutor(threads=2)
    await executor.open(host)
    trial(executor, Call("python", task(gate.wait)))
    trial(executor, Call("python", task(block)))
    await gate.arrival()
    await inner.arrival()
    stuck = [thread.thread for thread in executor._functions.threads] + [one.thread for one in executor._loops()]
    async with asyncio.timeout(LIMIT_S):
        await executor.close()
    gate.open()
    inner.open()
    for thread in stuck:
        await gone(thread)


async def test_close_of_an_executor_that_did_nothing(host: Any) -> None:
    executor = PythonExecutor()
    await executor.open(host)
    await executor.close()
