"""One attempt in the hands of an executor, and how it ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from skep.model.node import Call, ErrorInfo, Grant, Outcome

CANCEL, TIMEOUT, DEADLINE, SUPERSEDED = "cancel", "timeout", "deadline", "superseded"
"""Why an attempt is stopped."""

MAX_OUTPUT = 64 * 1024
"""Bytes of JSON that travel with an outcome; what is larger becomes an artifact."""

NULL = b"null"


class Attempt:
    """A lease being worked on. Its executor calls one of `succeed`, `fail`, `lose`, `snooze`; what comes after is ignored."""

    __slots__ = ("_clock", "_finished", "call", "ended", "grant", "keep_until", "offsets", "started", "stopped", "work")

    def __init__(
        self,
        grant: Grant,
        call: Call,
        finished: Callable[[Attempt, Outcome], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock` tells monotonic seconds."""
        self.grant = grant
        self.call = call
        self.started = clock()
        self.offsets: dict[str, int] | None = None
        """Bytes written so far, by stream."""
        self._clock = clock
        self.stopped: str | None = None
        """Why it is being stopped, once it is."""
        self.ended = False
        self.keep_until = 0.0
        """By the clock: its process ends by itself then, because it holds something of the whole fleet's. 0: it does not."""
        self.work: object = None
        """Whatever the executor needs to find again in order to stop it."""
        self._finished = finished

    @property
    def left_ms(self) -> int | None:
        """How long its process may go on unless told again; None: for ever."""
        return max(round((self.keep_until - self._clock()) * 1000), 0) if self.keep_until else None

    def succeed(self, output: bytes = NULL) -> None:
        """`output` is JSON."""
        self._end("succeeded", output=output)

    def fail(self, error: ErrorInfo, delay_ms: int = 0) -> None:
        """An attempt that was stopped fails, or is cancelled, for the reason it was stopped for."""
        self._end("failed", error=error, delay_ms=delay_ms)

    def lose(self, error: ErrorInfo) -> None:
        """Its process died, perhaps for the fault of another attempt in it."""
        self._end("lost", error=error)

    def snooze(self, delay_ms: int) -> None:
        self._end("snoozed", delay_ms=delay_ms)

    def _end(self, result: str, output: bytes = b"", error: ErrorInfo | None = None, delay_ms: int = 0) -> None:
        if self.ended:
            return
        self.ended = True
        if self.stopped is not None and result != "succeeded":
            result, error = self._stopped_as(error)
        grant = self.grant
        ran_ms = int((self._clock() - self.started) * 1000)
        token, failures = grant.token, grant.failures
        place = grant.parent, grant.child
        outcome = Outcome(
            grant.run, grant.task, token, grant.attempt, result, output, error, ran_ms, delay_ms, failures, *place
        )
        self._finished(self, outcome)

    def _stopped_as(self, error: ErrorInfo | None) -> tuple[str, ErrorInfo]:
        """What the executor says of the end is kept beside the reason: where the code was, and what went wrong on the way."""
        error = error or ErrorInfo("Cancelled", "")
        detail = f" ({error.type}: {error.message})" if error.type not in ("Signal", "Cancelled") else ""
        if self.stopped == TIMEOUT:
            limit_s = self.grant.timeout_ms / 1000
            result, kind, message = "failed", "Timeout", f"still running after its timeout of {limit_s:g} s"
        elif self.stopped == DEADLINE:
            result, kind, message = "failed", "Deadline", "still running at the task's deadline"
        else:
            result, kind, message = "cancelled", "Cancelled", f"stopped: {self.stopped}"
        return result, ErrorInfo(kind, message + detail, error.traceback, error.exit_code, error.signal)


class Host(Protocol):
    """What a node offers its executors. All of it may be called from the node's loop only."""

    def write_log(self, attempt: Attempt, stream: str, data: bytes) -> None:
        """Keeps output (`out`, `err`, `log`) up to the node's cap for one attempt; says once where it was cut."""
        ...

    def show_progress(self, attempt: Attempt, done: float, total: float, message: str) -> None: ...

    async def call(self, attempt: Attempt, verb: str, *args: Any) -> Any:
        """Does what the attempt's code asks for: see `skep.node.context.VERBS`."""
        ...


@runtime_checkable
class Keeper(Protocol):
    """An executor whose attempts run in processes of their own, which go on when the node stands still."""

    def keep(self) -> None:
        """Tells the process of each of its attempts by when it must end by itself, or that it need not any more: see
        `Attempt.keep_until`, which may have changed. What `start` is given has its own already."""
        ...


class Executor(Protocol):
    """Runs one kind of task."""

    name: str

    async def open(self, host: Host) -> None: ...

    async def close(self) -> None:
        """Stops what still runs and waits for it, a few seconds at the most."""
        ...

    def start(self, attempt: Attempt) -> None:
        """Begins; returns at once. Must not raise: what goes wrong is the attempt's failure."""
        ...

    def stop(self, attempt: Attempt) -> None:
        """Ends the attempt soon, for the reason in `attempt.stopped`. Harmless when it has ended, or is being stopped."""
        ...
