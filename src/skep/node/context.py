"""What the code of a running task can ask for: log, progress, checkpoint, lock, shared state, snooze, attempt, token.

The same calls work in plain functions, in coroutines and in isolated worker processes; what differs is the `Port` behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextvars import ContextVar
from types import TracebackType
from typing import Any, NoReturn, Protocol

import msgspec

from skep.errors import SkepError, SupersededError
from skep.model.encode import encode
from skep.model.run import EXCLUSIVE, Token
from skep.model.units import parse_duration_ms

VERBS = ("load_checkpoint", "save_checkpoint", "get_state", "put_state", "claim", "release", "put_artifact", "get_artifact")
"""What `Port.call` understands; the arguments are those of the link, without run, task and token."""

SAVE_LIMIT = 8 * 1024 * 1024
"""Bytes of JSON in one checkpoint or one value of the shared state."""


class Snoozed(BaseException):
    """Raised by `context.snooze`: not a failure, so `except Exception` in user code lets it pass."""

    def __init__(self, delay_ms: int) -> None:
        super().__init__(f"snoozed for {delay_ms} ms")
        self.delay_ms = delay_ms


class TaskCancelled(BaseException):
    """Raised inside a plain function that is being cancelled or has run out of time."""


class Port(Protocol):
    """The way out of user code."""

    def log(self, stream: str, data: bytes) -> None: ...

    def progress(self, done: float, total: float, message: str) -> None: ...

    def call(self, verb: str, *args: Any) -> Any:
        """Blocks until the node has answered."""
        ...

    def call_async(self, verb: str, *args: Any) -> Awaitable[Any]: ...


class Checkpoint:
    """A value that the task's next attempt finds, wherever it runs."""

    def __init__(self, port: Port) -> None:
        self._port = port

    def load(self, default: Any = None) -> Any:
        """The last value saved by any attempt of this task, else `default`."""
        data = self._port.call("load_checkpoint")
        return default if data is None else msgspec.json.decode(data)

    def save(self, value: Any) -> None:
        """Keeps a JSON value; returns once it is committed. Raises SupersededError when the lease is gone."""
        self._port.call("save_checkpoint", _encode(value, "a checkpoint"))

    async def aload(self, default: Any = None) -> Any:
        """`load` for coroutines: others go on in the meantime."""
        data = await self._port.call_async("load_checkpoint")
        return default if data is None else msgspec.json.decode(data)

    async def asave(self, value: Any) -> None:
        """`save` for coroutines."""
        await self._port.call_async("save_checkpoint", _encode(value, "a checkpoint"))


class SharedState:
    """Values shared by all tasks of a namespace, with versions and a life time."""

    def __init__(self, port: Port) -> None:
        self._port = port

    def get(self, key: str, default: Any = None) -> Any:
        """The value of `key`, else `default`."""
        return self.get_versioned(key, default)[0]

    def get_versioned(self, key: str, default: Any = None) -> tuple[Any, int]:
        """The value and its version; version 0 means that there is none."""
        found = self._port.call("get_state", key)
        return (default, 0) if found is None else (msgspec.json.decode(found[0]), found[1])

    async def aget(self, key: str, default: Any = None) -> Any:
        """`get` for coroutines: others go on in the meantime."""
        return (await self.aget_versioned(key, default))[0]

    async def aget_versioned(self, key: str, default: Any = None) -> tuple[Any, int]:
        """`get_versioned` for coroutines."""
        found = await self._port.call_async("get_state", key)
        return (default, 0) if found is None else (msgspec.json.decode(found[0]), found[1])

    async def aput(self, key: str, value: Any, *, ttl: str | float = "7d", expect: int | None = None) -> int:
        """`put` for coroutines."""
        data = _encode(value, "a shared value")
        return int(await self._port.call_async("put_state", key, data, parse_duration_ms(ttl), expect))

    def put(self, key: str, value: Any, *, ttl: str | float = "7d", expect: int | None = None) -> int:
        """Stores a JSON value and answers its new version.

        `expect`: store only if the version is this one now (0: absent), else ConflictError. `ttl`: how long it is kept.
        """
        return int(self._port.call("put_state", key, _encode(value, "a shared value"), parse_duration_ms(ttl), expect))


class Lock:
    """A fleet-wide lock, held in a `with` or `async with` block and given back at its end, or with the lease.

    It belongs to the attempt: blocks of one attempt do not exclude each other, and the last one to end gives it back.
    """

    def __init__(self, port: Port, key: str, hold_ms: int, shared: bool) -> None:
        self._port = port
        self._args = (key, 1 if shared else EXCLUSIVE, hold_ms, True)

    def __enter__(self) -> Lock:
        self._check(self._port.call("claim", *self._args))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._port.call("release", self._args[0])

    async def __aenter__(self) -> Lock:
        try:
            answer = await self._port.call_async("claim", *self._args)
        except asyncio.CancelledError:
            await self._port.call_async("release", self._args[0])  # it may have been given a moment ago, or would be later
            raise
        self._check(answer)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._port.call_async("release", self._args[0])

    def _check(self, answer: str) -> None:
        if answer == "wrong_state":
            raise SkepError(f"the lock '{self._args[0]}' is held shared by this task: give it back before asking for all of it")
        if answer != "ok":
            raise SupersededError(f"the lock '{self._args[0]}' was not given: {answer}; this attempt has lost its lease")


class TaskContext:
    """The context of one attempt."""

    __slots__ = ("_port", "_token", "attempt", "run_id", "task_name")

    def __init__(self, port: Port, *, run: str, task: str, attempt: int, token: Token) -> None:
        self._port = port
        self._token = token
        self.run_id = run
        self.task_name = task
        self.attempt = attempt
        """1 for the first try."""

    @property
    def token(self) -> str:
        """Names this attempt for ever, `epoch-number`: give it to outside systems that can refuse an older one."""
        return str(self._token)

    @property
    def checkpoint(self) -> Checkpoint:
        """A value that the task's next attempt finds."""
        return Checkpoint(self._port)

    @property
    def state(self) -> SharedState:
        """Values shared by all tasks of the run's namespace."""
        return SharedState(self._port)

    def log(self, *parts: object) -> None:
        """Writes one line to the task's log."""
        self._port.log("log", (" ".join(str(part) for part in parts) + "\n").encode("utf-8", "replace"))

    def write(self, stream: str, text: str) -> None:
        """Writes to the task's log as it stands: what it prints on `out` or `err`, where that is sent here."""
        self._port.log(stream, text.encode("utf-8", "replace"))

    def progress(self, done: float, total: float = 1.0, message: str = "") -> None:
        """Shows how far the task is: `done` of `total`."""
        self._port.progress(float(done), float(total), str(message)[:200])

    def lock(self, name: str, *, limit: str | float = "10m", shared: bool = False) -> Lock:
        """A lock over the whole fleet; it is freed after `limit` whatever happens. Shared holders do not exclude each other."""
        return Lock(self._port, name, parse_duration_ms(limit), shared)

    def snooze(self, delay: str | float) -> NoReturn:
        """Ends this attempt now; the task runs again after `delay`. No retry is used up."""
        raise Snoozed(max(parse_duration_ms(delay), 1))


current: ContextVar[TaskContext] = ContextVar("skep_context")


def current_context() -> TaskContext:
    """The context of the task that is running here. Raises SkepError outside of one."""
    try:
        return current.get()
    except LookupError:
        raise SkepError("skep.context works only inside a running task; call the function through a workflow") from None


def _encode(value: Any, what: str) -> bytes:
    try:
        data = encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise TypeError(f"{what} must be JSON (numbers, texts, lists, dictionaries with text keys): {error}") from None
    if len(data) > SAVE_LIMIT:
        raise ValueError(
            f"{what} may have {SAVE_LIMIT // 2**20} MiB of JSON, this one has {len(data) / 2**20:.1f} MiB: use a file"
        )
    return data
