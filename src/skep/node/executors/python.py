"""Python tasks in this process: coroutines on a loop of their own, plain functions in threads.

User code never runs on the node's loop, so a task that blocks stalls nothing but its like. Work crosses over in batches: a list
of attempts one way, a deque of results back, one wake-up for however many.

A stopped coroutine is cancelled; a stopped function gets TaskCancelled raised in it. One that does not end within `GRACE_S` is
given up: its attempt ends, its thread is left behind and replaced, and what it may still return is ignored.
"""

from __future__ import annotations

import asyncio
import ctypes
import inspect
import logging
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from queue import SimpleQueue
from typing import Any

import msgspec

from skep.flow.evaluation import ExpressionError, Scope
from skep.flow.templates import compile_value
from skep.model.node import ErrorInfo
from skep.node.attempt import Attempt, Host
from skep.node.context import Snoozed, TaskCancelled, TaskContext, current
from skep.node.functions import Function, arguments, encode_result, error_info, find_function

log = logging.getLogger(__name__)

GRACE_S = 1.0

Result = Callable[[], None]
"""What the node's loop does with a finished attempt."""


class PythonExecutor:
    """Runs `python` tasks. `inline`: everything on the node's own loop, for tests on virtual time."""

    name = "python"

    def __init__(self, threads: int = 32, inline: bool = False, secrets: dict[str, str] | None = None) -> None:
        self._size = threads
        self._inline = inline
        self._secrets = secrets or {}
        self._host: Host
        self._loop: asyncio.AbstractEventLoop
        self._coroutines = _CoroutineThread(self)
        self._threads: list[_FunctionThread] = []
        self._waiting: SimpleQueue[tuple[Attempt, Function, dict[str, Any]] | None] = SimpleQueue()
        self._idle = 0
        self._results: deque[Result] = deque()
        self._wakened = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self, host: Host) -> None:
        self._host = host
        self._loop = asyncio.get_running_loop()

    async def close(self) -> None:
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(tuple(self._tasks), timeout=GRACE_S)
        for thread in self._threads:
            self._waiting.put(None)
            thread.interrupt(None)
        self._coroutines.end()
        deadline = self._loop.time() + GRACE_S
        while (any(t.thread.is_alive() for t in self._threads) or self._coroutines.alive) and self._loop.time() < deadline:
            self._drain()
            await asyncio.sleep(0.005)
        self._drain()

    # -- on the node's loop

    def start(self, attempt: Attempt) -> None:
        try:
            call = attempt.call
            function = find_function(str(call.call))
            args = dict(arguments(self._reveal(call.args) if call.needs_secrets else call.args))
        except BaseException as error:  # noqa: BLE001  importing user code may raise anything at all
            attempt.fail(_import_error(error, str(attempt.call.call)))
            return
        if self._inline:
            task = self._loop.create_task(self._run_inline(attempt, function, args))
            attempt.work = task
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif inspect.iscoroutinefunction(function):
            self._coroutines.begin(attempt, function, args)
        else:
            self._waiting.put((attempt, function, args))
            if self._waiting.qsize() > sum(t.attempt is None for t in self._threads) and len(self._threads) < self._size:
                self._threads.append(_FunctionThread(self))

    def stop(self, attempt: Attempt) -> None:
        work = attempt.work
        if isinstance(work, asyncio.Task) and self._inline:
            work.cancel()
        elif isinstance(work, _FunctionThread):
            work.interrupt(attempt)
        else:
            self._coroutines.cancel(attempt)
        self._loop.call_later(GRACE_S, self._give_up, attempt)

    def _give_up(self, attempt: Attempt) -> None:
        if attempt.ended:
            return
        work = attempt.work
        if isinstance(work, _FunctionThread) and work in self._threads:
            log.warning("%s does not end although it was stopped; its thread is left behind", attempt.grant.name)
            work.abandoned = True
            self._threads.remove(work)
            if not self._waiting.empty():
                self._threads.append(_FunctionThread(self))
        elif not self._inline and self._coroutines.stuck():
            log.warning("%s blocks the event loop of coroutine tasks; it is left behind", attempt.grant.name)
            self._coroutines = _CoroutineThread(self)
        attempt.fail(ErrorInfo("Cancelled", "it did not end when it was told to"))

    def _reveal(self, args: Any) -> Any:
        """Fills in the secrets that the server left as they were."""
        return compile_value(args).render(Scope({"secrets": self._secrets}))

    async def _run_inline(self, attempt: Attempt, function: Function, args: dict[str, Any]) -> None:
        token = current.set(self.context(attempt))
        try:
            value = function(**args)
            if inspect.isawaitable(value):
                value = await value
            attempt.succeed(encode_result(value))
        except asyncio.CancelledError:
            attempt.fail(ErrorInfo("Cancelled", "cancelled"))
        except BaseException as error:  # noqa: BLE001  a task's failure is data, whatever it raises
            _failure(attempt, error)()
        finally:
            current.reset(token)

    # -- from any thread

    def context(self, attempt: Attempt) -> TaskContext:
        grant = attempt.grant
        return TaskContext(_Port(self, attempt), run=grant.run, task=grant.name, attempt=grant.attempt, token=grant.token)

    def hand_back(self, result: Result) -> None:
        """Gives the node's loop something to do; one wake-up serves all that gather until it runs."""
        self._results.append(result)
        if not self._wakened:
            self._wakened = True
            try:
                self._loop.call_soon_threadsafe(self._drain)
            except RuntimeError:
                return  # the node's loop has ended: nobody is left to tell

    def _drain(self) -> None:
        self._wakened = False
        results = self._results
        while results:
            results.popleft()()

    @property
    def host(self) -> Host:
        return self._host

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    @property
    def waiting(self) -> SimpleQueue[tuple[Attempt, Function, dict[str, Any]] | None]:
        return self._waiting

    @property
    def inline(self) -> bool:
        return self._inline


class _Port:
    """From user code to the node (`skep.node.context.Port`)."""

    def __init__(self, executor: PythonExecutor, attempt: Attempt) -> None:
        self._executor = executor
        self._attempt = attempt

    def log(self, stream: str, data: bytes) -> None:
        executor, attempt = self._executor, self._attempt
        executor.hand_back(lambda: None if attempt.ended else executor.host.write_log(attempt, stream, data))

    def progress(self, done: float, total: float, message: str) -> None:
        executor, attempt = self._executor, self._attempt
        executor.hand_back(lambda: None if attempt.ended else executor.host.show_progress(attempt, done, total, message))

    def call(self, verb: str, *args: Any) -> Any:
        asked = self._executor.host.call(self._attempt, verb, *args)
        if self._executor.inline:
            return _at_once(asked)
        return asyncio.run_coroutine_threadsafe(asked, self._executor.loop).result()

    def call_async(self, verb: str, *args: Any) -> Awaitable[Any]:
        asked = self._executor.host.call(self._attempt, verb, *args)
        if self._executor.inline:
            return asked
        return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(asked, self._executor.loop))


def _at_once(asked: Any) -> Any:
    """The answer of a coroutine that never waits, as those of an inline node are."""
    try:
        asked.send(None)
    except StopIteration as done:
        return done.value
    asked.close()
    raise RuntimeError("this would wait, and on virtual time only `async with context.lock(...)` can")


class _FunctionThread:
    """One thread that runs plain functions, one after the other."""

    def __init__(self, executor: PythonExecutor) -> None:
        self._executor = executor
        self._guard = threading.Lock()
        self.attempt: Attempt | None = None
        self.abandoned = False
        self.thread = threading.Thread(target=self._main, name="skep-task", daemon=True)
        self.thread.start()

    def interrupt(self, attempt: Attempt | None) -> None:
        """Raises TaskCancelled in the thread, if it runs this attempt (None: whichever it runs)."""
        with self._guard:
            if self.attempt is not None and attempt in (None, self.attempt) and self.thread.ident is not None:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self.thread.ident), ctypes.py_object(TaskCancelled))

    def _main(self) -> None:
        while not self.abandoned:
            try:
                item = self._executor.waiting.get()
                if item is None:
                    return
                self._run(*item)
            except TaskCancelled:
                continue  # it came a moment after the attempt it was meant for had ended

    def _run(self, attempt: Attempt, function: Function, args: dict[str, Any]) -> None:
        if attempt.stopped:
            self._executor.hand_back(lambda: attempt.fail(ErrorInfo("Cancelled", "stopped before it began")))
            return
        result: Result
        attempt.work = self
        with self._guard:
            self.attempt = attempt
        try:
            token = current.set(self._executor.context(attempt))
            try:
                output = encode_result(function(**args))
                result = _success(attempt, output)
            finally:
                current.reset(token)
        except BaseException as error:  # noqa: BLE001  a task's failure is data, whatever it raises
            result = _failure(attempt, error)
        finally:
            with self._guard:
                self.attempt = None
        self._executor.hand_back(result)


class _CoroutineThread:
    """A thread with an event loop for coroutine tasks; started with the first of them."""

    def __init__(self, executor: PythonExecutor) -> None:
        self._executor = executor
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._ready = threading.Event()
        self._batch: list[tuple[Attempt, Function, dict[str, Any]]] = []
        self._tasks: dict[Attempt, asyncio.Task[None]] = {}
        self._beat = threading.Event()

    @property
    def alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def begin(self, attempt: Attempt, function: Function, args: dict[str, Any]) -> None:
        if self._loop is None:
            self._thread = threading.Thread(target=self._main, name="skep-coroutines", daemon=True)
            self._thread.start()
            self._ready.wait()
        self._batch.append((attempt, function, args))
        if len(self._batch) == 1:
            # What else is started in this pass of the node's loop goes along.
            asyncio.get_running_loop().call_soon(self._hand_over)

    def _hand_over(self) -> None:
        batch, self._batch = self._batch, []
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._begin, batch)

    def cancel(self, attempt: Attempt) -> None:
        if self._loop is not None:
            self._beat.clear()
            self._loop.call_soon_threadsafe(self._cancel, attempt)

    def stuck(self) -> bool:
        """Whether the loop has not come round since the last `cancel`."""
        return self._loop is not None and not self._beat.is_set()

    def end(self) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._end)

    # -- on its own thread

    def _main(self) -> None:
        loop = asyncio.new_event_loop()
        self._loop = loop
        asyncio.set_event_loop(loop)
        loop.call_soon(self._ready.set)
        try:
            loop.run_forever()
        finally:
            loop.close()

    def _begin(self, batch: list[tuple[Attempt, Function, dict[str, Any]]]) -> None:
        loop = self._loop
        assert loop is not None
        for attempt, function, args in batch:
            if attempt.stopped:
                self._executor.hand_back(_failure(attempt, asyncio.CancelledError()))
                continue
            self._tasks[attempt] = loop.create_task(self._run(attempt, function, args))

    async def _run(self, attempt: Attempt, function: Function, args: dict[str, Any]) -> None:
        current.set(self._executor.context(attempt))
        try:
            result = _success(attempt, encode_result(await function(**args)))
        except BaseException as error:  # noqa: BLE001  a task's failure is data, whatever it raises
            result = _failure(attempt, error)
        del self._tasks[attempt]
        self._executor.hand_back(result)

    def _cancel(self, attempt: Attempt) -> None:
        self._beat.set()
        task = self._tasks.get(attempt)
        if task is not None:
            task.cancel()

    def _end(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        loop = self._loop
        assert loop is not None
        loop.call_later(0.02 if self._tasks else 0, loop.stop)


def _success(attempt: Attempt, output: bytes) -> Result:
    return lambda: attempt.succeed(output)


def _failure(attempt: Attempt, error: BaseException) -> Result:
    if isinstance(error, Snoozed):
        return lambda: attempt.snooze(error.delay_ms)
    if isinstance(error, asyncio.CancelledError | TaskCancelled):
        return lambda: attempt.fail(ErrorInfo("Cancelled", "cancelled"))
    info = error_info(error, skip_frames=1)
    if isinstance(error, TypeError) and info.message.startswith("the result is not JSON"):
        info = msgspec.structs.replace(info, type="Result", traceback="")
    return lambda: attempt.fail(info)


def _import_error(error: BaseException, reference: str) -> ErrorInfo:
    if isinstance(error, ExpressionError):
        return ErrorInfo("Secrets", f"a secret is missing on this node: {error}")
    if isinstance(error, TypeError):
        return error_info(error, skip_frames=1)
    info = error_info(error)
    return msgspec.structs.replace(
        info, type="Import", message=f"`{reference}` cannot be imported: {info.type}: {info.message}"
    )
