"""A host that only records, and attempts whose outcome can be waited for."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

from skep.errors import SkepError
from skep.model.node import Call, Grant, Outcome
from skep.model.run import Token
from skep.node.attempt import Attempt, Executor
from skep.node.processes import Processes


class FakeHost:
    """Keeps logs, progress and checkpoints. `answers` maps other verbs to functions of their arguments."""

    def __init__(self) -> None:
        self.logs: dict[str, bytearray] = {"out": bytearray(), "err": bytearray(), "log": bytearray()}
        self.writes = 0
        self.progress: list[tuple[float, float, str]] = []
        self.saved: list[bytes] = []
        self.checkpoint: bytes | None = None
        self.answers: dict[str, Callable[..., Any]] = {}
        self.changed = asyncio.Event()

    def write_log(self, attempt: Attempt, stream: str, data: bytes) -> None:
        assert data
        self.logs[stream] += data
        self.writes += 1
        self.changed.set()

    def show_progress(self, attempt: Attempt, done: float, total: float, message: str) -> None:
        self.progress.append((done, total, message))
        self.changed.set()

    async def call(self, attempt: Attempt, verb: str, *args: Any) -> Any:
        if verb == "load_checkpoint":
            return self.checkpoint
        if verb == "save_checkpoint":
            self.saved.append(args[0])
            self.checkpoint = args[0]
            self.changed.set()
            return None
        if verb not in self.answers:
            raise SkepError(f"the fake host has no answer for {verb}")
        answer = self.answers[verb](*args)
        return await answer if asyncio.iscoroutine(answer) else answer

    async def until(self, condition: Callable[[], Any]) -> None:
        """Waits for something that the host hears of."""
        async with asyncio.timeout(10):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


class Trial:
    """One attempt in an executor under test."""

    def __init__(self, executor: Executor, call: Call, attempt: int = 1, timeout_ms: int = 0, base: str = "") -> None:
        self._executor = executor
        self._ended: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        grant = Grant("run-1", 0, "build", attempt, Token(7, 42), msgspec.json.encode(call), timeout_ms, base=base)
        self.attempt = Attempt(grant, call, lambda _, outcome: self._ended.set_result(outcome))
        executor.start(self.attempt)

    def stop(self, reason: str) -> None:
        self.attempt.stopped = reason
        self._executor.stop(self.attempt)

    async def outcome(self, limit_s: float = 15) -> Outcome:
        async with asyncio.timeout(limit_s):
            return await asyncio.shield(self._ended)

    async def output(self) -> Any:
        found = await self.outcome()
        assert found.result == "succeeded", found.error
        return msgspec.json.decode(found.output)

    async def error(self) -> Any:
        found = await self.outcome()
        assert found.result == "failed", found
        return found.error


@pytest.fixture
async def host() -> FakeHost:
    return FakeHost()


@pytest.fixture
def trial() -> type[Trial]:
    return Trial


@pytest.fixture
async def opened() -> AsyncIterator[Processes]:
    async with Processes() as processes:
        yield processes
