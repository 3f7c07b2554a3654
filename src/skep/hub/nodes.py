"""Nodes: the door by which they join, take work and report, and by which the code of their tasks asks for things."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import msgspec

from skep.clock import Clock
from skep.engine.protocol import (
    SUPERSEDED,
    Answer,
    Ask,
    Done,
    Engine,
    Failure,
    InboxEntry,
    Register,
    Snooze,
)
from skep.flow.retry import retry_in_ms
from skep.model.node import LogChunk, NodeInfo, Outcome, Progress
from skep.model.run import EXCLUSIVE, Token, lock_key
from skep.model.spec import RetryPolicy
from skep.record.protocol import Fence, Record
from skep.upkeep.catalog import Catalog, RunContext

_encode = msgspec.json.Encoder().encode


class Nodes:
    """The noun of the hub; also the `Link` of nodes in this process."""

    def __init__(
        self, engine: Engine, record: Record, catalog: Catalog, clock: Clock, chance: Callable[[], float] = random.random
    ) -> None:
        self._engine = engine
        self._record = record
        self._catalog = catalog
        self._clock = clock
        self._chance = chance
        self.on_progress: Callable[[Sequence[Progress]], None] = lambda items: None
        self.on_log: Callable[[Sequence[LogChunk]], None] = lambda chunks: None

    async def register(self, info: NodeInfo, *, beats: bool) -> Answer:
        (answer,) = await self._engine.register([Register(info, beats)])
        return answer

    async def retire(self, node: str, incarnation: int) -> None:
        await self._engine.retire([(node, incarnation)])

    def listen(self, node: str, callback: Callable[[], None]) -> Callable[[], None]:
        return self._engine.listen(f"node:{node}", callback)

    async def take(self, node: str, incarnation: int, after: int, limit: int) -> list[InboxEntry]:
        return await self._engine.take(node, incarnation, after, limit)

    async def report(self, outcomes: Sequence[Outcome]) -> list[Answer]:
        """How attempts ended: retries are decided here, by the task's policy."""
        done: list[Done] = []
        failed: list[Failure] = []
        snoozed: list[Snooze] = []
        for o in outcomes:
            if o.result == "succeeded":
                done.append(Done(o.run, o.task, o.token, o.output, o.ran_ms))
            elif o.result == "snoozed":
                snoozed.append(Snooze(o.run, o.task, o.token, o.delay_ms, o.ran_ms))
            else:
                failed.append(await self._failure(o))
        answers: dict[Token, Answer] = {}
        if done:
            answers.update(zip((d.token for d in done), await self._engine.complete(done), strict=True))
        if failed:
            answers.update(zip((f.token for f in failed), await self._engine.fail(failed), strict=True))
        if snoozed:
            answers.update(zip((s.token for s in snoozed), await self._engine.snooze(snoozed), strict=True))
        return [answers.get(o.token, SUPERSEDED) for o in outcomes]

    async def _failure(self, o: Outcome) -> Failure:
        cancelled = o.result == "cancelled"
        delay = -1
        if not cancelled:
            run = await self._catalog.run(o.run)
            if run is not None:
                delay = retry_in_ms(self._policy(run, o), o.failures, o.error, self._chance(), o.delay_ms)
        error = _encode(o.error) if o.error is not None else b""
        reason = o.error.type.lower() if o.error is not None and o.error.type in ("Timeout", "Deadline") else ""
        return Failure(o.run, o.task, o.token, reason, error, o.ran_ms, delay, cancelled)

    def _policy(self, run: RunContext, o: Outcome) -> RetryPolicy | None:
        """A missed deadline is final: another attempt could only miss it too."""
        if o.error is not None and o.error.type == "Deadline":
            return None
        return run.plan.spec.tasks[o.task if o.parent < 0 else o.parent].retry

    async def log(self, chunks: Sequence[LogChunk]) -> None:
        await self._record.append_logs(chunks)
        self.on_log(chunks)

    async def progress(self, items: Sequence[Progress]) -> None:
        self.on_progress(items)

    # -- for the code of an attempt

    async def load_checkpoint(self, run: str, task: int, token: Token) -> bytes | None:
        return await self._record.load_checkpoint(Fence(run, task, token))

    async def save_checkpoint(self, run: str, task: int, token: Token, data: bytes) -> None:
        await self._record.save_checkpoint(Fence(run, task, token), data, self._clock.now_ms())

    async def get_state(self, run: str, task: int, token: Token, key: str) -> tuple[bytes, int] | None:
        found = await self._record.get_state(await self._namespace(run), key, self._clock.now_ms(), Fence(run, task, token))
        return (found.value, found.version) if found is not None else None

    async def put_state(
        self, run: str, task: int, token: Token, key: str, value: bytes, ttl_ms: int, expect: int | None
    ) -> int:
        namespace = await self._namespace(run)
        fence = Fence(run, task, token)
        return await self._record.put_state(
            namespace, key, value, now_ms=self._clock.now_ms(), ttl_ms=ttl_ms, expect=expect, fence=fence
        )

    async def claim(self, run: str, task: int, token: Token, key: str, units: int, hold_ms: int, wait: bool) -> Answer:
        ask = Ask(run, task, token, lock_key(await self._namespace(run), key), units, EXCLUSIVE, hold_ms, wait)
        (answer,) = await self._engine.claim([ask])
        return answer

    async def release(self, run: str, token: Token, key: str) -> None:
        await self._engine.release([(token, lock_key(await self._namespace(run), key))])

    async def put_artifact(self, run: str, data: bytes) -> str:
        return await self._record.put_artifact(run, data, self._clock.now_ms())

    async def get_artifact(self, artifact: str) -> bytes:
        return await self._record.get_artifact(artifact)

    async def _namespace(self, run: str) -> str:
        known = await self._catalog.run(run)
        return known.namespace if known is not None else "default"
