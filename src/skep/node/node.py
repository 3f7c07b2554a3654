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
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import msgspec

from skep.clock import Clock
from skep.engine.protocol import OK
from skep.errors import NotFoundError, SkepError, SupersededError
from skep.loop import Loop
from skep.model.node import (
    APP,
    Adopted,
    Call,
    ErrorInfo,
    Grant,
    Held,
    LockGrant,
    NodeInfo,
    Outcome,
    Stop,
    artifact_reference,
)
from skep.model.run import Token, lock_name
from skep.node.attempt import CANCEL, DEADLINE, MAX_OUTPUT, SUPERSEDED, TIMEOUT, Attempt, Executor, Keeper
from skep.node.link import Link
from skep.node.locks import Locks
from skep.node.logs import Logs

log = logging.getLogger(__name__)

TAKE = 1_000
"""Inbox entries in one call."""
LATE_S = 0.5
"""So long before its end nothing is begun that holds something of the whole fleet's."""
CALLS = 1_024
"""Decoded calls kept; equal calls of many tasks are decoded once."""
LAST_TRIES = 3
"""How often a node that closes tries to report."""
CLOSE_S = 10.0
"""For each step of closing."""

_decode_call = msgspec.json.Decoder(Call).decode


class Node:
    """One node of this process, its executors and its attempts."""

    def __init__(
        self, info: NodeInfo, link: Link, executors: Iterable[Executor], clock: Clock, idle_s: float = Loop.interval_s
    ) -> None:
        """`idle_s`: between two looks for what nobody told of."""
        self.info = info
        self._time = time.monotonic
        self._link = link
        self._executors = {executor.name: executor for executor in executors}
        self._attempts: dict[Token, Attempt] = {}
        self._calls: OrderedDict[bytes, Call] = OrderedDict()
        self._timeouts: list[tuple[float, Token, str]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._seen = 0
        """The last inbox entry that was taken."""
        self._keep_until = 0.0
        """When what is shared must be over, unless the server is heard again; 0: nobody watches over that."""
        self._keeping = False
        """Whether some attempt holds something of the whole fleet's, as far as executors were told."""
        self._outcomes: list[Outcome] = []
        self._ending: dict[Token, Grant] = {}
        """The leases of attempts that have ended and whose outcome is not yet with the link."""
        self._asking: set[asyncio.Task[None]] = set()
        self._taking = Loop(self._take, "take")
        self._reporting = Loop(self._report, "report")
        self._logging = Loop(self._flush_logs, "log")
        self.loops = (self._taking, self._reporting)
        """Without which no run comes to its end."""
        self.side_loops = (self._logging,)
        for loop in (*self.loops, *self.side_loops):
            loop.interval_s = idle_s
        self._logs = Logs(link, clock, self._logging.wake)
        self._locks = Locks(link)
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
        for loop in (*self.loops, *self.side_loops):
            loop.start()

    async def close(self, give_back: bool = False) -> None:
        """Stops what runs, reports it and leaves. Whatever fails on the way is logged: the server hears of it by itself.

        `give_back`: what runs is not reported as cancelled, but returned with the node's leave, for others to do.
        """
        self._unlisten()
        await self._quietly(self._taking.stop())
        for attempt in tuple(self._attempts.values()):
            self._stop(attempt, SUPERSEDED if give_back else CANCEL)
        for executor in self._executors.values():
            await self._quietly(executor.close())
        for attempt in tuple(self._attempts.values()):
            attempt.fail(ErrorInfo("Cancelled", "the node was closed"))
        if self._timer is not None:
            self._timer.cancel()
        await self._quietly(self._reporting.stop())
        await self._quietly(self._logging.stop())
        for _ in range(LAST_TRIES):
            if self._outcomes:
                await self._quietly(self._report())
        await self._quietly(self._logs.flush())
        await self._quietly(self._link.retire(self.info.id, self.info.incarnation))

    async def _quietly(self, step: Awaitable[object]) -> None:
        try:
            async with asyncio.timeout(CLOSE_S):
                await step
        except SkepError as error:  # the server's trouble, of which it tells itself
            log.info("node %s: a step of closing failed: %s", self.info.id, error)
        except Exception:
            log.exception("node %s: a step of closing failed", self.info.id)

    @property
    def running(self) -> int:
        return len(self._attempts)

    # -- what it holds (see `skep.node.remote.Holder`)

    def leases(self) -> list[Token]:
        """Of attempts that run, or whose outcome is not yet with the link."""
        return [*self._attempts, *self._ending]

    def held(self) -> list[Held]:
        """The same, as an engine must know them that was opened anew; without those that others have. One with a lock is
        named until it is really over, or the lock would be another's while it ends."""
        running = [
            attempt.grant for attempt in self._attempts.values() if attempt.stopped != SUPERSEDED or self._shares(attempt.grant)
        ]
        return [Held(grant, self._locks.held(grant.token)) for grant in (*running, *self._ending.values())]

    def heard(self, left_s: float) -> None:
        """The server has heard us; if it does not again, what holds something of the whole fleet's must be over in so long.
        The processes themselves see to that, should this one stand still."""
        self._keep_until = self._time() + left_s
        self._keep()

    def _keep(self) -> None:
        if not self._keep_until:
            return
        attempts = self._attempts.values()
        for attempt in attempts:
            attempt.keep_until = self._keep_until if self._shares(attempt.grant) else 0.0
        keeping, self._keeping = self._keeping, any(attempt.keep_until for attempt in attempts)
        if keeping or self._keeping:
            for executor in self._executors.values():
                if isinstance(executor, Keeper):
                    executor.keep()

    def fence(self) -> None:
        """Ends what holds something of the whole fleet's: soon the server will give it to others."""
        for attempt in tuple(self._attempts.values()):
            if self._shares(attempt.grant):
                self._stop(attempt, SUPERSEDED)

    def _shares(self, grant: Grant) -> bool:
        """Whether it holds something of the whole fleet's."""
        return bool(grant.claims or self._locks.held(grant.token))

    def give_up(self) -> None:
        """Ends all attempts, without a report."""
        for attempt in tuple(self._attempts.values()):
            self._stop(attempt, SUPERSEDED)

    # -- taking

    async def _take(self) -> bool:
        try:
            entries = await self._link.take(self.info.id, self.info.incarnation, self._seen, TAKE)
        except NotFoundError:
            return False  # retired or replaced: nothing more comes
        for number, entry in entries:
            if number > self._seen:
                self._seen = number
                self._obey(entry)
        return len(entries) == TAKE  # else what comes next wakes us

    def _obey(self, entry: Grant | Stop | LockGrant | Adopted) -> None:
        if type(entry) is Grant:
            if entry.token not in self._attempts and not (entry.claims and self._is_late()):
                self._begin(entry)
        elif type(entry) is Stop:
            attempt = self._attempts.get(entry.token)
            if attempt is not None:
                self._stop(attempt, entry.reason)
        elif type(entry) is LockGrant:
            self._locks.granted(entry.token, lock_name(entry.key))
            self._keep()
        elif type(entry) is Adopted:
            attempt = self._attempts.get(entry.old)
            if attempt is not None:
                task = asyncio.create_task(self._locks.ask_again(attempt.grant))
                self._asking.add(task)
                task.add_done_callback(self._asking.discard)

    def _is_late(self) -> bool:
        """Whether what holds something of the whole fleet's must be over by now: a grant that was long on its way is not begun.
        It is not listed either, and so comes again, here or elsewhere."""
        return bool(self._keep_until) and self._time() >= self._keep_until - LATE_S

    def _begin(self, grant: Grant) -> None:
        call = self._calls.get(grant.call) or self._decode(grant)
        attempt = self._attempts[grant.token] = Attempt(grant, call, self._finished, self._time)
        if grant.timeout_ms:
            self._watch(grant.timeout_ms, grant.token, TIMEOUT)
        if grant.deadline_ms:
            self._watch(grant.deadline_ms, grant.token, DEADLINE)
        if call.executor == "python" and not self.info.any_app:
            if (app := f"{APP}{str(call.call).rpartition(':')[0]}") not in self.info.capabilities:
                attempt.fail(ErrorInfo("Refused", f"node {self.info.id} runs no function of {app.removeprefix(APP)}"))
                return
            attempt.grant = msgspec.structs.replace(
                grant, base=""
            )  # its code is here, whatever there is where it was submitted
        executor = self._executor(call)
        if executor is None:
            attempt.fail(ErrorInfo("Executor", f"node {self.info.id} does not run `{call.isolation or call.executor}` tasks"))
            return
        if grant.claims and self._keep_until:
            attempt.keep_until, self._keeping = self._keep_until, True
        try:
            executor.start(attempt)
        except Exception as error:
            log.exception("executor %s could not start %s", executor.name, grant.name)
            attempt.fail(ErrorInfo("Executor", f"it could not be started: {type(error).__name__}: {error}"))

    def _decode(self, grant: Grant) -> Call:
        try:
            call = _decode_call(grant.call)
        except msgspec.MsgspecError:
            return Call(executor="unreadable", call="")  # of another version: no executor has that name
        self._calls[grant.call] = call
        if len(self._calls) > CALLS:
            self._calls.popitem(last=False)
        return call

    def _executor(self, call: Call) -> Executor | None:
        return self._executors.get("isolated" if call.isolation == "process" else call.executor)

    def _stop(self, attempt: Attempt, reason: str) -> None:
        """The first reason counts, and is passed on once."""
        if attempt.ended or attempt.stopped is not None:
            return
        attempt.stopped = reason
        self._locks.give_up(attempt)
        executor = self._executor(attempt.call)
        if executor is not None:
            executor.stop(attempt)

    # -- timeouts: one heap and one timer for all attempts

    def _watch(self, after_ms: int, token: Token, reason: str) -> None:
        timeouts = self._timeouts
        if len(timeouts) > 2 * len(self._attempts) + 1_000:  # most attempts end long before their time
            timeouts[:] = [entry for entry in timeouts if entry[1] in self._attempts]
            heapq.heapify(timeouts)
        heapq.heappush(timeouts, (self._time() + after_ms / 1000, token, reason))
        if timeouts[0][1] == token:
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
        while self._timeouts and (self._timeouts[0][0] <= now or self._timeouts[0][1] not in self._attempts):
            _, token, reason = heapq.heappop(self._timeouts)
            attempt = self._attempts.get(token)
            if attempt is not None:
                self._stop(attempt, reason)
        self._arm()

    # -- the end of an attempt

    def _finished(self, attempt: Attempt, outcome: Outcome) -> None:
        token = attempt.grant.token
        shared = self._keeping and self._shares(attempt.grant)
        del self._attempts[token]
        self._locks.forget(attempt)
        if shared:
            self._keep()
        if attempt.stopped == SUPERSEDED:
            return  # it is another's, or will be: nobody wants to hear of it
        self._ending[token] = attempt.grant
        self._outcomes.append(outcome)
        self._reporting.wake()

    async def _report(self) -> bool:
        """Logs first, so that whoever hears of the end finds them; but no log keeps an outcome back."""
        if not self._outcomes:
            return False
        outcomes, self._outcomes = self._outcomes, []
        try:
            if self._logs.waiting:
                await self._flush_first()
            ready, kept, trouble = await self._with_artifacts(outcomes)
            answers = await self._link.report(ready)
        except BaseException:
            self._outcomes = outcomes + self._outcomes  # reporting again is harmless, losing one is not
            raise
        self._outcomes = kept + self._outcomes
        for outcome, answer in zip(ready, answers, strict=True):
            self._ending.pop(outcome.token, None)
            if answer != OK:
                log.warning("outcome of %s task %d (token %s): %s", outcome.run, outcome.task, outcome.token, answer)
        if trouble is not None:
            raise trouble
        return bool(self._outcomes)

    async def _with_artifacts(self, outcomes: list[Outcome]) -> tuple[list[Outcome], list[Outcome], Exception | None]:
        """Keeps large outputs before their tasks complete: (outcomes to report, to try again, why)."""
        if all(len(outcome.output) <= MAX_OUTPUT for outcome in outcomes):
            return outcomes, [], None
        ready: list[Outcome] = []
        again: list[Outcome] = []
        trouble: Exception | None = None
        for outcome in outcomes:
            try:
                if len(outcome.output) > MAX_OUTPUT:
                    artifact = await self._link.put_artifact(outcome.run, outcome.output)
                    outcome = msgspec.structs.replace(outcome, output=artifact_reference(artifact))
                ready.append(outcome)
            except Exception as error:  # noqa: BLE001  one that cannot be kept holds no other back
                again.append(outcome)
                trouble = error
        return ready, again, trouble

    async def _flush_first(self) -> None:
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._logs.flush()
        except Exception:  # the loop for logs meets with it too, and tells
            log.debug("node %s: logs go later than the outcomes", self.info.id, exc_info=True)

    async def _flush_logs(self) -> bool:
        await self._logs.flush()
        return self._logs.waiting

    # -- what executors ask for (see `skep.node.attempt.Host`)

    def write_log(self, attempt: Attempt, stream: str, data: bytes) -> None:
        self._logs.write(attempt, stream, data)

    def show_progress(self, attempt: Attempt, done: float, total: float, message: str) -> None:
        self._logs.show_progress(attempt, done, total, message)

    async def call(self, attempt: Attempt, verb: str, *args: Any) -> Any:
        """Does what the attempt's code asks for. Raises SupersededError when its lease is gone."""
        grant = attempt.grant
        if attempt.ended:
            raise SupersededError(f"attempt {grant.attempt} of {grant.name} has ended; its code can ask for nothing more")
        if verb == "claim":
            return await self._locks.claim(attempt, *args)
        if verb == "release":
            return await self._locks.release(attempt, *args)
        if verb == "put_artifact":
            return await self._link.put_artifact(grant.run, *args)
        if verb == "get_artifact":
            return await self._link.get_artifact(*args)
        if verb in ("load_checkpoint", "save_checkpoint", "get_state", "put_state"):
            return await getattr(self._link, verb)(grant.run, grant.task, grant.token, *args)
        raise ValueError(f"unknown request '{verb}'")
