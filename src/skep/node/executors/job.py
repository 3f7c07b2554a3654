"""A Python function to be run for an attempt: how its end becomes data, and its way out to the node from another thread."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any, Protocol

import msgspec

from skep.errors import SupersededError
from skep.model.node import ErrorInfo
from skep.node.attempt import Attempt
from skep.node.context import Port, Snoozed, TaskCancelled, TaskContext, current
from skep.node.functions import Function, FunctionNotFound, ResultError, arguments, encode_result, error_info
from skep.node.secrets import Mask, fill_secrets

Result = Callable[[], None]
"""What the node's loop does with what code on another thread has to say."""

UNBEGUN = ErrorInfo("Cancelled", "stopped before it began")

CROWD = 10_000
"""Results that wait for the node's loop: beyond this many, code that logs waits too."""
PATIENCE_S = 0.5
"""How often a blocked call looks whether its attempt has ended."""

_decode, _encode = msgspec.json.Decoder().decode, msgspec.json.Encoder().encode
_SCALARS = frozenset({str, int, float, bool, type(None)})


class Job:
    """One function call for one attempt. Its subclasses are also the `Port` of the code in it."""

    __slots__ = ("args", "attempt", "function", "mask", "reference")

    def __init__(self, attempt: Attempt, function: Function | None, secrets: Mapping[str, str]) -> None:
        """`function`: None when it is still to be imported. Raises Failed (a secret is missing), TypeError (no arguments)."""
        call = attempt.call
        self.mask: Mask | None = None
        if call.needs_secrets:
            call, self.mask = fill_secrets(call, secrets)
        args = arguments(call.args)
        if args and not all(type(value) in _SCALARS for value in args.values()):
            args = _decode(_encode(args))  # equal calls share one, and a function may change what it is given
        self.attempt = attempt
        self.function = function
        self.args = args
        self.reference = str(call.call)

    def port(self) -> Port:
        raise NotImplementedError

    def context(self) -> TaskContext:
        grant = self.attempt.grant
        return TaskContext(self.port(), run=grant.run, task=grant.name, attempt=grant.attempt, token=grant.token)

    def begin(self) -> Any:
        """Calls the function, in whose context this becomes the current task."""
        assert self.function is not None
        current.set(self.context())
        return self.function(**self.args)

    # -- how it ended

    def returned(self, value: Any) -> Result:
        """Raises ResultError when the value cannot be kept."""
        output = encode_result(value)
        return partial(self.attempt.succeed, output if self.mask is None else self.mask.json(output))

    def raised(self, error: BaseException) -> Result:
        """A task's failure is data, whatever it raises."""
        if isinstance(error, Snoozed):
            return partial(self.attempt.snooze, error.delay_ms)
        info = error_info(error)
        if isinstance(error, asyncio.CancelledError | TaskCancelled):
            info = msgspec.structs.replace(info, type="Cancelled", message="cancelled")
        elif isinstance(error, ResultError):
            info = ErrorInfo("Result", info.message)
        elif self.function is None:
            reason = info.message if isinstance(error, FunctionNotFound) else f"{info.type}: {info.message}"
            info = msgspec.structs.replace(info, type="Import", message=f"`{self.reference}` cannot be imported: {reason}")
        return partial(self.attempt.fail, info if self.mask is None else self.mask.info(info))


class Desk(Protocol):
    """The executor, as jobs and threads see it. All of it may be called from any thread."""

    @property
    def waiting(self) -> int:
        """How many results the node's loop has not yet taken."""
        ...

    def hand_back(self, result: Result, now: bool = True) -> None:
        """Gives the node's loop something to do. Not `now`: `signal` follows soon."""
        ...

    def signal(self) -> None:
        """Wakes the node's loop, if there is something for it that it does not know of."""
        ...

    def write_log(self, attempt: Attempt, stream: str, data: bytes) -> None: ...

    def show_progress(self, attempt: Attempt, done: float, total: float, message: str) -> None: ...

    def ask(self, attempt: Attempt, verb: str, args: tuple[Any, ...]) -> Future[Any]: ...

    def go_on(self, job: ThreadedJob, started: Awaitable[Any] | None) -> None:
        """The job goes on as a coroutine: the function has turned out to be one, or it gave something to be awaited.

        Called on the node's loop.
        """
        ...

    def left(self, worker: Any) -> None:
        """A thread has ended. Called on the node's loop."""
        ...


class ThreadedJob(Job):
    """A job whose code runs on another thread than the node's loop."""

    __slots__ = ("desk", "worker")

    def __init__(self, desk: Desk, attempt: Attempt, function: Function | None, secrets: Mapping[str, str]) -> None:
        super().__init__(attempt, function, secrets)
        self.desk = desk
        self.worker: object = None
        """The thread that has it."""

    def port(self) -> Port:
        return self

    def log(self, stream: str, data: bytes) -> None:
        if not data or self.attempt.ended:
            return
        if self.desk.waiting > CROWD:
            self._queue_up()
        if self.mask is not None:
            data = self.mask.whole(data)
        self.desk.write_log(self.attempt, stream, data)

    def _queue_up(self) -> None:
        """Whoever writes faster than the node takes it is slowed down, though not for ever."""
        for _ in range(1_000):
            if self.desk.waiting <= CROWD or self.attempt.ended:
                return
            time.sleep(0.001)

    def progress(self, done: float, total: float, message: str) -> None:
        if not self.attempt.ended:
            self.desk.show_progress(self.attempt, done, total, message if self.mask is None else self.mask.text(message))

    def call(self, verb: str, *args: Any) -> Any:
        asked = self.desk.ask(self.attempt, verb, args)
        while True:
            try:
                return asked.result(PATIENCE_S)
            except TimeoutError:
                if asked.done():
                    raise
                if self.attempt.ended:
                    raise gone(self.attempt) from None

    def call_async(self, verb: str, *args: Any) -> Awaitable[Any]:
        return asyncio.wrap_future(self.desk.ask(self.attempt, verb, args))


def gone(attempt: Attempt) -> BaseException:
    """What code meets that asks for something after its attempt has ended."""
    name = attempt.grant.name
    if attempt.stopped is not None:
        return TaskCancelled(f"{name} was stopped: {attempt.stopped}")
    return SupersededError(f"attempt {attempt.grant.attempt} of {name} has ended; its code can ask for nothing more")
