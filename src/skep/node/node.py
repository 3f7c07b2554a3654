"""A node: takes grants, hands them to executors, watches their time, and reports how they ended.

    inbox ──take──► attempts ──start──► executor ──finished──► outcomes ──report──► server
                       └── timeout, cancel, deadline ──stop──► executor

Everything here runs on one event loop; executors may use threads and processes behind it.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from skep.clock import Clock
from skep.engine.protocol import OK
from skep.errors import NotFoundError, SkepError
from skep.loop import Loop
from skep.model.node import Call, ErrorInfo, Grant, LockGrant, LogChunk, NodeInfo, Outcome, Progress, Stop, artifact_reference
from skep.model.run import Token, lock_name
from skep.node.attempt import CANCEL, MAX_OUTPUT, SUPERSEDED, TIMEOUT, Attempt, Executor
from skep.node.link import Link

log = logging.getLogger(__name__)

TAKE = 1_000
"""Inbox entries in one call."""
LOG_CAP = 16 * 1024 * 1024
"""Bytes of output kept of one attempt; what follows is read and thrown away, and said so once."""
LOG_BUFFER = 4 * 1024 * 1024
"""Bytes of output that may wait to be stored."""
CALLS = 1_024

_decode_call = msgspec.json.Decoder(Call).decode


class Node:
    """One node of this process, its executors and its attempts."""

    def __init__(self, info: NodeInfo, link: Link, executors: Iterable[Executor], clock: Clock) -> None:
        self.info = info
        self._clock = clock
        self._time = time.monotonic
        self._link = link
        self._executors = {executor.name: executor for executor in executors}
        self._attempts: dict[Token, Attempt] = {}
        self._calls: OrderedDict[bytes, Call] = OrderedDict()
        self._timeouts: list[tuple[float, Token]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._locks: dict[tuple[Token, str], asyncio.Future[str]] = {}
        self._seen = 0
        self._taking = Loop(self._take, "take")
        self._reporting = Loop(self._report, "report")
        self._logging = Loop(self._write_logs, "log")
        self._outcomes: list[Outcome] = []
        self._chunks: list[LogChunk] = []
        self._chunk_bytes = 0
        self._progress: dict[Token, Progress] = {}
        self._unlisten: Callable[[], None] = lambda: None

    async def open(self) -> None:
        """Joins. Raises SkepError when the server refuses."""
        self._time = asyncio.get_running_loop().time
        for executor in self._executors.values():
            await executor.open(self)
        answer = await self._link.register(self.info, beats=False)
        if answer != OK:
            raise SkepError(f"node {self.info.id} was not admitted: {answer}")
        self._unlisten = self._link.listen(self.info.id, self._taking.wake)
        for loop in (self._taking, self._reporting, self._logging):
            loop.start()

    async def close(self) -> None:
        """Stops what runs, reports it and leaves."""
        self._unlisten()
        await self._taking.stop()
        for attempt in tuple(self._attempts.values()):
            self._stop(attempt, CANCEL)
        for executor in self._executors.values():
            await executor.close()
        for attempt in tuple(self._attempts.values()):
            attempt.fail(ErrorInfo("Cancelled", "the node was closed"))
        await self._reporting.stop()
        await self._report()
        await self._logging.stop()
        await self._write_logs()
        if self._timer is not None:
            self._timer.cancel()
        await self._link.retire(self.info.id, self.info.incarnation)

    @property
    def running(self) -> int:
        return len(self._attempts)

    # -- taking

    async def _take(self) -> bool:
        try:
            entries = await self._link.take(self.info.id, self.info.incarnation, self._seen, TAKE)
        except NotFoundError:
            return False  # retired or replaced: nothing more comes
        for number, entry in entries:
            self._seen = number
            if type(entry) is Grant:
                self._begin(entry)
            elif type(entry) is Stop:
                attempt = self._attempts.get(entry.token)
                if attempt is not None:
                    self._stop(attempt, entry.reason)
            elif type(entry) is LockGrant:
                waiting = self._locks.pop((entry.token, lock_name(entry.key)), None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(OK)
        return bool(entries)

    def _begin(self, grant: Grant) -> None:
        call = self._calls.get(grant.call)
        if call is None:
            call = self._calls[grant.call] = _decode_call(grant.call)
            if len(self._calls) > CALLS:
                self._calls.popitem(last=False)
        attempt = self._attempts[grant.token] = Attempt(grant, call, self._finished, self._time)
        if grant.timeout_ms:
            self._watch(self._time() + grant.timeout_ms / 1000, grant.token)
        executor = self._executors.get("isolated" if call.isolation == "process" else call.executor)
        if executor is None:
            attempt.fail(ErrorInfo("Executor", f"node {self.info.id} does not run `{call.executor}` tasks"))
        else:
            executor.start(attempt)

    def _stop(self, attempt: Attempt, reason: str) -> None:
        if attempt.ended:
            return
        attempt.stopped = attempt.stopped or reason
        self._give_up_locks(attempt)
        executor = self._executors.get("isolated" if attempt.call.isolation == "process" else attempt.call.executor)
        if executor is not None:
            executor.stop(attempt)

    # -- timeouts: one heap and one timer for all attempts

    def _watch(self, due: float, token: Token) -> None:
        heapq.heappush(self._timeouts, (due, token))
        if self._timeouts[0][1] == token:
            self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._timeouts:
            wait_s = max(self._timeouts[0][0] - self._time(), 0)
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._overdue)

    def _overdue(self) -> None:
        now = self._time()
        while self._timeouts and self._timeouts[0][0] <= now:
            _, token = heapq.heappop(self._timeouts)
            attempt = self._attempts.get(token)
            if attempt is not None:
                self._stop(attempt, TIMEOUT)
        self._timer = None
        self._arm()

    # -- the end of an attempt

    def _finished(self, attempt: Attempt, outcome: Outcome) -> None:
        del self._attempts[attempt.grant.token]
        if self._locks:
            self._give_up_locks(attempt)
        self._outcomes.append(outcome)
        self._reporting.wake()

    async def _report(self) -> bool:
        if not self._outcomes:
            return False
        outcomes, self._outcomes = self._outcomes, []
        try:
            ready = [o if len(o.output) <= MAX_OUTPUT else await self._as_artifact(o) for o in outcomes]
            await self._flush_logs()
            answers = await self._link.report(ready)
        except Exception:
            self._outcomes = outcomes + self._outcomes  # reporting again is harmless, losing one is not
            raise
        for outcome, answer in zip(ready, answers, strict=True):
            if answer != OK:
                log.warning("outcome of %s task %d (token %s): %s", outcome.run, outcome.task, outcome.token, answer)
        return bool(self._outcomes)

    async def _as_artifact(self, outcome: Outcome) -> Outcome:
        """A large output is kept before its task completes."""
        artifact = await self._link.put_artifact(outcome.run, outcome.output)
        return msgspec.structs.replace(outcome, output=artifact_reference(artifact))

    # -- what executors ask for (see `skep.node.attempt.Host`)

    def write_log(self, attempt: Attempt, stream: str, data: bytes) -> None:
        grant = attempt.grant
        offsets = attempt.offsets = attempt.offsets or {}
        offset = offsets.get(stream, 0)
        offsets[stream] = offset + len(data)
        if offset >= LOG_CAP:
            return
        if offset + len(data) > LOG_CAP:
            note = f"\n[skep: cut here; {LOG_CAP // 2**20} MiB of each stream are kept]\n".encode()
            data = data[: LOG_CAP - offset] + note
        self._chunks.append(LogChunk(grant.run, grant.task, grant.attempt, stream, offset, self._clock.now_ms(), data))
        self._chunk_bytes += len(data)
        self._logging.wake()

    def show_progress(self, attempt: Attempt, done: float, total: float, message: str) -> None:
        grant = attempt.grant
        self._progress[grant.token] = Progress(grant.run, grant.task, grant.attempt, done, total, message)
        self._logging.wake()

    @property
    def log_full(self) -> bool:
        """Whether more output waits to be stored than should: whoever reads a pipe pauses."""
        return self._chunk_bytes > LOG_BUFFER

    async def _write_logs(self) -> bool:
        await self._flush_logs()
        if self._progress:
            items, self._progress = list(self._progress.values()), {}
            await self._link.progress(items)
        return bool(self._chunks)

    async def _flush_logs(self) -> None:
        if self._chunks:
            chunks, self._chunks, self._chunk_bytes = self._chunks, [], 0
            try:
                await self._link.log(chunks)
            except Exception:
                if sum(len(chunk.data) for chunk in chunks) <= 4 * LOG_BUFFER:
                    self._chunks = chunks + self._chunks
                raise

    async def call(self, attempt: Attempt, verb: str, *args: Any) -> Any:
        """Does what the attempt's code asks for. Raises SupersededError when its lease is gone."""
        grant = attempt.grant
        link = self._link
        if verb == "claim":
            key, units, hold_ms, wait = args
            return await self._claim(attempt, key, units, hold_ms, wait)
        if verb == "release":
            self._locks.pop((grant.token, str(args[0])), None)
            await link.release(grant.run, grant.token, str(args[0]))
            return None
        if verb == "put_artifact":
            return await link.put_artifact(grant.run, *args)
        if verb == "get_artifact":
            return await link.get_artifact(*args)
        if verb in ("load_checkpoint", "save_checkpoint", "get_state", "put_state"):
            return await getattr(link, verb)(grant.run, grant.task, grant.token, *args)
        raise ValueError(f"unknown request '{verb}'")

    async def _claim(self, attempt: Attempt, key: str, units: int, hold_ms: int, wait: bool) -> str:
        grant = attempt.grant
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._locks[grant.token, key] = future
        answer: str = await self._link.claim(grant.run, grant.task, grant.token, key, units, hold_ms, wait)
        if answer == "waiting" and wait:
            return await future
        self._locks.pop((grant.token, key), None)
        return answer

    def _give_up_locks(self, attempt: Attempt) -> None:
        token = attempt.grant.token
        for key in [key for key in self._locks if key[0] == token]:
            waiting = self._locks.pop(key)
            if not waiting.done():
                waiting.set_result(SUPERSEDED)
