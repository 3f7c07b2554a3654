"""Waits: parked tasks are resolved by the end of their child run, by an event, or by the end of their patience.

A wait costs nothing while it lasts: an entry in memory, and one timer for all of them. Nothing is kept that could not be had
from the record again, and whatever is done is harmless when it is done twice: the id of a child run is made of the attempt
whose child it is, and the first `resolve` of an attempt wins.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Final

import msgspec

from skep.clock import Clock
from skep.engine.protocol import NOT_FOUND, Engine, Resolve
from skep.errors import NotFoundError, WrongStateError
from skep.flow.retry import retry_in_ms
from skep.ids import child_run_id
from skep.loop import Loop
from skep.model.event import Event
from skep.model.node import ErrorInfo, artifact_reference
from skep.model.spec import RetryPolicy
from skep.model.state import RunState, TaskState
from skep.model.units import format_duration
from skep.model.wait import APPROVAL, CHILD, EVENT, Verdict, Wait
from skep.record.protocol import Expansion, Record
from skep.upkeep.catalog import Catalog
from skep.upkeep.children import Children, ChildRuns, RefusedChild
from skep.upkeep.load import LoadLoop

BATCH: Final = 200
"""Child runs started, or taken over from, in one pass."""
IDLE_S: Final = 365 * 86_400.0
SHORTEST_S: Final = 0.001
MAX_OUTPUT: Final = 64 * 1024
"""Bytes of an output that stand in its event; larger ones become artifacts."""
KINDS: Final = frozenset({APPROVAL, CHILD, EVENT})
OVER: Final = frozenset({"succeeded", "failed", "cancelled", "skipped", "retrying", "reset", "ready"})
"""Events after which a task is not parked any more."""

Place = tuple[str, int]
"""Run and task."""
Key = tuple[str, str, str]
"""Namespace, name and key of an event."""

_encode = msgspec.json.Encoder().encode


def _nothing() -> None:
    pass


def topic_of(key: Key) -> str:
    """Stirred when such an event was recorded."""
    return "sent:" + _encode(key).decode()


class Waiting:
    """A parked task, as far as the loop must know it."""

    __slots__ = ("accepted_ms", "attempt", "child", "default", "due_ms", "ended", "key", "kind", "run", "task", "timeout_ms")

    def __init__(self, run: str, task: int, attempt: int, wait: Wait, key: Key, accepted_ms: int, since_ms: int) -> None:
        self.run = run
        self.task = task
        self.attempt = attempt
        self.kind = wait.kind
        self.accepted_ms = accepted_ms
        """When its run was: earlier events do not count."""
        self.timeout_ms = wait.timeout_ms
        self.due_ms = since_ms + wait.timeout_ms if wait.timeout_ms else 0
        self.default = wait.default
        self.key = key
        self.child = child_run_id(run, task, attempt) if wait.kind == CHILD else ""
        self.ended = False
        """Whether the end of its child run is recorded."""

    @property
    def place(self) -> Place:
        return self.run, self.task


class WaitLoop(Loop):
    """Resolves parked tasks. `told` is to be called with each recorded batch; start it when the runs are loaded."""

    name = "waits"

    def __init__(
        self,
        engine: Engine,
        record: Record,
        catalog: Catalog,
        load: LoadLoop,
        runs: ChildRuns,
        clock: Clock,
        engine_id: str,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`chance`: from 0 to 1, for the jitter of back-off."""
        super().__init__()
        self._engine = engine
        self._record = record
        self._catalog = catalog
        self._load = load
        self._children = Children(record, runs, engine_id)
        self._clock = clock
        self._engine_id = engine_id
        self._chance = chance
        self._scanned = False
        self._gone: set[Place] = set()
        """What was over before the scan has looked."""
        self._cursor: str | None = ""
        """Where the look for child runs without a parent goes on; None: it is over."""
        self._parked: dict[Place, Event] = {}
        """Told and not yet taken up."""
        self._waits: dict[str, dict[int, Waiting]] = {}
        self._due: list[tuple[int, str, int, int]] = []
        """(due, run, task, attempt); what is over is dropped when it comes up."""
        self._by_key: dict[Key, dict[Place, Waiting]] = {}
        self._deafen: dict[Key, Callable[[], None]] = {}
        """Stops listening for an event."""
        self._by_child: dict[str, Waiting] = {}
        self._to_start: dict[Place, tuple[Waiting, Wait]] = {}
        self._to_match: set[Key] = set()
        self._to_end: dict[str, Waiting] = {}
        self._to_cancel: dict[str, None] = {}
        self._expanded: tuple[str, list[Expansion]] = ("", [])
        """Of the run that was last looked at: the children of a map lose patience together."""
        self._unheard: dict[str, list[Resolve]] = {}
        """For runs that the engine does not have yet."""
        self._to_tell: list[Resolve] = []

    # -- what happens

    def told(self, events: Sequence[Event]) -> None:
        """Recorded events: tasks that are parked, waits that are over, child runs that have ended."""
        for event in events:
            kind = event.kind
            if kind == "parked":
                if event.reason in KINDS and event.data:
                    self._parked[event.run, event.task] = event
                    self.wake()
            elif kind == "ended":
                self._unheard.pop(event.run, None)
                waiting = self._by_child.get(event.run)
                if waiting is not None:
                    self._child_ended(waiting)
            elif kind == "loaded":
                if event.run in self._unheard:
                    self._to_tell += self._unheard.pop(event.run)
                    self.wake()
            elif kind in OVER and (event.run in self._waits or self._parked or not self._scanned):
                for task in event.tasks or (event.task,):
                    self._over((event.run, task))

    def _sent(self, key: Key) -> None:
        """An event was recorded: somebody may wait for it."""
        self._to_match.add(key)
        self.wake()

    def _child_ended(self, waiting: Waiting) -> None:
        waiting.ended = True
        self._to_end[waiting.child] = waiting
        self.wake()

    def _over(self, place: Place) -> None:
        self._parked.pop(place, None)
        self._to_start.pop(place, None)
        if not self._scanned:
            self._gone.add(place)
        run, task = place
        of_run = self._waits.get(run, {})
        waiting = of_run.pop(task, None)
        if waiting is None:
            return
        if not of_run:
            del self._waits[run]
        if waiting.kind == EVENT:
            others = self._by_key[waiting.key]
            del others[place]
            if not others:
                del self._by_key[waiting.key]
                self._deafen.pop(waiting.key, _nothing)()
        elif waiting.kind == CHILD:
            del self._by_child[waiting.child]
            self._to_end.pop(waiting.child, None)
            if not waiting.ended:
                self._to_cancel[waiting.child] = None
                self.wake()

    def _is_current(self, waiting: Waiting) -> bool:
        return self._waits.get(waiting.run, {}).get(waiting.task) is waiting

    async def stop(self) -> None:
        await super().stop()
        while self._deafen:
            self._deafen.popitem()[1]()

    # -- a pass

    async def run_once(self) -> bool:
        if not self._scanned:
            await self._scan()
        await self._take_up()
        await self._start_children()
        await self._match_events()
        await self._end_children()
        await self._expire()
        await self._tell()
        await self._cancel_children()
        await self._look_for_orphans()
        self._set_timer()
        left = (self._parked, self._to_start, self._to_end, self._to_match, self._to_tell, self._to_cancel)
        return any(left) or self._cursor is not None

    async def _scan(self) -> None:
        """What the record knows of waits, once. An engine that ends with its process begins with nothing."""
        engine = await self._record.engine(self._engine_id)
        if engine is None or engine.embedded:
            self._cursor = None
            self._scanned = True
            self._gone.clear()
            return
        for row in await self._record.waits(self._engine_id):
            if (row.run, row.task) not in self._gone:
                wait = Wait.decode(row.data)
                key = row.namespace, wait.event, wait.key
                self._know(Waiting(row.run, row.task, row.attempt, wait, key, row.accepted_ms, row.since_ms), wait)
        self._scanned = True
        self._gone.clear()

    async def _take_up(self) -> None:
        """Those that were told as parked since the last pass."""
        for place, event in tuple(self._parked.items()):
            run = await self._catalog.run(event.run)
            if self._parked.get(place) is not event:
                continue  # it is over, or parked anew
            del self._parked[place]
            if run is not None:
                wait = Wait.decode(event.data)
                key = run.namespace, wait.event, wait.key
                self._know(Waiting(event.run, event.task, event.attempt, wait, key, run.accepted_ms, event.at_ms), wait)

    def _know(self, waiting: Waiting, wait: Wait) -> None:
        known = self._waits.get(waiting.run, {}).get(waiting.task)
        if known is not None:
            if known.attempt == waiting.attempt:
                return
            self._over(known.place)
        self._waits.setdefault(waiting.run, {})[waiting.task] = waiting
        if waiting.due_ms:
            heapq.heappush(self._due, (waiting.due_ms, waiting.run, waiting.task, waiting.attempt))
        if waiting.kind == EVENT:
            if waiting.key not in self._deafen:
                self._deafen[waiting.key] = self._engine.listen(topic_of(waiting.key), partial(self._sent, waiting.key))
            self._by_key.setdefault(waiting.key, {})[waiting.place] = waiting
            self._to_match.add(waiting.key)
        elif waiting.kind == CHILD:
            self._by_child[waiting.child] = waiting
            self._to_start[waiting.place] = waiting, wait

    # -- child runs

    async def _start_children(self) -> None:
        first = [self._to_start[place] for place in tuple(self._to_start)[:BATCH]]
        if first:
            await _all(self._start_child(waiting, wait) for waiting, wait in first)

    async def _start_child(self, waiting: Waiting, wait: Wait) -> None:
        try:
            ended = await self._children.start(waiting.run, waiting.task, waiting.attempt, wait)
        except RefusedChild as refusal:
            self._to_tell.append(self._failure(waiting, ErrorInfo("Refused", str(refusal))))
            ended = False
        if not self._is_current(waiting):
            self._to_cancel[waiting.child] = None
            return
        self._to_start.pop(waiting.place, None)
        if ended:
            self._child_ended(waiting)

    async def _end_children(self) -> None:
        first = [self._to_end[child] for child in tuple(self._to_end)[:BATCH]]
        if first:
            await _all(self._end_child(waiting) for waiting in first)

    async def _end_child(self, waiting: Waiting) -> None:
        end = await self._children.end(waiting.child)
        if end.error is None:
            item = self._success(waiting, await self._kept(waiting.run, end.output))
        else:
            item = self._failure(waiting, end.error, -1 if end.final else await self._retry_in_ms(waiting, end.error))
        self._to_tell.append(item)
        self._to_end.pop(waiting.child, None)

    async def _cancel_children(self) -> None:
        for child in tuple(self._to_cancel)[:BATCH]:
            await self._children.cancel(child)
            self._to_cancel.pop(child, None)

    async def _look_for_orphans(self) -> None:
        """Child runs whose parent's task has ended, and that could not be told so before the process died; a page a pass."""
        if self._cursor is not None:
            found, cursor = await self._children.unfinished(self._cursor)
            self._cursor = cursor or None
            self._to_cancel.update((child, None) for child in found if child not in self._by_child)

    # -- events

    async def _match_events(self) -> None:
        while self._to_match:
            key = self._to_match.pop()
            try:
                await self._match(key, list(self._by_key.get(key, {}).values()))
            except BaseException:
                self._to_match.add(key)
                raise

    async def _match(self, key: Key, waits: list[Waiting]) -> None:
        """Gives each of them the first event that was sent after its run was accepted."""
        while waits:
            found = await self._record.signals(*key, min(waiting.accepted_ms for waiting in waits))
            if not found:
                return
            for waiting in waits:
                if waiting.accepted_ms <= found[0].at_ms:
                    self._to_tell.append(self._success(waiting, await self._kept(waiting.run, found[0].data)))
            waits = [waiting for waiting in waits if waiting.accepted_ms > found[0].at_ms]

    # -- the end of patience

    async def _expire(self) -> None:
        now_ms = self._clock.now_ms()
        while (waiting := self._next_due()) is not None and waiting.due_ms <= now_ms:
            error = ErrorInfo("Timeout", f"nothing came within {format_duration(waiting.timeout_ms)}")
            retry_ms = -1 if waiting.default else await self._retry_in_ms(waiting, error)
            if waiting.kind == APPROVAL:
                await self._decide(waiting, error.message, retry_ms, now_ms)
            else:
                self._to_tell.append(self._failure(waiting, error, retry_ms, reason="timeout"))
            heapq.heappop(self._due)

    async def _decide(self, waiting: Waiting, why: str, retry_ms: int, now_ms: int) -> None:
        """Nobody has decided. What counts then is recorded like any decision, so that nobody's answer comes in between."""
        verdict = Verdict(
            task=waiting.task,
            attempt=waiting.attempt,
            approve=waiting.default == "approve",
            by="deadline",
            comment=why,
            expired=not waiting.default,
            retry_in_ms=retry_ms,
        )
        try:
            command = await self._record.decide(waiting.run, waiting.task, waiting.attempt, _encode(verdict), now_ms)
        except (NotFoundError, WrongStateError):
            return  # somebody was faster
        await self._load.apply(command)

    def _next_due(self) -> Waiting | None:
        """The wait that is due first; those that are over are dropped."""
        while self._due:
            _, run, task, attempt = self._due[0]
            waiting = self._waits.get(run, {}).get(task)
            if waiting is not None and waiting.attempt == attempt:
                return waiting
            heapq.heappop(self._due)
        return None

    def _set_timer(self) -> None:
        waiting = self._next_due()
        due_s = (waiting.due_ms - self._clock.now_ms()) / 1000 if waiting is not None else IDLE_S
        self.interval_s = max(due_s, SHORTEST_S)

    # -- resolving

    async def _tell(self) -> None:
        """The engine takes the first that comes for an attempt; for what it does not have yet it is told again."""
        items = tuple(self._to_tell)
        if not items:
            return
        answers = await self._engine.resolve(items)
        del self._to_tell[: len(items)]
        for item, answer in zip(items, answers, strict=True):
            if answer == NOT_FOUND and not await self._is_over(item.run):
                self._unheard.setdefault(item.run, []).append(item)

    async def _is_over(self, run: str) -> bool:
        try:
            return RunState((await self._record.run(run)).state).ended
        except NotFoundError:
            return True

    def _success(self, waiting: Waiting, output: bytes) -> Resolve:
        by = f"{waiting.kind}:{waiting.attempt}"
        return Resolve(waiting.run, waiting.task, by, TaskState.SUCCEEDED, output=output, attempt=waiting.attempt)

    def _failure(self, waiting: Waiting, error: ErrorInfo, retry_ms: int = -1, reason: str = "") -> Resolve:
        return Resolve(
            waiting.run,
            waiting.task,
            f"{reason or waiting.kind}:{waiting.attempt}",
            TaskState.FAILED,
            reason=reason,
            error=_encode(error),
            retry_in_ms=retry_ms,
            attempt=waiting.attempt,
        )

    async def _kept(self, run: str, output: bytes) -> bytes:
        """The output as it stands in the event."""
        if len(output) <= MAX_OUTPUT:
            return output
        return artifact_reference(await self._record.put_artifact(run, output, self._clock.now_ms()))

    async def _retry_in_ms(self, waiting: Waiting, error: ErrorInfo) -> int:
        policy = await self._policy(waiting)
        if policy is None:
            return -1
        try:
            (live,) = await self._engine.tasks(waiting.run, [waiting.task])
            failures = live.failures
        except NotFoundError:
            failures = waiting.attempt - 1  # its run is not loaded yet
        return retry_in_ms(policy, failures, error, self._chance())

    async def _policy(self, waiting: Waiting) -> RetryPolicy | None:
        run = await self._catalog.run(waiting.run)
        if run is None:
            return None
        tasks = run.plan.spec.tasks
        if waiting.task < len(tasks):
            return tasks[waiting.task].retry
        parent = self._parent_of(waiting)
        if parent is None:
            self._expanded = (waiting.run, await self._record.expansions(waiting.run))
            parent = self._parent_of(waiting)
        return tasks[parent].retry if parent is not None else None

    def _parent_of(self, waiting: Waiting) -> int | None:
        """The map whose child it is, as far as that is known here."""
        run, expansions = self._expanded
        return next((e.parent for e in expansions if run == waiting.run and e.first <= waiting.task < e.first + e.count), None)


async def _all(calls: Iterable[Awaitable[None]]) -> None:
    """All of them at once, so that they share a commit; raises what one raised when all are done."""
    for result in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
