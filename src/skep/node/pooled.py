"""The child program of the pool: runs Python tasks, many at once, in a process of its own.

    python -P -c START FD THREADS PATH...        FD: a stream socket to the supervisor; PATH: its `sys.path`

In here works the `PythonExecutor`, as it does in the process of `skep run`; this is its host.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import socket
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from itertools import count
from typing import Any, Final

import msgspec

from skep.model.node import Call, ErrorInfo, Grant, Outcome
from skep.node.attempt import Attempt
from skep.node.capture import capture
from skep.node.executors.job import CROWD
from skep.node.executors.python import NOT_ENDED, PythonExecutor
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
    to_worker,
)
from skep.node.questions import error_of

START: Final = (
    "import sys; fd, threads = map(int, sys.argv[1:3]); sys.path[:] = sys.argv[3:]; "
    "from skep.node.pooled import main; main(fd, threads)"
)
CALLS: Final = 1_024
"""Decoded calls kept."""

_decode_call = msgspec.json.Decoder(Call).decode


class _Attempt(Attempt):
    """An attempt that the supervisor names by a number. Why it was stopped, the supervisor says."""

    __slots__ = ("number",)

    def __init__(self, number: int, grant: Grant, call: Call, finished: Callable[[Attempt, Outcome], None]) -> None:
        super().__init__(grant, call, finished)
        self.number = number

    def _stopped_as(self, error: ErrorInfo | None) -> tuple[str, ErrorInfo]:
        return "failed", error or ErrorInfo("Cancelled", "stopped")


class _Executor(PythonExecutor):
    """Holds back code that writes faster than the supervisor reads."""

    full = False

    @property
    def waiting(self) -> int:
        return CROWD + 1 if self.full else super().waiting


class _Worker(asyncio.Protocol):
    """The host of the executor, and the worker's end of the socket."""

    def __init__(self, threads: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._secrets: dict[str, str] = {}
        self._executor = _Executor(threads, self._secrets)
        self._sender = Sender(self._loop)
        self._unpack = Unpacker(to_worker, sys.maxsize)
        self._calls: OrderedDict[bytes, Call] = OrderedDict()
        self._attempts: dict[int, _Attempt] = {}
        self._asks = count(1)
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._modules = Modules()

    async def open(self, end: socket.socket) -> None:
        await self._executor.open(self)
        transport, _ = await self._loop.create_unix_connection(lambda: self, sock=end)
        self._sender.open(transport)
        self._sender.send(Ready())

    def data_received(self, data: bytes) -> None:
        for frames in self._unpack.feed(data):
            for frame in frames:
                self._take(frame)
        self._look()

    def connection_lost(self, error: Exception | None) -> None:
        os._exit(1)  # the supervisor is gone: nothing here is wanted any more

    def pause_writing(self) -> None:
        self._executor.full = True

    def resume_writing(self) -> None:
        self._executor.full = False

    def _take(self, frame: Any) -> None:
        kind = type(frame)
        if kind is Begin:
            self._begin(frame.number, frame.grant)
        elif kind is Halt:
            attempt = self._attempts.get(frame.number)
            if attempt is not None and attempt.stopped is None:
                attempt.stopped = frame.reason
                self._executor.stop(attempt)
        elif kind is Answer:
            asked = self._asked.pop(frame.ask, None)
            if asked is not None and not asked.done():
                if frame.error is None:
                    asked.set_result(frame.value)
                else:
                    asked.set_exception(error_of(frame.error))
        elif kind is Secrets:
            self._secrets.update(frame.values)
        elif kind is Base:
            os.chdir(frame.path)
            sys.path.insert(0, frame.path)

    def _begin(self, number: int, grant: Grant) -> None:
        call = self._calls.get(grant.call)
        if call is None:
            call = self._calls[grant.call] = _decode_call(grant.call)
            if len(self._calls) > CALLS:
                self._calls.popitem(last=False)
        attempt = self._attempts[number] = _Attempt(number, grant, call, self._finished)
        self._executor.start(attempt)

    def _finished(self, attempt: Attempt, outcome: Outcome) -> None:
        assert isinstance(attempt, _Attempt)
        del self._attempts[attempt.number]
        left = outcome.error is not None and outcome.error.message == NOT_ENDED
        self._sender.send(Ended(attempt.number, outcome.output, outcome.error, outcome.delay_ms, left))
        self._look()

    def _look(self) -> None:
        if files := self._modules.new():
            self._sender.send(Loaded(files))

    # -- the host

    def write_log(self, attempt: Attempt, stream: str, data: bytes) -> None:
        assert isinstance(attempt, _Attempt)
        self._sender.send(Written(attempt.number, stream, data))

    def show_progress(self, attempt: Attempt, done: float, total: float, message: str) -> None:
        assert isinstance(attempt, _Attempt)
        self._sender.send(Progressed(attempt.number, done, total, message))

    async def call(self, attempt: Attempt, verb: str, *args: Any) -> Any:
        assert isinstance(attempt, _Attempt)
        ask = next(self._asks)
        asked = self._asked[ask] = self._loop.create_future()
        self._sender.send(Ask(attempt.number, ask, verb, list(args)))
        try:
            return await asked
        finally:
            self._asked.pop(ask, None)


class Modules:
    """The modules that were imported from below the working directory."""

    def __init__(self) -> None:
        self._count = 0
        self._names: set[str] = set()
        self._looked_ns = time.time_ns()

    def new(self) -> list[tuple[str, int, int]]:
        """The files of those imported since the last call, each with its time of change and its size.

        One that was changed since that call may have been changed after its import: it gets a time that it never had.
        """
        if len(sys.modules) == self._count:
            return []
        self._count = len(sys.modules)
        base = os.getcwd() + os.sep
        before_ns, self._looked_ns = self._looked_ns, time.time_ns()
        found: list[tuple[str, int, int]] = []
        for name, module in tuple(sys.modules.items()):
            if name in self._names:
                continue
            self._names.add(name)
            path = getattr(module, "__file__", None)
            if isinstance(path, str) and path.startswith(base) and "site-packages" not in path:
                try:
                    stat = os.stat(path)
                except OSError:
                    continue
                found.append((path, stat.st_mtime_ns if stat.st_mtime_ns < before_ns else 0, stat.st_size))
        return found


async def _work(end: socket.socket, threads: int) -> None:
    worker = _Worker(threads)
    await worker.open(end)
    await asyncio.get_running_loop().create_future()


def main(fd: int, threads: int) -> None:
    faulthandler.enable()  # a crash in native code says where, in the log of the supervisor
    end = socket.socket(fileno=fd)
    end.set_inheritable(False)
    outside = sys.stdout

    def write(text: str) -> None:
        outside.write(text)
        outside.flush()

    with capture(write):
        asyncio.run(_work(end, threads))
