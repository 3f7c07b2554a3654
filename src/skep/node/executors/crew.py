"""One worker process of the pool, as the supervisor sees it."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from itertools import count
from typing import Any, Final, Protocol

import msgspec

from skep.config import without_secrets
from skep.errors import SkepError
from skep.model.node import ErrorInfo
from skep.node.attempt import SUPERSEDED, Attempt, Host
from skep.node.executors.output import TAIL_BYTES, died
from skep.node.functions import MAX_RESULT
from skep.node.pipe import (
    Answer,
    Ask,
    Base,
    Begin,
    Ended,
    Halt,
    Loaded,
    Progressed,
    Ready,
    Secrets,
    Sender,
    Unpacker,
    Written,
    from_worker,
)
from skep.node.pooled import START
from skep.node.processes import Exit, Process, Processes

log = logging.getLogger(__name__)

STOPPED: Final = ErrorInfo("Cancelled", "stopped")
ANSWER_S: Final = 2.0
"""For a worker to say how a stopped attempt ended; it gives its code up after half of that. Then it is killed."""
STALE_S: Final = 1.0
"""Between two looks at the files that a worker has imported."""
GRACE_MS: Final = 500
MOST: Final = MAX_RESULT + 4 * 1024 * 1024


class Pool(Protocol):
    """The executor, as its workers see it."""

    processes: Processes
    threads: int
    secrets: dict[str, str]
    host: Host

    def free(self, worker: Worker) -> None: ...

    def lost(self, worker: Worker, error: ErrorInfo | None) -> None: ...


class Worker(asyncio.Protocol):
    """Its process, the attempts in it, and the frames to and fro."""

    def __init__(self, pool: Pool) -> None:
        self.base = ""
        """Empty until it belongs to one."""
        self.ready = False
        self.worn = False
        """Takes no more work, and is replaced."""
        self.load = 0
        """Attempts in it."""
        self._pool = pool
        self._loop = asyncio.get_running_loop()
        self.gone: asyncio.Future[None] = self._loop.create_future()
        self._sender = Sender(self._loop)
        self._unpack = Unpacker(from_worker, MOST)
        self._numbers = count(1)
        self._attempts: dict[int, Attempt] = {}
        self._files: dict[str, tuple[int, int]] = {}
        self._looked = 0.0
        self._has_secrets = False
        self._stopping = self._killed = False
        self._process: Process | None = None
        self._kept = False
        self._transport: asyncio.Transport | None = None
        self._words = b""
        """What it said last."""
        self._answering: set[asyncio.Task[None]] = set()
        self._launch = self._loop.create_task(self._spawn())
        self._launch.add_done_callback(self._launched)

    def join(self, base: str) -> None:
        """From now on it works for this base."""
        self.base = base
        self._sender.send(Base(base))

    def begin(self, attempt: Attempt) -> None:
        attempt.work = self
        number = next(self._numbers)
        self._attempts[number] = attempt
        self.load += 1
        if attempt.call.needs_secrets and not self._has_secrets:
            self._has_secrets = True
            self._sender.send(Secrets(self._pool.secrets))
        self._sender.send(Begin(number, attempt.grant))
        if attempt.keep_until:
            self.keep()

    def halt(self, attempt: Attempt) -> None:
        """Ends an attempt; if the worker does not answer, all of it."""
        for number, own in self._attempts.items():
            if own is attempt:
                self._sender.send(Halt(number, attempt.stopped or ""))
                self._loop.call_later(ANSWER_S, self._insist, attempt)
                return

    def _insist(self, attempt: Attempt) -> None:
        if not attempt.ended and not self._stopping:
            log.warning("a worker does not answer: it is ended, because %s was stopped", attempt.grant.name)
            self.kill()

    def stop(self) -> None:
        """Ends it, and what it works on."""
        self.worn = self._stopping = True
        if self._process is not None:
            self._process.stop(GRACE_MS)
        else:
            self._launch.cancel()

    def keep(self) -> None:
        """See `Keeper`: the first of its attempts that must be over decides."""
        left = [own.left_ms for own in self._attempts.values() if own.left_ms is not None and not own.ended]
        left_ms = min(left, default=None)
        if self._process is not None and (left_ms is not None or self._kept):
            self._kept = left_ms is not None
            self._process.keep(left_ms)

    def kill(self) -> None:
        """Ends it at once. What it works on is lost, but for what was stopped."""
        self.worn = self._killed = True
        if self._process is not None:
            self._process.stop(0)

    def is_stale(self, now: float) -> bool:
        """Whether files that it has imported were changed since; looks once in a while only. Then it takes no more work."""
        if now - self._looked >= STALE_S and self._files:
            self._looked = now
            if any(_seen(path) != seen for path, seen in self._files.items()):
                self.worn = True
                if not self.load:
                    self.stop()
        return self.worn

    # -- its process

    async def _spawn(self) -> None:
        pool = self._pool
        mine, theirs = socket.socketpair()
        fd = theirs.fileno()
        with theirs:
            try:
                process = await pool.processes.spawn(
                    [sys.executable, "-P", "-c", START, str(fd), str(pool.threads), *map(os.path.abspath, sys.path)],
                    env=without_secrets(os.environ),
                    on_output=self._on_output,
                    extra_fds=(fd,),
                )
            except BaseException:
                mine.close()
                raise
        self._process = process
        self.keep()
        self._transport, _ = await self._loop.create_unix_connection(lambda: self, sock=mine)
        self._sender.open(self._transport)
        process.ended.add_done_callback(lambda ended: self._on_end(ended.result()))

    def _launched(self, launch: asyncio.Task[None]) -> None:
        failure = None if launch.cancelled() else launch.exception()
        if launch.cancelled() or failure is not None:
            self.gone.set_result(None)
            self._pool.lost(self, ErrorInfo("SpawnError", f"no worker process: {failure}") if failure else None)

    def _on_output(self, stream: int, data: bytes) -> None:
        """What its code writes beside the logs of attempts: from threads of its own, from native code, from subprocesses."""
        self._words = (self._words + data)[-TAIL_BYTES:]
        log.info("worker: %s", data.decode(errors="replace").rstrip())

    def _on_end(self, exit: Exit) -> None:
        if self._transport is not None:
            self._transport.close()
        for task in self._answering:
            task.cancel()
        words = self._words.decode(errors="replace").strip()
        error = died(exit, f"\n{words}" if words else "")
        attempts = tuple(self._attempts.values())
        self._attempts.clear()
        self.worn, self.load = True, 0
        for attempt in attempts:
            if attempt.stopped is not None or self._stopping:
                attempt.fail(STOPPED)
            elif len(attempts) == 1 and not self._killed:
                attempt.fail(error)
            else:
                attempt.lose(error)
        self.gone.set_result(None)
        self._pool.lost(self, None if self.ready or self._stopping else error)

    # -- its frames

    def data_received(self, data: bytes) -> None:
        try:
            for frames in self._unpack.feed(data):
                for frame in frames:
                    self._take(frame)
        except msgspec.DecodeError as error:
            log.warning("a worker cannot be understood and is ended: %s", error)
            self.kill()

    def connection_lost(self, error: Exception | None) -> None:
        self.worn = True
        if self._process is not None:
            self._process.stop(0)  # its code closed descriptors that were not its own; harmless if it has ended

    def _take(self, frame: Any) -> None:
        kind = type(frame)
        if kind is Ended:
            self._ended(frame)
        elif kind is Written:
            if (attempt := self._attempts.get(frame.number)) is not None:
                self._pool.host.write_log(attempt, frame.stream, frame.data)
        elif kind is Progressed:
            if (attempt := self._attempts.get(frame.number)) is not None:
                self._pool.host.show_progress(attempt, frame.done, frame.total, frame.message)
        elif kind is Ask:
            task = self._loop.create_task(self._answer(frame))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)
        elif kind is Loaded:
            self._files.update((path, (mtime_ns, size)) for path, mtime_ns, size in frame.files)
        elif kind is Ready:
            self.ready = True
            self._pool.free(self)

    def _ended(self, frame: Ended) -> None:
        attempt = self._attempts.pop(frame.number, None)
        if attempt is None:
            return
        self.load -= 1
        if frame.left:
            self._left(attempt)
        if frame.error is not None:
            attempt.fail(frame.error, frame.delay_ms)
        elif frame.delay_ms:
            attempt.snooze(frame.delay_ms)
        else:
            attempt.succeed(frame.output)
        if not self.load:
            self._pool.free(self)

    def _left(self, attempt: Attempt) -> None:
        """Code that goes on after its attempt: no other comes near it. If it held what is given to others now, it must end."""
        self.worn = True
        if attempt.grant.claims or attempt.stopped == SUPERSEDED:
            self.kill()

    async def _answer(self, ask: Ask) -> None:
        attempt = self._attempts.get(ask.number)
        try:
            if attempt is None:
                raise SkepError("the attempt has ended; its code can ask for nothing more")
            answer = Answer(ask.ask, await self._pool.host.call(attempt, ask.verb, *ask.args))
        except SkepError as error:
            answer = Answer(ask.ask, error=(type(error).__name__, str(error)))
        except Exception as error:  # noqa: BLE001  the task that waits for it must hear of it
            answer = Answer(ask.ask, error=("SkepError", f"{type(error).__name__}: {error}"))
        self._sender.send(answer)


def _seen(path: str) -> tuple[int, int]:
    try:
        stat = os.stat(path)
    except OSError:
        return (-1, -1)
    return (stat.st_mtime_ns, stat.st_size)
