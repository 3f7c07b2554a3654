"""Threads for plain functions.

    queue ──► a woken thread takes one, wakes the next thread if more are queued, runs it, hands its result back, takes one …

So a burst of short functions is run by one or two threads, in one go; where a function blocks, the thread that was woken before
it began goes on with the rest. That thread also tells the node of results, should the first one not get round to it: while one
is on its way, a result needs no wake-up of its own.

A function is stopped by TaskCancelled, raised in its thread from outside. It may come when the function has just ended and the
thread is in the code below, though only once: `_run` takes it back, or catches it, before anything else is begun. It may also
be lost, in a `__del__` or another callback that cannot raise; so it is raised again when the function is given up.
"""

from __future__ import annotations

import ctypes
import logging
import sys
import threading
import traceback
from collections import deque
from contextvars import copy_context
from functools import partial
from inspect import isawaitable

from skep.node.context import TaskCancelled
from skep.node.executors.job import UNBEGUN, Desk, Result, ThreadedJob
from skep.node.functions import CALLERS, Function, ResultError, find_function, is_coroutine_function

log = logging.getLogger(__name__)


class FunctionThreads:
    """At most `size` threads, started when they are needed."""

    def __init__(self, desk: Desk, size: int) -> None:
        self.desk = desk
        self.queue: deque[ThreadedJob] = deque()
        self.guard = threading.Lock()
        """Held by a thread that begins or ends a job, and by whoever interrupts it."""
        self.idle: list[FunctionThread] = []
        self.coming = False
        """A thread was woken and has not yet begun to work."""
        self.closed = False
        self._size = size
        self._waking = threading.Lock()
        self.threads: set[FunctionThread] = set()

    def go(self) -> None:
        """Sees to it that someone works on what is queued. From any thread."""
        if not self.queue or self.coming or self.closed or not self._waking.acquire(blocking=False):
            return
        try:
            thread = self._idle_or_new()
            if thread is not None:
                self.coming = True
                thread.gate.release()
        finally:
            self._waking.release()

    def _idle_or_new(self) -> FunctionThread | None:
        """None when all are there and busy: each of them looks into the queue again before it rests."""
        try:
            return self.idle.pop()
        except IndexError:
            pass
        if len(self.threads) >= self._size:
            return None
        thread = FunctionThread(self)
        try:
            thread.thread.start()
        except RuntimeError as error:
            log.warning("no further thread for Python tasks: %s", error)
            return None
        self.threads.add(thread)
        return thread

    def close(self) -> None:
        """Ends the threads, each after its function."""
        with self.guard:
            self.closed = True
        while self.idle:
            self.idle.pop().gate.release()


class FunctionThread:
    """One thread that runs plain functions, one after the other."""

    def __init__(self, crew: FunctionThreads) -> None:
        self._crew = crew
        self.gate = threading.Lock()
        """Released to wake the thread."""
        self.gate.acquire()
        self._job: ThreadedJob | None = None
        self._interrupted = False
        """Something was raised, or will be."""
        self._importing = False
        """The function is being found."""
        self._ending = False
        """The function has ended: nothing more is raised."""
        self._abandoned = False
        self.thread = threading.Thread(target=self._main, name="skep-task", daemon=True)

    # -- from the node's loop

    def interrupt(self, job: ThreadedJob | None = None) -> None:
        """Raises TaskCancelled in the thread, if it runs this job (None: any)."""
        with self._crew.guard:
            if self._job is not None and job in (None, self._job) and not self._ending:
                self._interrupted = True
                if not self._importing:  # else when that is done: half of a module would be left behind for all who come later
                    self._raise(ctypes.py_object(TaskCancelled))

    def abandon(self, job: ThreadedJob) -> str | None:
        """Leaves the thread to the job that it does not get rid of, and answers where it is; None when it has ended it."""
        with self._crew.guard:
            if self._job is not job:
                return None
            self._abandoned = True
        place = where(self.thread)
        self.interrupt(job)
        self._crew.threads.discard(self)
        self._crew.go()
        return place

    def _raise(self, error: ctypes.py_object[type[BaseException]] | None) -> None:
        """None takes back what was not yet raised."""
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self.thread.ident or 0), error)

    # -- on its own thread

    def _main(self) -> None:
        crew = self._crew
        while not self._abandoned and not crew.closed:
            self.gate.acquire()
            crew.coming = False
            crew.desk.signal()
            while not self._abandoned and (job := self._next()) is not None:
                crew.go()
                result = self._run(job)
                crew.desk.hand_back(result, not crew.coming)
        crew.desk.hand_back(partial(crew.desk.left, self))

    def _next(self) -> ThreadedJob | None:
        """A job; None when there is none and the thread counts as idle, or has been woken again."""
        crew = self._crew
        while True:
            try:
                return crew.queue.popleft()
            except IndexError:
                crew.desk.signal()
            crew.idle.append(self)
            if not crew.queue or crew.closed:
                return None
            try:
                crew.idle.remove(self)  # one came in that very moment
            except ValueError:
                return None

    def _run(self, job: ThreadedJob) -> Result:
        """How the job ended. In here TaskCancelled may come at any point."""
        result: Result | None = None
        try:
            try:
                if not self._take(job):
                    return partial(job.attempt.fail, UNBEGUN)
                if job.function is None:
                    job.function = self._find(job.reference)
                    if is_coroutine_function(job.function):
                        result = partial(job.desk.go_on, job, None)
                result = result or _call(job)
                self._ending = True
            except BaseException as error:  # noqa: BLE001  a task's failure is data, whatever it raises
                self._ending = True  # the interpreter raises what comes from outside at calls and loops only
                result = job.raised(error)
            self._settle()
        except BaseException as late:  # noqa: BLE001  TaskCancelled outside of the function, or no memory
            self._settle()
            result = result or job.raised(late)
        return result

    def _take(self, job: ThreadedJob) -> bool:
        with self._crew.guard:
            if job.attempt.stopped is not None or self._crew.closed:
                return False
            job.worker = self
            self._job = job
            self._ending = self._interrupted = False
            return True

    def _find(self, reference: str) -> Function:
        with self._crew.guard:
            self._importing = True
        try:
            return find_function(reference)
        finally:
            with self._crew.guard:
                self._importing = False
                if self._interrupted:
                    self._raise(ctypes.py_object(TaskCancelled))

    def _settle(self) -> None:
        """From here on nothing can be raised in this thread."""
        with self._crew.guard:
            if self._interrupted:
                self._raise(None)
            self._job = None


def _call(job: ThreadedJob) -> Result:
    value = copy_context().run(job.begin)
    try:
        return job.returned(value)
    except ResultError:
        if isawaitable(value):
            return partial(job.desk.go_on, job, value)
        raise


def where(thread: threading.Thread | None) -> str:
    """Where a thread is, as a traceback without the frames that lead to user code."""
    frame = sys._current_frames().get((thread.ident if thread is not None else 0) or 0)
    stack = traceback.extract_stack(frame) if frame is not None else traceback.StackSummary()
    while stack and stack[0].filename.startswith((*CALLERS, str(threading.__file__))):
        del stack[0]
    return "".join(["Still running here (most recent call last):\n", *stack.format()]) if stack else ""
