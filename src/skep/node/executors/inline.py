"""Tasks on the node's own event loop, for tests on virtual time: no threads, no processes, the same order every time."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Mapping
from functools import partial
from typing import Any, Final

from skep.errors import SkepError
from skep.model.node import ErrorInfo
from skep.node.attempt import Attempt, Host
from skep.node.context import Port
from skep.node.executors.job import UNBEGUN, Job, gone
from skep.node.functions import Function, error_info, find_function
from skep.node.secrets import Failed

GRACE_S = 1.0
_UNSTUBBED: Final = (
    "commands and requests are not made in a test; say what this one gives: "
    "stubs={{{name!r}: …}}, a value or a function of its command or request"
)
_ELSEWHERE: Final = frozenset({"run", "http"})
"""What would leave the process, and is stood in for."""
_MISSING: Final = object()


class InlineExecutor:
    """Runs `python` tasks, and stands in for those kinds that it does not run (see `stubs`)."""

    def __init__(
        self, name: str = "python", *, stubs: Mapping[str, Any] | None = None, secrets: Mapping[str, str] | None = None
    ) -> None:
        """`stubs`: by the name of a task, a map child or the parent of a map: what it returns in place of being run. A callable
        is called: for a Python task with its arguments, for a shell task with its command, for a request with the request."""
        self.name = name
        self._stubs = stubs or {}
        self._secrets = secrets or {}
        self._host: Host
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self, host: Host) -> None:
        self._host = host

    async def close(self) -> None:
        if tasks := tuple(self._tasks):
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=GRACE_S)

    def start(self, attempt: Attempt) -> None:
        task = asyncio.get_running_loop().create_task(self._run(attempt), name=attempt.grant.name)
        attempt.work = task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: attempt.fail(UNBEGUN))

    def stop(self, attempt: Attempt) -> None:
        if isinstance(attempt.work, asyncio.Task):
            attempt.work.cancel()
        asyncio.get_running_loop().call_later(
            GRACE_S, attempt.fail, ErrorInfo("Cancelled", "it did not end when it was told to")
        )

    async def _run(self, attempt: Attempt) -> None:
        try:
            job = InlineJob(self._host, attempt, self._secrets)
        except Failed as failed:
            attempt.fail(failed.info)
            return
        except Exception as error:  # noqa: BLE001  arguments that are no mapping
            attempt.fail(error_info(error))
            return
        if self.name in _ELSEWHERE and self._stub(attempt) is _MISSING:
            attempt.fail(ErrorInfo("Stub", _UNSTUBBED.format(name=attempt.grant.name.partition("[")[0])))
            return
        try:
            job.function = self._function(job)
            value = job.begin()
            result = job.returned(await value if inspect.isawaitable(value) else value)
        except BaseException as error:  # noqa: BLE001  a task's failure is data, whatever it raises
            result = job.raised(error)
        result()

    def _stub(self, attempt: Attempt) -> Any:
        name = attempt.grant.name
        return self._stubs.get(name, self._stubs.get(name.partition("[")[0], _MISSING))

    def _function(self, job: Job) -> Function:
        """What stands for the task's function, else the function itself."""
        stub = self._stub(job.attempt)
        if stub is _MISSING:
            return find_function(job.reference)
        if not callable(stub):
            return lambda **_: stub
        return partial(stub, job.attempt.call.call) if self.name in _ELSEWHERE else stub


class InlineJob(Job):
    """A job whose code runs on the node's loop: nothing has to cross over."""

    __slots__ = ("_host",)

    def __init__(self, host: Host, attempt: Attempt, secrets: Mapping[str, str]) -> None:
        super().__init__(attempt, None, secrets)
        self._host = host

    def port(self) -> Port:
        return self

    def log(self, stream: str, data: bytes) -> None:
        if data and not self.attempt.ended:
            self._host.write_log(self.attempt, stream, data if self.mask is None else self.mask.whole(data))

    def progress(self, done: float, total: float, message: str) -> None:
        if not self.attempt.ended:
            self._host.show_progress(self.attempt, done, total, message if self.mask is None else self.mask.text(message))

    def call(self, verb: str, *args: Any) -> Any:
        """The answer of a coroutine that never waits, as those of a node on virtual time are, but for one."""
        if self.attempt.ended:
            raise gone(self.attempt)
        asked = self._host.call(self.attempt, verb, *args)
        try:
            asked.send(None)
        except StopIteration as done:
            return done.value
        asked.close()
        raise SkepError("somebody else holds this lock; on virtual time only `async with context.lock(…)` can wait for it")

    def call_async(self, verb: str, *args: Any) -> Awaitable[Any]:
        return asyncio.ensure_future(self._host.call(self.attempt, verb, *args))
