"""The memory engine: a plain synchronous core, and the thin async door in front of it.

The core is also the executable specification of every other engine: `verb(now_ms, …) -> answers`, events beside.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from skep.clock import Clock
from skep.engine.memory.nodes import NodeVerbs
from skep.engine.memory.runs import RunVerbs
from skep.engine.memory.tasks import TaskVerbs
from skep.engine.protocol import (
    Adopt,
    Adoption,
    Answer,
    Ask,
    Beat,
    Decision,
    Done,
    EngineStats,
    Failure,
    InboxEntry,
    Line,
    LiveTask,
    Load,
    Parked,
    Promoted,
    ReadyClass,
    Register,
    Resolve,
    RunCommand,
    Snooze,
)
from skep.model.event import Event
from skep.model.node import LiveNode
from skep.model.run import Token

T = TypeVar("T")


def _events_last(topic: str) -> bool:
    """Who places or runs goes first; what is told after that goes into one commit."""
    return topic == "events"


class Core(RunVerbs, TaskVerbs, NodeVerbs):
    """All verbs, synchronous, the clock handed in."""


class MemoryEngine:
    """The `Engine` protocol over a core in this process. No method ever really waits."""

    def __init__(self, clock: Clock, epoch: int) -> None:
        self.core = Core(epoch)
        self.epoch = epoch
        self._clock = clock
        self._listeners: dict[str, list[Callable[[], None]]] = {}
        self._heard = 0

    @property
    def now_ms(self) -> int:
        return self._clock.now_ms()

    @property
    def heard(self) -> int:
        return self.core.n

    def listen(self, topic: str, callback: Callable[[], None]) -> Callable[[], None]:
        listeners = self._listeners.setdefault(topic, [])
        listeners.append(callback)
        return lambda: listeners.remove(callback)

    def _told(self, answer: T) -> T:
        """Calls back whoever listens to what the verb stirred, then hands its answer through."""
        core = self.core
        if core.n != self._heard:
            self._heard = core.n
            core.stirred.add("events")
        if core.stirred:
            topics, core.stirred = core.stirred, set()
            for topic in sorted(topics, key=_events_last):
                for callback in self._listeners.get(topic, ()):
                    callback()
        return answer

    async def load(self, items: Sequence[Load]) -> list[Answer]:
        return self._told(self.core.load(self._clock.now_ms(), items))

    async def open(self, runs: Sequence[str]) -> list[Answer]:
        return self._told(self.core.open(self._clock.now_ms(), runs))

    async def cancel(self, items: Sequence[RunCommand]) -> list[Answer]:
        return self._told(self.core.cancel(self._clock.now_ms(), items))

    async def pause(self, items: Sequence[RunCommand]) -> list[Answer]:
        return self._told(self.core.pause(self._clock.now_ms(), items))

    async def resume(self, items: Sequence[RunCommand]) -> list[Answer]:
        return self._told(self.core.resume(self._clock.now_ms(), items))

    async def retry(self, items: Sequence[RunCommand]) -> list[Answer]:
        return self._told(self.core.retry(self._clock.now_ms(), items))

    async def place(self, items: Sequence[Decision]) -> list[Answer]:
        return self._told(self.core.place(self._clock.now_ms(), items))

    async def complete(self, items: Sequence[Done]) -> list[Answer]:
        return self._told(self.core.complete(self._clock.now_ms(), items))

    async def fail(self, items: Sequence[Failure]) -> list[Answer]:
        return self._told(self.core.fail(self._clock.now_ms(), items))

    async def snooze(self, items: Sequence[Snooze]) -> list[Answer]:
        return self._told(self.core.snooze(self._clock.now_ms(), items))

    async def park(self, items: Sequence[Parked]) -> list[Answer]:
        return self._told(self.core.park(self._clock.now_ms(), items))

    async def resolve(self, items: Sequence[Resolve]) -> list[Answer]:
        return self._told(self.core.resolve(self._clock.now_ms(), items))

    async def adopt(self, items: Sequence[Adopt]) -> list[Adoption]:
        return self._told(self.core.adopt(self._clock.now_ms(), items))

    async def dismiss(self, items: Sequence[tuple[str, Token]]) -> list[Answer]:
        return self._told(self.core.dismiss(self._clock.now_ms(), items))

    async def promote(self) -> Promoted:
        return self._told(self.core.promote(self._clock.now_ms()))

    async def reap(self, silent_ms: int, max_lost: int) -> Promoted:
        return self._told(self.core.reap(self._clock.now_ms(), silent_ms, max_lost))

    async def withhold(self, ms: int) -> None:
        self.core.withhold(self._clock.now_ms(), ms)
        self._told(None)

    async def register(self, items: Sequence[Register]) -> list[Answer]:
        return self._told(self.core.register(self._clock.now_ms(), items))

    async def beat(self, items: Sequence[Beat]) -> list[Answer]:
        return self._told(self.core.beat(self._clock.now_ms(), items))

    async def drain(self, nodes: Sequence[str], on: bool = True) -> list[Answer]:
        return self._told(self.core.drain(self._clock.now_ms(), nodes, on))

    async def retire(self, nodes: Sequence[tuple[str, int]], *, lost: bool = False) -> list[Answer]:
        return self._told(self.core.retire(self._clock.now_ms(), nodes, lost))

    async def claim(self, items: Sequence[Ask]) -> list[Answer]:
        return self._told(self.core.claim(self._clock.now_ms(), items))

    async def release(self, items: Sequence[tuple[Token, str]]) -> list[Answer]:
        return self._told(self.core.release(self._clock.now_ms(), items))

    async def lead(self, server: str, hold_ms: int) -> bool:
        return self._told(self.core.lead(self._clock.now_ms(), server, hold_ms))

    async def ready(self, limit: int) -> list[ReadyClass]:
        return self.core.ready(limit)

    async def survey(self, limit: int) -> tuple[list[LiveNode], list[ReadyClass]]:
        return self.core.list_nodes(), self.core.ready(limit)

    async def tasks(self, run: str, tasks: Sequence[int]) -> list[LiveTask]:
        return self.core.tasks(run, tasks)

    async def lines(self, run: str, tasks: Sequence[int]) -> list[Line]:
        return self.core.lines(run, tasks)

    async def take(self, node: str, incarnation: int, after: int, limit: int) -> list[InboxEntry]:
        return self._told(self.core.take(node, incarnation, after, limit))

    async def nodes(self) -> list[LiveNode]:
        return self.core.list_nodes()

    async def stats(self) -> EngineStats:
        return self.core.stats()

    async def events(self, after: int, limit: int) -> list[Event]:
        return self.core.events(after, limit)

    async def backlog(self) -> int:
        return self.core.n - self.core.mark

    async def memory(self) -> tuple[int, int]:
        return 0, 0

    async def mark(self) -> int:
        return self.core.mark

    async def stir(self, topics: Sequence[str]) -> None:
        self.core.stirred.update(topics)
        self._told(None)

    async def trim(self, mark: int, keep: int = 0) -> None:
        self.core.trim(mark, keep)
        self._told(None)
