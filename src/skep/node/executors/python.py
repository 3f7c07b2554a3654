"""Python tasks in this process: coroutines on an event loop of their own, plain functions in threads.

User code never runs on the node's loop, not even an import, so a task that blocks stalls nothing but its like. Work crosses
over in batches: queues one way, a deque of results back, one wake-up for however many.

A stopped coroutine is cancelled; a stopped function gets TaskCancelled raised in it. One that does not end within `GRACE_S` is
given up: its attempt ends, its thread is left behind and replaced, and what it may still return is ignored.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Mapping
from concurrent.futures import Future
from functools import partial
from inspect import iscoroutine
from typing import Any

from skep.model.node import ErrorInfo
from skep.node.attempt import Attempt, Host
from skep.node.executors.coroutines import STUCK_S, CoroutineThread
from skep.node.executors.job import UNBEGUN, Result, ThreadedJob, gone
from skep.node.executors.threads import FunctionThread, FunctionThreads
from skep.node.functions import error_info, is_coroutine_function, registry
from skep.node.secrets import Failed

log = logging.getLogger(__name__)

GRACE_S = 1.0
"""Between a stop and giving up; and at close, for everything together."""

NOT_ENDED = "it did not end when it was told to"


class PythonExecutor:
    """Runs `python` tasks. Secrets that a task asks for are filled in, and masked in all that it says."""

    name = "python"

    def __init__(self, threads: int = 32, secrets: Mapping[str, str] | None = None) -> None:
        """`threads`: how many plain functions run at once. `secrets` may grow."""
        self._secrets = secrets if secrets is not None else {}
        self._host: Host
        self._loop: asyncio.AbstractEventLoop
        self._functions = FunctionThreads(self, threads)
        self._coroutines: CoroutineThread | None = None
        self._left_behind: set[CoroutineThread] = set()
        self._begun: set[FunctionThreads | CoroutineThread] = set()
        """Whose queue has grown in this pass of the loop."""
        self._watching = False
        self._results: deque[Result] = deque()
        self._signalled = False
        self._asking: set[asyncio.Task[Any]] = set()
        self._ended = asyncio.Event()
        """A thread has ended."""
        self._closed = False

    async def open(self, host: Host) -> None:
        self._host = host
        self._loop = asyncio.get_running_loop()

    async def close(self) -> None:
        """Ends the threads. One whose function does not end is left behind; what it asks for from then on is refused."""
        while self._functions.queue:
            self._functions.queue.popleft().attempt.fail(UNBEGUN)
        self._functions.close()
        for thread in tuple(self._functions.threads):
            thread.interrupt()
        for coroutines in self._loops():
            coroutines.end()
        try:
            async with asyncio.timeout(GRACE_S):
                while self._functions.threads or self._loops():
                    self._ended.clear()
                    await self._ended.wait()
        except TimeoutError:
            count = len(self._functions.threads) + len(self._loops())
            log.warning("%d threads of Python tasks do not end; they are left behind", count)
        self._closed = True
        if asking := tuple(self._asking):
            for task in asking:
                task.cancel()
            await asyncio.wait(asking, timeout=GRACE_S)

    # -- on the node's loop

    def start(self, attempt: Attempt) -> None:
        function = registry.get(str(attempt.call.call))
        try:
            job = ThreadedJob(self, attempt, function, self._secrets)
        except Failed as failed:
            attempt.fail(failed.info)
        except Exception as error:  # noqa: BLE001  arguments that are no mapping
            attempt.fail(error_info(error))
        else:
            attempt.work = job
            if function is not None and is_coroutine_function(function):
                self._begin_coroutine(job)
            else:
                self._begin(self._functions, job)

    def _begin_coroutine(self, job: ThreadedJob) -> None:
        if self._coroutines is None:
            self._coroutines = CoroutineThread(self)
        job.worker = self._coroutines
        self._begin(self._coroutines, job)
        self._watch()

    def _begin(self, crew: FunctionThreads | CoroutineThread, job: ThreadedJob) -> None:
        crew.queue.append(job)
        if not self._begun:
            self._loop.call_soon(self._go)
        self._begun.add(crew)

    def _go(self) -> None:
        for crew in self._begun:
            crew.go()
        self._begun.clear()

    def go_on(self, job: ThreadedJob, started: Awaitable[Any] | None) -> None:
        if job.attempt.ended or job.attempt.stopped is not None:
            if iscoroutine(started):
                started.close()
            job.attempt.fail(UNBEGUN)
            return
        if started is not None:
            job.function, job.args = (lambda: started), {}
        self._begin_coroutine(job)

    def stop(self, attempt: Attempt) -> None:
        job = attempt.work
        assert isinstance(job, ThreadedJob)
        if isinstance(job.worker, FunctionThread):
            job.worker.interrupt(job)
        elif isinstance(job.worker, CoroutineThread):
            job.worker.cancel(job)
        else:
            attempt.fail(UNBEGUN)
        self._loop.call_later(GRACE_S, self._give_up, job)

    def _give_up(self, job: ThreadedJob) -> None:
        self._take_results()
        attempt, worker = job.attempt, job.worker
        if attempt.ended:
            return
        place: str | None = ""
        if isinstance(worker, FunctionThread):
            place = worker.abandon(job)
            log.warning("%s does not end although it was stopped; its thread is left behind", attempt.grant.name)
        elif isinstance(worker, CoroutineThread) and worker.stuck:
            place = self._leave_behind(worker)
        attempt.fail(ErrorInfo("Cancelled", NOT_ENDED, place or ""))

    # -- a loop that a coroutine blocks

    def _watch(self) -> None:
        if not self._watching:
            self._watching = True
            self._loop.call_later(STUCK_S, self._look)

    def _look(self) -> None:
        self._watching = False
        coroutines = self._coroutines
        if coroutines is not None and coroutines.stuck:
            self._leave_behind(coroutines)
        elif coroutines is not None and coroutines.called:
            self._watch()

    def _leave_behind(self, old: CoroutineThread) -> str:
        """What it has not begun goes to a new loop; what it has begun goes on there when the coroutine that blocks lets it."""
        place = old.leave_behind()
        if old is self._coroutines:
            log.warning("a coroutine task blocks the event loop of all of them; it is left behind\n%s", place)
            self._coroutines = None
            self._left_behind.add(old)
            while old.queue:
                try:
                    self._begin_coroutine(old.queue.popleft())
                except IndexError:
                    break  # it has come round after all
        return place

    def _loops(self) -> list[CoroutineThread]:
        return [*self._left_behind, *([self._coroutines] if self._coroutines is not None else [])]

    def left(self, worker: FunctionThread | CoroutineThread) -> None:
        worker.thread.join()  # it has done all it had to, but for a few microseconds
        if isinstance(worker, FunctionThread):
            self._functions.threads.discard(worker)
        elif worker is self._coroutines:
            self._coroutines = None
        else:
            self._left_behind.discard(worker)
        self._ended.set()

    # -- from any thread

    @property
    def waiting(self) -> int:
        return len(self._results)

    def hand_back(self, result: Result, now: bool = True) -> None:
        self._results.append(result)
        if now:
            self.signal()

    def signal(self) -> None:
        if self._results and not self._signalled:
            self._signalled = True
            try:
                self._loop.call_soon_threadsafe(self._take_results)
            except RuntimeError:
                self._results.clear()  # the node's loop has ended: nobody is left to tell
                self._signalled = False

    def _take_results(self) -> None:
        self._signalled = False
        results = self._results
        while results:
            results.popleft()()

    def write_log(self, attempt: Attempt, stream: str, data: bytes) -> None:
        self.hand_back(partial(self._write_log, attempt, stream, data), not self._functions.coming)

    def _write_log(self, attempt: Attempt, stream: str, data: bytes) -> None:
        if not attempt.ended:
            self._host.write_log(attempt, stream, data)

    def show_progress(self, attempt: Attempt, done: float, total: float, message: str) -> None:
        self.hand_back(partial(self._show_progress, attempt, done, total, message), not self._functions.coming)

    def _show_progress(self, attempt: Attempt, done: float, total: float, message: str) -> None:
        if not attempt.ended:
            self._host.show_progress(attempt, done, total, message)

    def ask(self, attempt: Attempt, verb: str, args: tuple[Any, ...]) -> Future[Any]:
        asked: Future[Any] = Future()
        self.hand_back(partial(self._ask, asked, attempt, verb, args))
        if self._loop.is_closed():
            asked.cancel()
        return asked

    def _ask(self, asked: Future[Any], attempt: Attempt, verb: str, args: tuple[Any, ...]) -> None:
        if not asked.set_running_or_notify_cancel():
            return
        if self._closed or attempt.ended:
            asked.set_exception(gone(attempt))
            return
        task = self._loop.create_task(self._host.call(attempt, verb, *args))
        self._asking.add(task)
        task.add_done_callback(partial(self._answer, asked, attempt))

    def _answer(self, asked: Future[Any], attempt: Attempt, task: asyncio.Task[Any]) -> None:
        self._asking.discard(task)
        error = gone(attempt) if task.cancelled() else task.exception()
        if error is not None:
            asked.set_exception(error)
        else:
            asked.set_result(task.result())
