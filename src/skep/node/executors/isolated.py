"""Python tasks with `isolation: process`: a pool of warm worker processes that can be killed; see `skep.node.worker`."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections import deque
from collections.abc import Mapping
from pathlib import Path

import msgspec

from skep.config import without_secrets
from skep.errors import SkepError
from skep.model.node import Call, ErrorInfo
from skep.node.attempt import Attempt, Host
from skep.node.executors.output import TAIL_BYTES, Log, died, plural
from skep.node.executors.shell import STOPPED
from skep.node.functions import MAX_RESULT
from skep.node.processes import Exit, Process, Processes
from skep.node.secrets import Failed, Mask, fill_secrets
from skep.node.worker import LENGTH, START, Answer, Ask, Begin, Done, Frame, Progressed, Ready, Written, pack

GRACE_MS = 500
"""For the cancelled code to clean up; then its process tree is killed."""
RECYCLE_AFTER = 1_000
"""Attempts of one worker: what leaks in user code is given back now and then."""
MAX_FRAME = MAX_RESULT + 1024 * 1024

_decoder = msgspec.msgpack.Decoder(Ready | Done | Written | Progressed | Ask)


class IsolatedExecutor:
    """Runs Python functions in at most `size` worker processes, started when first needed; more attempts wait for one.

    A worker runs where its attempts' relative paths start: in the base of their grant, else in `base`, else where the node is.
    One that is idle makes room for work of another base.
    """

    name = "isolated"

    def __init__(
        self, processes: Processes, size: int, base: Path | None = None, secrets: Mapping[str, str] | None = None
    ) -> None:
        self.processes = processes
        self.base = base
        self._size = size
        self._secrets = secrets or {}
        self._waiting: deque[_Job] = deque()
        self._workers: set[_Worker] = set()
        self._idle: list[_Worker] = []
        """The last one used is the warmest."""
        self._closed = False

    async def open(self, host: Host) -> None:
        self.host = host
        self.processes.open()

    async def close(self) -> None:
        self._closed = True
        while self._waiting:
            self._waiting.pop().attempt.fail(STOPPED)
        for worker in self._workers:
            worker.stop()
        if self._workers:
            await asyncio.wait([worker.gone for worker in self._workers])

    def recycle(self) -> None:
        """Replaces every worker, a busy one after its attempt: the code that they imported has changed."""
        self._idle.clear()
        for worker in self._workers:
            worker.retire()

    def start(self, attempt: Attempt) -> None:
        try:
            self._waiting.append(_Job(attempt, *fill_secrets(attempt.call, self._secrets)))
        except Failed as failed:
            attempt.fail(failed.info)
        else:
            self._match()

    def stop(self, attempt: Attempt) -> None:
        if isinstance(attempt.work, _Worker):
            if attempt.work.attempt is attempt:
                attempt.work.stop()
        elif not attempt.ended:
            self._waiting = deque(job for job in self._waiting if job.attempt is not attempt)
            attempt.fail(STOPPED)

    def keep(self) -> None:
        for worker in self._workers:
            worker.keep()

    def ready(self, worker: _Worker) -> None:
        self._idle.append(worker)
        self._match()

    def lost(self, worker: _Worker, error: ErrorInfo | None) -> None:
        """A worker has ended. With `error` it never began to work: one waiting attempt fails, or this could go on for ever."""
        self._workers.discard(worker)
        if worker in self._idle:
            self._idle.remove(worker)
        if error is not None and self._waiting:
            failed = next((job for job in self._waiting if job.base == worker.base), self._waiting[0])
            self._waiting.remove(failed)
            failed.attempt.fail(error)
        self._match()

    def _match(self) -> None:
        """Gives waiting attempts to idle workers of their base, in turn, and starts workers for those left over."""
        left: dict[str, int] = {}
        for job in tuple(self._waiting) if self._idle else ():
            if not self._idle:
                break
            worker = next((worker for worker in reversed(self._idle) if worker.base == job.base), None)
            if worker is not None:
                self._idle.remove(worker)
                self._waiting.remove(job)
                worker.begin(job)
        for job in self._waiting:
            left[job.base] = left.get(job.base, 0) + 1
        for worker in self._workers:
            if not worker.is_ready and worker.base in left:
                left[worker.base] -= 1
        for base, wanted in left.items():
            for _ in range(0 if self._closed else wanted):
                if len(self._workers) >= self._size:
                    if self._idle:
                        self._idle.pop(0).stop()  # its end brings us back here
                    return
                self._workers.add(_Worker(self, base))


class _Job:
    """An attempt with its secrets filled in."""

    def __init__(self, attempt: Attempt, call: Call, mask: Mask) -> None:
        self.attempt, self.call, self.mask = attempt, call, mask
        self.base = attempt.grant.base


class _Worker(asyncio.Protocol):
    """The node's side of one worker process."""

    def __init__(self, executor: IsolatedExecutor, base: str) -> None:
        self.base = base
        self.is_ready = False
        self.attempt: Attempt | None = None
        self._executor = executor
        self._loop = asyncio.get_running_loop()
        self.gone: asyncio.Future[None] = self._loop.create_future()
        self._log: Log | None = None
        self._done: Done | None = None
        self._unlogged = b""  # what it said last outside of an attempt
        self._attempts = 0
        self._stopping = self._retired = False
        self._process: Process | None = None
        self._kept = False
        self._heard = bytearray()
        self._answering: set[asyncio.Task[None]] = set()
        self._launch = self._loop.create_task(self._spawn())
        self._launch.add_done_callback(self._launched)

    def begin(self, job: _Job) -> None:
        attempt = self.attempt = job.attempt
        attempt.work = self
        grant, call = attempt.grant, job.call
        self._log = Log(self._executor.host, attempt, job.mask)
        self._attempts += 1
        what = (str(call.call), msgspec.json.encode(call.args), call.env or {}, call.cwd or "")
        self._send(Begin(*what, grant.run, grant.name, grant.attempt, (grant.token.epoch, grant.token.n)))
        self.keep()

    def stop(self) -> None:
        """Ends the worker and all below it, whatever it does; the attempt ends with it."""
        self._stopping = True
        if self._process is not None:
            self._process.stop(GRACE_MS)
        else:
            self._launch.cancel()

    def keep(self) -> None:
        """See `Keeper`."""
        left_ms = None if self.attempt is None or self.attempt.ended else self.attempt.left_ms
        if self._process is not None and (left_ms is not None or self._kept):
            self._kept = left_ms is not None
            self._process.keep(left_ms)

    def retire(self) -> None:
        """Ends the worker once it is idle."""
        self._retired = True
        if self.is_ready and self.attempt is None:
            self.stop()

    # -- its process

    async def _spawn(self) -> None:
        base = self.base or self._executor.base
        path = [*([self.base] if self.base else []), *map(os.path.abspath, sys.path)]
        mine, theirs = socket.socketpair()
        fd = theirs.fileno()
        with theirs:
            try:
                process = await self._executor.processes.spawn(
                    [sys.executable, "-P", "-c", START, str(fd), *path],
                    env=without_secrets(os.environ),
                    cwd=None if base is None else str(base),
                    on_output=self._on_output,
                    extra_fds=(fd,),
                )
            except BaseException:
                mine.close()
                raise
        self._process = process
        self._transport, _ = await self._loop.create_unix_connection(lambda: self, sock=mine)
        process.ended.add_done_callback(lambda ended: self._on_end(ended.result()))

    def _launched(self, launch: asyncio.Task[None]) -> None:
        failure = None if launch.cancelled() else launch.exception()
        if launch.cancelled() or failure is not None:
            self.gone.set_result(None)
            self._executor.lost(self, ErrorInfo("SpawnError", f"no worker process: {failure}") if failure else STOPPED)

    def _on_output(self, stream: int, data: bytes) -> None:
        if self._log is not None:
            self._log.write("out" if stream == 1 else "err", data)
        else:
            self._unlogged = (self._unlogged + data)[-TAIL_BYTES:]

    def _on_end(self, exit: Exit) -> None:
        self._transport.close()
        error = STOPPED if self._stopping else died(exit, self._log.tail() if self._log else self._last_words())
        self._stopping = True
        try:
            if self._log is not None:
                if self._done is not None and self._done.leftovers:
                    self._log.note(f"ended {plural(exit.killed, 'process', 'processes')} that the task had left behind")
                self._finish(self._done or Done(error=error))
        finally:
            self.gone.set_result(None)
            self._executor.lost(self, None if self.is_ready else error)

    def _last_words(self) -> str:
        return "\n" + self._unlogged.decode(errors="replace").strip()

    # -- its frames

    def _send(self, frame: Frame) -> None:
        self._transport.write(pack(frame))

    def data_received(self, data: bytes) -> None:
        self._heard += data
        try:
            while len(self._heard) >= LENGTH.size:
                end = LENGTH.size + LENGTH.unpack_from(self._heard)[0]
                if end > MAX_FRAME:
                    raise msgspec.DecodeError(f"a frame of {end} bytes")
                if len(self._heard) < end:
                    break
                frame = _decoder.decode(self._heard[LENGTH.size : end])
                del self._heard[:end]
                self._take(frame)
        except msgspec.DecodeError as error:  # cut by a cancellation, or the task wrote to what is not its own
            self._heard.clear()
            if self._log is not None:
                self._log.note(f"the worker cannot be understood and is ended: {error}")
            if self._process is not None:
                self._process.stop(0)

    def connection_lost(self, error: Exception | None) -> None:
        if self._process is not None:
            self._process.stop(0)  # the task closed descriptors that were not its own; harmless if it has ended

    def _take(self, frame: Ready | Done | Written | Progressed | Ask) -> None:
        attempt, log, host = self.attempt, self._log, self._executor.host
        if isinstance(frame, Ready):
            self.is_ready = True
            self._next()
        elif attempt is None or log is None:
            pass  # a thread that outlived its attempt: nobody listens any more
        elif isinstance(frame, Written):
            log.write(frame.stream, frame.data)
        elif isinstance(frame, Progressed):
            host.show_progress(attempt, frame.done, frame.total, log.mask.text(frame.message))
        elif isinstance(frame, Ask):
            task = self._loop.create_task(self._answer(attempt, frame))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)
        else:
            self._done = frame
            if frame.leftovers or self._stopping:
                self.stop()  # the attempt ends when all of it is gone
            else:  # all that it printed is in the pipes, and the loop reads them before it comes here for the second time
                self._loop.call_soon(self._loop.call_soon, self._finish, frame)

    async def _answer(self, attempt: Attempt, ask: Ask) -> None:
        try:
            answer = Answer(ask.number, await self._executor.host.call(attempt, ask.verb, *ask.args))
        except SkepError as error:
            answer = Answer(ask.number, error=(type(error).__name__, str(error)))
        except Exception as error:  # noqa: BLE001  the task that waits for it must hear of it
            answer = Answer(ask.number, error=("SkepError", f"{type(error).__name__}: {error}"))
        self._send(answer)

    def _finish(self, done: Done) -> None:
        attempt, log = self.attempt, self._log
        if attempt is None or log is None:
            return  # the worker died meanwhile, and `_on_end` was here
        log.close()
        self.attempt = self._log = self._done = None
        for task in self._answering:
            task.cancel()
        if done.error is not None:
            attempt.fail(log.mask.info(done.error))
        elif done.delay_ms:
            attempt.snooze(done.delay_ms)
        else:
            attempt.succeed(log.mask.json(done.output))
        self._next()

    def _next(self) -> None:
        if self._retired or self._attempts >= RECYCLE_AFTER:
            self.stop()
        elif not self._stopping:
            self._executor.ready(self)
