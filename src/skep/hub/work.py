"""Work: the door by which nodes join, take work and report, and by which the code of their tasks asks for things."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Protocol

import msgspec

from skep.clock import Clock
from skep.engine.protocol import (
    OK,
    REFUSED,
    SUPERSEDED,
    Answer,
    Ask,
    Beat,
    Done,
    Engine,
    Failure,
    InboxEntry,
    Register,
    Snooze,
)
from skep.errors import NotFoundError
from skep.flow.retry import retry_in_ms
from skep.model.node import Held, LiveNode, LogChunk, NodeInfo, Outcome, Progress
from skep.model.run import EXCLUSIVE, Token, lock_key
from skep.model.spec import DEFAULT_NAMESPACE, RetryPolicy
from skep.model.state import TaskState
from skep.record.protocol import Fence, Record
from skep.upkeep.catalog import Catalog, RunContext

_encode = msgspec.json.Encoder().encode

MOST_SHOWN: Final = 100_000
"""Tasks whose progress is kept."""


async def _never(node: str) -> bool:
    return False


async def _nothing(info: NodeInfo) -> None:
    pass


class Presenter(Protocol):
    """What takes back the work of an earlier engine (`skep.upkeep.rejoin`)."""

    async def present(
        self, node: str, incarnation: int, held: Sequence[Held], outcomes: Sequence[Outcome], *, more: bool = False
    ) -> None:
        """Leases a node still works on, and outcomes under tokens that this engine did not give. Returns when the outcomes
        are applied, or superseded. Every lease is answered in the node's inbox, by `Adopted` or by `Stop` (superseded).
        `more`: this is not all of it yet."""
        ...


class Work:
    """Also the `Link` of nodes in this process."""

    def __init__(
        self,
        engine: Engine,
        record: Record,
        catalog: Catalog,
        clock: Clock,
        chance: Callable[[], float] = random.random,
        presenter: Presenter | None = None,
        server: str = "",
    ) -> None:
        """`presenter`: None where nothing is ever restored. `server`: the name of this one among those of its engine."""
        self._engine = engine
        self._record = record
        self._catalog = catalog
        self._clock = clock
        self._chance = chance
        self.presenter = presenter
        self._server = server
        self.mark = 0
        """The last event that the record has, as far as is known here."""
        self._recorded: list[Callable[[int], None]] = []
        self._shown: dict[str, dict[int, Progress]] = {}
        self._shown_count = 0
        self.wants_drain: Callable[[str], Awaitable[bool]] = _never
        """Whether a node that joins shall take nothing."""
        self.joins: Callable[[NodeInfo], Awaitable[None]] = _nothing
        """Called before a node is registered."""
        self.on_progress: Callable[[Sequence[Progress]], None] = lambda items: None
        self.on_log: Callable[[Sequence[LogChunk]], None] = lambda chunks: None

    @property
    def epoch(self) -> int:
        return self._engine.epoch

    # -- joining and leaving

    async def register(self, info: NodeInfo, *, beats: bool, coming: bool = False) -> Answer:
        """`coming`: it presents what it has before it takes anything."""
        drains = await self.wants_drain(info.id)
        await self.joins(info)
        (answer,) = await self._engine.register([Register(info, beats, coming and self.presenter is not None)])
        if answer == OK and drains:
            await self._engine.drain([info.id], True)
        elif answer == REFUSED and (other := await self.live(info.id)) is not None:
            await self.joins(other.info)
        return answer

    async def live(self, node: str) -> LiveNode | None:
        """The node of that name that is registered now: its incarnation has its leases and its inbox as before."""
        nodes = await self._engine.nodes()
        return next((live for live in nodes if live.info.id == node), None)

    async def holders(self, tasks: Sequence[tuple[str, int]]) -> dict[tuple[str, int], str]:
        """Of these tasks those that run now, and on which node."""
        wanted: dict[str, list[int]] = {}
        for run, task in tasks:
            wanted.setdefault(run, []).append(task)
        found: dict[tuple[str, int], str] = {}
        for run, which in wanted.items():
            try:
                tasks_now = await self._engine.tasks(run, which)
            except NotFoundError:
                continue  # it is not loaded, or has ended: nothing of it runs
            found.update({(run, live.task): live.node for live in tasks_now if live.state == TaskState.RUNNING})
        return found

    async def present(
        self, node: str, incarnation: int, held: Sequence[Held], outcomes: Sequence[Outcome], *, more: bool = False
    ) -> None:
        """What a node brings along that the engine does not know of; see `Presenter`."""
        if self.presenter is not None:
            named = [await self._with_keys(lease) for lease in held]
            await self.presenter.present(node, incarnation, named, outcomes, more=more)

    async def _with_keys(self, lease: Held) -> Held:
        """Nodes know locks by name, the engine by key."""
        if not lease.locks:
            return lease
        namespace = await self._namespace(lease.grant.run)
        locks = tuple(msgspec.structs.replace(lock, key=lock_key(namespace, lock.key)) for lock in lease.locks)
        return msgspec.structs.replace(lease, locks=locks)

    async def beat(self, node: str, incarnation: int, leases: Sequence[Token], seen: int) -> Answer:
        (answer,) = await self._engine.beat([Beat(node, incarnation, tuple(leases), seen, self._server)])
        return answer

    async def drain(self, node: str, on: bool = True) -> Answer:
        (answer,) = await self._engine.drain([node], on)
        return answer

    async def retire(self, node: str, incarnation: int) -> None:
        await self._engine.retire([(node, incarnation)])

    async def lose(self, node: str, incarnation: int) -> bool:
        """Gives up a node whose connection here has ended. False: it is another server's by now, or gone."""
        live = [one for one in await self._engine.nodes() if (one.info.id, one.info.incarnation) == (node, incarnation)]
        if not live or live[0].server not in ("", self._server):
            return False
        await self._engine.retire([(node, incarnation)], lost=True)
        return True

    # -- taking and reporting

    def listen(self, node: str, callback: Callable[[], None]) -> Callable[[], None]:
        return self._engine.listen(f"node:{node}", callback)

    async def take(self, node: str, incarnation: int, after: int, limit: int) -> list[InboxEntry]:
        return await self._engine.take(node, incarnation, after, limit)

    async def report(self, outcomes: Sequence[Outcome]) -> list[Answer]:
        """How attempts ended: retries are decided here, by the task's policy."""
        if self._shown:
            self._end_progress(outcomes)
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
        if o.result == "lost":
            error = _encode(o.error) if o.error is not None else b""
            return Failure(o.run, o.task, o.token, "", error, o.ran_ms, lost=True)
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

    def position(self) -> int:
        """The number of an event not older than all that was reported until now: once the mark is there, the record has it."""
        return self._engine.heard

    def recorded(self, mark: int) -> None:
        """The record has every event up to `mark`, and the engine has let go of them. Called by the transcriber."""
        self.mark = mark
        for callback in tuple(self._recorded):
            callback(mark)

    def on_recorded(self, callback: Callable[[int], None]) -> Callable[[], None]:
        """Calls back with the mark whenever it moves; answers how to stop."""
        self._recorded.append(callback)
        return lambda: self._recorded.remove(callback)

    # -- logs and progress

    async def log(self, chunks: Sequence[LogChunk]) -> None:
        await self._record.append_logs(chunks)
        self.on_log(chunks)

    async def progress(self, items: Sequence[Progress]) -> None:
        for item in items:
            shown = self._shown.setdefault(item.run, {})
            if item.task not in shown:
                if self._shown_count >= MOST_SHOWN:
                    continue
                self._shown_count += 1
            shown[item.task] = item
        self.on_progress(items)

    def progress_of(self, run: str) -> Mapping[int, Progress]:
        """What running tasks last said of how far they are, by task."""
        return self._shown.get(run, {})

    def forget(self, run: str) -> None:
        """The run has ended."""
        self._shown_count -= len(self._shown.pop(run, ()))

    def _end_progress(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            shown = self._shown.get(outcome.run)
            if shown is not None and shown.pop(outcome.task, None) is not None:
                self._shown_count -= 1
                if not shown:
                    del self._shown[outcome.run]

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
        return known.namespace if known is not None else DEFAULT_NAMESPACE
