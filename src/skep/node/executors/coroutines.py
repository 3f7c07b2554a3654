"""An event loop on a thread of its own, for coroutines."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from functools import partial

from skep.node.executors.job import UNBEGUN, Desk, Result, ThreadedJob
from skep.node.executors.threads import where

log = logging.getLogger(__name__)

STUCK_S = 0.9
"""A loop that has not come round for so long is blocked by one of its coroutines."""
END_S = 0.5
"""For cancelled tasks and async generators at the end of a loop."""


class CoroutineThread:
    """Runs coroutines, from its first job until it is ended, or until it was left behind and is out of work."""

    def __init__(self, desk: Desk) -> None:
        self.queue: deque[ThreadedJob] = deque()
        self._desk = desk
        self._loop = asyncio.SelectorEventLoop()
        self._tasks: dict[ThreadedJob, asyncio.Task[None] | None] = {}
        self._signalling = False
        self._calls: deque[float] = deque()
        """When the node called, for each call that was not yet heard."""
        self._ending = self._cleaning = self._left_behind = False
        self.thread = threading.Thread(target=self._main, name="skep-coroutines", daemon=True)
        self.thread.start()

    # -- from the node's loop

    def go(self) -> None:
        """Begins what is queued."""
        self._call(self._begin)

    def cancel(self, job: ThreadedJob) -> None:
        self._call(partial(self._cancel, job))

    @property
    def stuck(self) -> bool:
        """Whether the loop has not come round for a while though it was called."""
        return bool(self._calls) and time.monotonic() - self._calls[0] >= STUCK_S

    @property
    def called(self) -> bool:
        """Whether a call was not yet heard."""
        return bool(self._calls)

    def leave_behind(self) -> str:
        """Lets the thread end when its jobs have ended. Answers where it is now."""
        self._left_behind = True
        self._call(self._end_if_idle)
        return where(self.thread)

    def end(self) -> None:
        """Cancels what runs, and ends the thread."""
        self._ending = True
        self._call(self._stop)

    def _call(self, function: Result) -> None:
        self._calls.append(time.monotonic())
        try:
            self._loop.call_soon_threadsafe(self._hear, function)
        except RuntimeError:
            pass  # it ended by itself

    # -- on its own thread

    def _main(self) -> None:
        asyncio.set_event_loop(self._loop)
        while not self._ending:
            try:
                self._loop.run_forever()
            except BaseException:  # SystemExit and KeyboardInterrupt of tasks that user code made: they end only those
                log.exception("a task that user code started ended the event loop of coroutine tasks; it goes on")
        self._cleaning = True
        try:
            self._loop.run_until_complete(end_tasks(END_S))
        finally:
            self._loop.close()
            self._desk.hand_back(partial(self._desk.left, self))

    def _hear(self, function: Result) -> None:
        self._calls.popleft()
        function()

    def _begin(self) -> None:
        loop, queue = self._loop, self.queue
        while queue:
            job = queue.popleft()
            asyncio.Task(self._run(job), loop=loop, name=job.attempt.grant.name)

    async def _run(self, job: ThreadedJob) -> None:
        if job.attempt.stopped is not None:
            return  # `_cancel` says so
        self._tasks[job] = asyncio.current_task()
        try:
            result = job.returned(await job.begin())
        except BaseException as error:  # noqa: BLE001  a task's failure is data, whatever it raises
            result = job.raised(error)
        del self._tasks[job]
        self._hand_back(result)
        self._end_if_idle()

    def _hand_back(self, result: Result) -> None:
        """Whatever else ends in this pass of the loop goes along."""
        self._desk.hand_back(result, False)
        if not self._signalling and not self._loop.is_closed():
            self._signalling = True
            self._loop.call_soon(self._signal)

    def _signal(self) -> None:
        self._signalling = False
        self._desk.signal()

    def _cancel(self, job: ThreadedJob) -> None:
        task = self._tasks.get(job)
        if task is not None:
            task.cancel()
        else:
            self._desk.hand_back(partial(job.attempt.fail, UNBEGUN))

    def _end_if_idle(self) -> None:
        if self._left_behind and not self._tasks and not self.queue:
            self._ending = True
            self._stop()

    def _stop(self) -> None:
        if not self._cleaning:
            self._loop.stop()


async def end_tasks(limit_s: float) -> None:
    """Cancels every other task of the running loop and waits for them; those that do not end are left without a word."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        done, left = await asyncio.wait(tasks, timeout=limit_s)
        for task in done:
            task.cancelled() or task.exception()
        for task in left:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
    try:
        await asyncio.wait_for(asyncio.get_running_loop().shutdown_asyncgens(), limit_s)
    except TimeoutError:
        pass
