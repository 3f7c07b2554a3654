"""One thread writes: it gathers every call that waits into one transaction, commits, and answers them all at once.

    calls ──► queue ──► BEGIN · call · call · … · COMMIT ──► one wake-up per event loop
                 ▲                                 │
                 └── what arrives meanwhile waits ─┘        no timer: an idle writer commits a single call at once

A call is a function whose first argument is the transaction. One that raises fails alone, so it must raise before it writes, or
write inside a savepoint. Another process that is in the way, or a server that is started anew, repeats the whole transaction; a
failing disk fails all its calls.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, Final, NamedTuple, TypeVar

from skep.errors import RecordError, SkepError
from skep.record.connection import Patience, connect, told
from skep.record.dialect import Dialect, Transaction, Trouble

log = logging.getLogger(__name__)

T = TypeVar("T")

GROUP_CALLS: Final = 1_000
"""Calls in one transaction at most."""
QUICK_MS: Final = 1.0
"""Commits that take less, on the average, do not hold up an event loop."""
FEW_CALLS: Final = 4
"""Small calls that one request of somebody who is alone makes: it is accepted, recorded, and looked at."""
IDLE_S: Final = 0.001
"""In which a process that has nothing else to do makes no more of them; one that is busy makes thousands a second."""
TRIES: Final = 4
"""How often a transaction is begun before a lock held by another process counts as an error; each waits the busy time-out."""


class _Job(NamedTuple):
    call: Callable[[Transaction], Any]
    future: Future[Any] | asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop | None
    """The loop that waits for it; None for a thread."""


class _Answer(NamedTuple):
    job: _Job
    value: Any
    error: Exception | None

    def settle(self) -> None:
        if self.job.future.done():  # the caller was cancelled; what it asked for is done all the same
            return
        if self.error is not None:
            self.job.future.set_exception(self.error)
        else:
            self.job.future.set_result(self.value)


def _settle(answers: list[_Answer]) -> None:
    for answer in answers:
        answer.settle()


class Writer:
    """Runs calls in transactions: on its own thread, or with `inline` on the thread that calls."""

    def __init__(self, dialect: Dialect, *, inline: bool = False) -> None:
        self._dialect = dialect
        self._inline = inline
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._door = threading.Lock()  # between submit and close; and around an inline transaction
        self._turn = threading.Lock()  # around a transaction, when two threads may make them
        self._open = self._given_up = False
        self._thread: threading.Thread | None = None
        self._asked = deque([0.0] * FEW_CALLS, maxlen=FEW_CALLS)
        """When the last small calls were made."""
        self.calls = 0
        self.commits = 0
        self.commit_ms = 0.0
        """A moving average over the last commits, the wait for the disk included."""

    def open(self) -> None:
        """Connects. Blocks; raises RecordError."""
        with self._door:
            if self._open:
                return
            self._tx = connect(self._dialect)
            self._open = True
            if not self._inline:
                self._thread = threading.Thread(target=self._work, name="skep-writer", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Runs what is queued and disconnects. Blocks; harmless when repeated."""
        with self._door:
            if not self._open:
                return
            self._open = False
            self._queue.put(None)
        if self._thread is not None:
            self._thread.join()
        self._tx.close()

    def give_up(self) -> None:
        """From now on no call is taken, and none is repeated. Never blocks; only `close` may follow."""
        self._given_up = True

    def call(self, call: Callable[[Transaction], T]) -> Future[T]:
        """Queues a call from any thread; its future is done after the commit."""
        future: Future[T] = Future()
        if self._inline:
            try:
                future.set_result(self.now(call))
            except SkepError as error:
                future.set_exception(error)
        else:
            future.set_running_or_notify_cancel()  # from here on it cannot be cancelled, so the writer may always set it
            self._submit(_Job(call, future, None))
        return future

    async def ask(self, call: Callable[[Transaction], T], *, small: bool = False) -> T:
        """The same from a coroutine. When inline it never suspends.

        A `small` call of an idle process is run at once on the thread that asks, where the disk commits in less than
        `QUICK_MS`: handing it over and back costs about as much again as the commit (measured: 0.2 ms of 0.5).
        """
        if self._inline:
            return self.now(call)
        loop = asyncio.get_running_loop()
        if small and not self._dialect.far and self.commit_ms < QUICK_MS and self.idle(loop):
            answer = self._at_once(call)
            if answer is not None:
                if answer.error is not None:
                    raise answer.error
                return answer.value  # type: ignore[no-any-return]
        return await self.queued(call, loop)

    def queued(self, call: Callable[[Transaction], T], loop: asyncio.AbstractEventLoop) -> asyncio.Future[T]:
        """The call's answer to be, on that loop, which is this thread's."""
        future: asyncio.Future[T] = loop.create_future()
        self._submit(_Job(call, future, loop))
        return future

    @property
    def busy(self) -> bool:
        """Whether what is asked now waits for something before it."""
        return self._turn.locked() or not self._queue.empty()

    def idle(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether this process seems to have nothing else to do than the small call that asks.

        asyncio's loop shows what is ready to run; of another loop, as uvloop's, it is guessed from how few asked.
        """
        ready = getattr(loop, "_ready", None)
        if ready is not None:
            return len(ready) <= 1
        now = time.perf_counter()
        before = self._asked[0]
        self._asked.append(now)
        return now - before > IDLE_S

    def _at_once(self, call: Callable[[Transaction], T]) -> _Answer | None:
        """One call in a transaction on this thread; None when the writer is at work, or another process has the lock."""
        if not self._turn.acquire(blocking=False):
            return None
        try:
            if not self._open or self._given_up or not self._queue.empty() or not self._tx.begin_at_once():
                return None
            (answer,) = self._transact([_Job(call, Future(), None)], begun=True)
            return answer
        finally:
            self._turn.release()

    def now(self, call: Callable[[Transaction], T]) -> T:
        """Runs one call in a transaction on this thread; only for an inline writer."""
        with self._door:
            self._check_open()
            (answer,) = self._transact([_Job(call, Future(), None)])
        if answer.error is not None:
            raise answer.error
        value: T = answer.value
        return value

    def _check_open(self) -> None:
        if self._given_up:
            raise RecordError("the record was given up, for it kept failing; nothing more is written to it")
        if not self._open:
            raise RecordError("the record is not open; open it first, and make no calls after close")

    def _submit(self, job: _Job) -> None:
        with self._door:
            self._check_open()
            self._queue.put(job)

    def _work(self) -> None:
        more = True
        while more:
            jobs, more = self._gather()
            if jobs:
                with self._turn:
                    answers = self._transact(jobs)
                self._answer(answers)

    def _gather(self) -> tuple[list[_Job], bool]:
        """Waits for a call, then takes all that are queued; False after the last one."""
        job = self._queue.get()
        jobs: list[_Job] = []
        while job is not None:
            jobs.append(job)
            if len(jobs) == GROUP_CALLS:
                return jobs, True
            try:
                job = self._queue.get_nowait()
            except Empty:
                return jobs, True
        return jobs, False

    def _answer(self, answers: list[_Answer]) -> None:
        loops: dict[asyncio.AbstractEventLoop, list[_Answer]] = {}
        for answer in answers:
            if answer.job.loop is None:
                answer.settle()
            else:
                loops.setdefault(answer.job.loop, []).append(answer)
        for loop, mine in loops.items():
            try:
                loop.call_soon_threadsafe(_settle, mine)
            except RuntimeError:
                log.warning("%d answers of the record came after their event loop had closed", len(mine))

    def _transact(self, jobs: list[_Job], begun: bool = False) -> list[_Answer]:
        """All calls in one transaction, which is repeated while another process has the lock."""
        patience = Patience(self._dialect, TRIES)
        while True:
            began = time.perf_counter()
            try:
                if not begun:
                    self._tx.begin()
                begun = False
                answers = [self._run(job) for job in jobs]
                committing = time.perf_counter()
                self._tx.commit()
            except Exception as error:  # noqa: BLE001  whatever it is, it is answered to every call of the transaction
                if self._undo() and not self._given_up and patience.again(error):
                    log.info("a transaction of the record is tried again after %.1f s: %s", time.perf_counter() - began, error)
                    continue
                log.info("a transaction of the record failed with %d calls: %s", len(jobs), error)  # each of them is told
                return [_Answer(job, None, told(self._dialect, error)) for job in jobs]
            except BaseException:  # an interrupt on the thread of an inline writer
                self._undo()
                raise
            self.calls += len(jobs)
            self.commits += 1
            self.commit_ms += ((time.perf_counter() - committing) * 1_000 - self.commit_ms) / min(self.commits, 50)
            return answers

    def _run(self, job: _Job) -> _Answer:
        try:
            with self._tx.guard():
                return _Answer(job, job.call(self._tx), None)
        except Exception as error:  # a call's own fault is answered to that call; anything else is the transaction's
            if not isinstance(error, SkepError) and self._dialect.trouble(error) is not Trouble.DATA:
                raise
            return _Answer(job, None, told(self._dialect, error))

    def _undo(self) -> bool:
        try:
            self._tx.rollback()
        except Exception:  # reported by the error that led here; the next BEGIN shows whether it still matters
            log.exception("the record could not roll back")
            return False
        return True
