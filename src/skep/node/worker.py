"""The child program of the isolated executor: runs Python functions, one at a time, in a process that can be killed.

    python -P -c START FD PATH...        FD: an AF_UNIX stream socket to the node; PATH: its `sys.path`

Frames (msgpack behind a length of four bytes) come in through a thread, so that calls of the running code are answered while
it runs; the code itself has the main thread. SIGTERM is how the node cancels: a coroutine's task is cancelled, in a plain
function `TaskCancelled` is raised; then the worker ends. It also ends, at once, when the node's end of the socket closes.
"""

from __future__ import annotations

import asyncio
import contextvars
import faulthandler
import inspect
import os
import signal
import socket
import struct
import sys
import threading
from collections.abc import Awaitable
from concurrent.futures import Future
from itertools import count
from queue import SimpleQueue
from types import FrameType
from typing import Any

import msgspec

from skep import errors
from skep.model.node import ErrorInfo
from skep.model.run import Token
from skep.node.context import Snoozed, TaskCancelled, TaskContext, current
from skep.node.functions import Function, FunctionNotFound, ResultError, arguments, encode_result, error_info, find_function

START = "import sys; sys.path[:] = sys.argv[2:]; from skep.node.worker import main; main(int(sys.argv[1]))"
"""Not `-m`, which would look for this module from where the worker starts and not from where the node did."""
LENGTH = struct.Struct("!I")
PLAIN_ERRORS = (errors.SupersededError, errors.ConflictError, errors.RefusedError, errors.NotFoundError, errors.WrongStateError)
"""What a call of the context may raise besides SkepError."""


class Frame(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """One message over the socket."""


class Begin(Frame, frozen=True):
    """node → worker: one attempt. Answered by `Done`."""

    reference: str
    args: bytes
    """JSON, because msgpack's integers are bounded."""
    env: dict[str, str]
    cwd: str
    run: str
    task: str
    attempt: int
    token: tuple[int, int]


class Answer(Frame, frozen=True):
    """node → worker: what became of an `Ask`. `error` is the name of an error of Skep's and its text."""

    number: int
    value: Any = None
    error: tuple[str, str] | None = None


class Ready(Frame, frozen=True):
    """worker → node: waits for work."""


class Done(Frame, frozen=True):
    """worker → node: how the attempt ended: an error, a delay (snoozed), else an output. All it printed is in the pipes."""

    output: bytes = b""
    error: ErrorInfo | None = None
    delay_ms: int = 0
    leftovers: bool = False
    """Processes that it started still run."""


class Written(Frame, frozen=True):
    """worker → node: a line for the log."""

    stream: str
    data: bytes


class Progressed(Frame, frozen=True):
    """worker → node."""

    done: float
    total: float
    message: str


class Ask(Frame, frozen=True):
    """worker → node: a verb of `skep.node.context.VERBS`. Answered by `Answer`."""

    number: int
    verb: str
    args: tuple[Any, ...]


def pack(frame: Frame) -> bytes:
    body = msgspec.msgpack.encode(frame)
    return LENGTH.pack(len(body)) + body


class Channel:
    """The worker's end of the socket: the `Port` of the code that runs here."""

    def __init__(self, end: socket.socket) -> None:
        self.begins: SimpleQueue[Begin] = SimpleQueue()
        self.pid = os.getpid()
        self._socket = end
        self._sending = threading.Lock()
        self._numbers = count(1)
        self._asked: dict[int, Future[Any]] = {}

    def send(self, frame: Frame) -> None:
        if os.getpid() != self.pid:
            raise errors.SkepError("a process that a task forked has no skep.context")
        data = pack(frame)
        with self._sending:
            self._socket.sendall(data)

    def log(self, stream: str, data: bytes) -> None:
        self.send(Written(stream, data))

    def progress(self, done: float, total: float, message: str) -> None:
        self.send(Progressed(done, total, message))

    def call(self, verb: str, *args: Any) -> Any:
        return self._ask(verb, args).result()

    def call_async(self, verb: str, *args: Any) -> Awaitable[Any]:
        return asyncio.wrap_future(self._ask(verb, args))

    def _ask(self, verb: str, args: tuple[Any, ...]) -> Future[Any]:
        number = next(self._numbers)
        future = self._asked[number] = Future()
        future.set_running_or_notify_cancel()  # from here on nobody can cancel it, so it can be resolved
        self.send(Ask(number, verb, args))
        return future

    def listen(self) -> None:
        """The thread: until the node is gone, and then nothing here is wanted any more."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # it shall interrupt the main thread
        decode = msgspec.msgpack.Decoder(Begin | Answer).decode
        with self._socket.makefile("rb") as stream:
            while len(head := stream.read(LENGTH.size)) == LENGTH.size:
                frame = decode(stream.read(LENGTH.unpack(head)[0]))
                if isinstance(frame, Begin):
                    self.begins.put(frame)
                else:
                    self._resolve(frame)
        os._exit(1)

    def _resolve(self, answer: Answer) -> None:
        future = self._asked.pop(answer.number)
        if answer.error is None:
            future.set_result(answer.value)
        else:
            name, message = answer.error
            kind = next((kind for kind in PLAIN_ERRORS if kind.__name__ == name), errors.SkepError)
            future.set_exception(kind(message))


class Worker:
    """Takes attempts from the channel, one after the other."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._home = os.getcwd()
        self._environ = dict(os.environ)
        self._running = False
        self._stopping = False
        self._task: asyncio.Task[Any] | None = None

    def serve(self) -> None:
        signal.signal(signal.SIGTERM, self._terminate)
        self._channel.send(Ready())
        while not self._stopping:
            done = contextvars.copy_context().run(self._attempt, self._channel.begins.get())
            flush()
            if os.getpid() != self._channel.pid:
                os._exit(0)  # the task forked, and its child came back from the function too
            self._channel.send(msgspec.structs.replace(done, leftovers=leftovers()))

    def _attempt(self, begin: Begin) -> Done:
        context = TaskContext(self._channel, run=begin.run, task=begin.task, attempt=begin.attempt, token=Token(*begin.token))
        current.set(context)
        self._running = True
        function: Function | None = None
        try:
            self._prepare(begin)
            args = arguments(msgspec.json.decode(begin.args))
            function = find_function(begin.reference)
            value = function(**args)
            if inspect.isawaitable(value):
                value = asyncio.run(self._drive(value))
            return Done(output=encode_result(value))
        except Snoozed as snoozed:
            return Done(delay_ms=max(snoozed.delay_ms, 1))
        except BaseException as error:  # noqa: BLE001  also SystemExit: it ends the attempt, not the worker
            return Done(error=self._failure(error, None if function else begin.reference))
        finally:
            self._running = False

    def _failure(self, error: BaseException, importing: str | None) -> ErrorInfo:
        info = error_info(error, own_frames(error))
        if self._stopping and isinstance(error, TaskCancelled | asyncio.CancelledError):
            return ErrorInfo("Cancelled", "stopped")
        if isinstance(error, ResultError):
            return ErrorInfo("Result", info.message)
        if importing and not isinstance(error, TypeError | OSError):  # of the arguments, the directory
            reason = info.message if isinstance(error, FunctionNotFound) else f"{info.type}: {info.message}"
            return msgspec.structs.replace(info, type="Import", message=f"`{importing}` cannot be imported: {reason}")
        return info

    def _prepare(self, begin: Begin) -> None:
        """Every attempt begins in the same place and environment, whatever the one before it did to them."""
        os.chdir(os.path.join(self._home, begin.cwd))
        wanted = {**self._environ, **begin.env}
        if dict(os.environ) != wanted:
            os.environ.clear()
            os.environ.update(wanted)

    async def _drive(self, value: Awaitable[Any]) -> Any:
        self._task = asyncio.current_task()
        try:
            return await value
        finally:
            self._task = None

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._channel.pid:  # a fork of the task's has inherited this handler
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self._stopping = True
        if self._task is not None:
            self._task.get_loop().call_soon_threadsafe(self._task.cancel)
        elif self._running:
            raise TaskCancelled("the node stops this attempt")
        else:
            raise SystemExit(0)


def own_frames(error: BaseException) -> int:
    """How many of the outermost frames of a traceback are the worker's own, or asyncio's around a coroutine."""
    trace, depth, own = error.__traceback__, 0, 1
    while trace is not None:
        depth += 1
        if trace.tb_frame.f_code is Worker._drive.__code__:
            own = depth
        trace = trace.tb_next
    return own


def leftovers() -> bool:
    """Whether a process that was started here still runs: below this one, or orphaned to the shim above it (Linux)."""
    return bool(children(os.getpid())) or len(children(os.getppid())) > 1


def children(pid: int) -> list[str]:
    found: list[str] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children") as file:
                found += file.read().split()
    except OSError:
        pass  # a thread ended meanwhile, or there is no such list: the shim ends what is left when the worker ends
    return found


def flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass  # closed or replaced by the task


def main(fd: int) -> None:
    faulthandler.enable()  # a crash in native code says where, in the attempt's log
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    end = socket.socket(fileno=fd)
    end.set_inheritable(False)
    channel = Channel(end)
    worker = Worker(channel)
    threading.Thread(target=channel.listen, name="skep-channel", daemon=True).start()
    worker.serve()
