"""The `Engine` protocol over Redis: every verb is one script and one round trip."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Final

import msgspec

from skep.clock import Clock, SystemClock
from skep.engine.protocol import (
    OK,
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
from skep.engine.redis import encode
from skep.engine.redis.asides import Aside, Asides
from skep.engine.redis.encode import Payloads, Row, pack
from skep.engine.redis.keys import epoch_key, topics_channel
from skep.engine.redis.scripts import SCRIPTS
from skep.engine.redis.store import RedisStore
from skep.engine.redis.topics import Topics
from skep.errors import EngineUnavailableError, NotFoundError
from skep.model.event import Event
from skep.model.node import Adopted, Grant, LiveNode, LockGrant, Stop
from skep.model.run import Token

BATCH: Final = 250
"""Items in one script."""
LOADS: Final = 50
"""Runs in one script: each of them is a few tasks that become ready."""
NO_TOKEN: Final = Token(0, 0)
PLACES_S: Final = 5.0
"""Who has looked for ready tasks so lately places them."""
aside_of = msgspec.msgpack.Decoder(Aside).decode
words_of = msgspec.msgpack.Decoder(list[str]).decode
events_of = msgspec.msgpack.Decoder(list[Event]).decode
entries_of = msgspec.msgpack.Decoder(list[tuple[int, int, Grant | Stop | LockGrant | Adopted]] | bool).decode
classes_of = msgspec.msgpack.Decoder(list[ReadyClass]).decode
tasks_of = msgspec.msgpack.Decoder(list[LiveTask] | bool).decode
lines_of = msgspec.msgpack.Decoder(list[Line] | bool).decode
adoptions_of = msgspec.msgpack.Decoder(list[tuple[str, int]]).decode
survey_of = msgspec.msgpack.Decoder(tuple[list[LiveNode], list[ReadyClass]]).decode
nodes_of = msgspec.msgpack.Decoder(list[LiveNode]).decode
decode = msgspec.msgpack.decode


class RedisEngine:
    """One open epoch of an engine. From every verb: EngineUnavailableError (say it again), and StaleEpochError and
    EngineGoneError (it is to be opened anew)."""

    def __init__(self, store: RedisStore, engine_id: str, epoch: int, clock: Clock | None = None) -> None:
        """`clock`: only for tests; None takes the store's own."""
        self.store = store
        self.engine_id = engine_id
        self.epoch = epoch
        self._clock = clock
        self._wall: Clock = clock or SystemClock()
        self._key = epoch_key(engine_id)
        self._me = secrets.token_hex(4)
        self._asides = Asides()
        self._topics = Topics(store, topics_channel(engine_id, epoch), self._me, self._asides.doubt)
        self._heard = 0
        self._behind_ms = 0
        """How far this machine's clock is behind engine time, as of the last answer."""
        self._places_until = 0.0
        """0: it does not place, or is looking."""

    async def start(self) -> None:
        """Begins to hear what other processes stir."""
        await self._topics.start()

    async def close(self) -> None:
        """Hears no more; the store is left open."""
        await self._topics.close()

    async def memory(self) -> tuple[int, int]:
        """Bytes that the store uses, and how many it may; 0: not known."""
        return await self.store.memory()

    @property
    def now_ms(self) -> int:
        return self._wall.now_ms() + self._behind_ms

    @property
    def heard(self) -> int:
        return self._heard

    def listen(self, topic: str, callback: Callable[[], None]) -> Callable[[], None]:
        if topic.startswith("node:"):
            self._asides.drop_inbox(topic.removeprefix("node:"))
        return self._topics.listen(topic, callback)

    # -- one round trip

    async def _say(self, verb: str, *args: Any, payloads: Payloads | tuple[bytes, ...] = ()) -> msgspec.Raw:
        now = self._clock.now_ms() if self._clock is not None else ""
        places = int(monotonic() < self._places_until)
        try:
            packed = await self.store.run(SCRIPTS[verb], self._key, self.epoch, now, self._me, places, *args, *payloads)
        except EngineUnavailableError:
            self._topics.stir_all()  # it may have been done, and its answer lost
            raise
        said = aside_of(packed)
        self._heard = max(said.heard, self._heard)
        self._behind_ms = said.now_ms - self._wall.now_ms()
        self._asides.hear(said)
        if said.topics:
            self._topics.stir(said.topics)
        return said.answer

    async def _tell(self, verb: str, items: Sequence[Any], row: Row, *more: Any) -> msgspec.Raw:
        payloads = Payloads(SCRIPTS[verb].first_payload)
        rows = [row(item, payloads) for item in items]
        return await self._say(verb, pack(rows), *more, payloads=payloads)

    async def _words(self, verb: str, items: Sequence[Any], row: Row, most: int = BATCH) -> list[Answer]:
        """Many items go in several calls, so that no script holds the others up."""
        answers: list[Any] = []
        for first in range(0, len(items), most):
            answers += words_of(await self._tell(verb, items[first : first + most], row))
        return answers

    # -- runs

    async def load(self, items: Sequence[Load]) -> list[Answer]:
        answers: list[Answer] = []
        batch: list[Load] = []
        for item in items:
            if item.restored or item.count > encode.PIECE:
                answers += await self._words("load", batch, encode.load, LOADS)
                batch = []
                answers.append(await self._load_large(item))
            else:
                batch.append(item)
        return answers + await self._words("load", batch, encode.load, LOADS)

    async def _load_large(self, item: Load) -> Answer:
        for piece in encode.pieces(item):
            (answer,) = await self._words("load", [piece], encode.load)
            if answer != OK:
                return answer
        return OK

    async def open(self, runs: Sequence[str]) -> list[Answer]:
        return await self._words("open", runs, lambda run, _: run)

    async def cancel(self, items: Sequence[RunCommand]) -> list[Answer]:
        return await self._words("cancel", items, encode.command)

    async def pause(self, items: Sequence[RunCommand]) -> list[Answer]:
        return await self._words("pause", items, encode.command)

    async def resume(self, items: Sequence[RunCommand]) -> list[Answer]:
        return await self._words("resume", items, encode.command)

    async def retry(self, items: Sequence[RunCommand]) -> list[Answer]:
        return await self._words("retry", items, encode.command)

    # -- tasks

    async def ready(self, limit: int) -> list[ReadyClass]:
        return classes_of(await self._say("ready", limit))

    async def survey(self, limit: int) -> tuple[list[LiveNode], list[ReadyClass]]:
        look = self._asides.look(limit)
        self._places_until = 0.0
        try:
            return look if look is not None else survey_of(await self._say("survey", limit))
        finally:
            self._places_until = monotonic() + PLACES_S

    async def place(self, items: Sequence[Decision]) -> list[Answer]:
        return await self._words("place", items, encode.decision)

    async def take(self, node: str, incarnation: int, after: int, limit: int) -> list[InboxEntry]:
        if known := self._asides.take(node, incarnation, after, limit):
            return known
        self._asides.drop_inbox(node)
        entries = entries_of(await self._say("take", node, incarnation, after, limit))
        if isinstance(entries, bool):
            raise NotFoundError(f"node {node} (incarnation {incarnation}) is not registered")
        found = [InboxEntry(number, entry) for number, _, entry in entries]
        self._asides.keep_inbox(node, incarnation, after, limit, found)
        return found

    async def complete(self, items: Sequence[Done]) -> list[Answer]:
        return await self._words("complete", items, encode.done)

    async def fail(self, items: Sequence[Failure]) -> list[Answer]:
        return await self._words("fail", items, encode.failure)

    async def snooze(self, items: Sequence[Snooze]) -> list[Answer]:
        return await self._words("snooze", items, encode.snooze)

    async def park(self, items: Sequence[Parked]) -> list[Answer]:
        return await self._words("park", items, encode.parked)

    async def resolve(self, items: Sequence[Resolve]) -> list[Answer]:
        return await self._words("resolve", items, encode.resolve)

    async def adopt(self, items: Sequence[Adopt]) -> list[Adoption]:
        if not items:
            return []
        answers: list[Any] = adoptions_of(await self._tell("adopt", items, encode.adopt))
        return [Adoption(word, Token(self.epoch, n) if n else NO_TOKEN) for word, n in answers]

    async def dismiss(self, items: Sequence[tuple[str, Token]]) -> list[Answer]:
        return await self._words("dismiss", items, encode.dismissed)

    async def tasks(self, run: str, tasks: Sequence[int]) -> list[LiveTask]:
        found: list[LiveTask] | bool = tasks_of(await self._say("tasks", run, pack(list(tasks))))
        if isinstance(found, bool):
            raise NotFoundError(f"run {run} is not live")
        return found

    async def lines(self, run: str, tasks: Sequence[int]) -> list[Line]:
        found: list[Line] | bool = lines_of(await self._say("lines", run, pack(list(tasks))))
        if isinstance(found, bool):
            raise NotFoundError(f"run {run} is not live")
        return found

    # -- time

    async def promote(self) -> Promoted:
        return Promoted(*decode(await self._say("promote")))

    async def reap(self, silent_ms: int, max_lost: int) -> Promoted:
        return Promoted(*decode(await self._say("reap", silent_ms, max_lost)))

    async def withhold(self, ms: int) -> None:
        await self._say("withhold", ms)

    # -- nodes

    async def register(self, items: Sequence[Register]) -> list[Answer]:
        for item in items:
            self._asides.drop_inbox(item.info.id)
        return await self._words("register", items, encode.register)

    async def beat(self, items: Sequence[Beat]) -> list[Answer]:
        return await self._words("beat", items, lambda item, _: encode.beat(item, self.epoch))

    async def drain(self, nodes: Sequence[str], on: bool = True) -> list[Answer]:
        answers: list[Any] = words_of(await self._say("drain", pack(list(nodes)), int(on)))
        return answers

    async def retire(self, nodes: Sequence[tuple[str, int]], *, lost: bool = False) -> list[Answer]:
        answers: list[Any] = words_of(await self._say("retire", pack(list(nodes)), int(lost)))
        return answers

    async def nodes(self) -> list[LiveNode]:
        return nodes_of(await self._say("nodes"))

    async def stats(self) -> EngineStats:
        states, *rest = decode(await self._say("stats"))
        return EngineStats(tuple(states), *rest)

    # -- locks

    async def claim(self, items: Sequence[Ask]) -> list[Answer]:
        return await self._words("claim", items, encode.ask)

    async def release(self, items: Sequence[tuple[Token, str]]) -> list[Answer]:
        return await self._words("release", items, encode.given_back)

    # -- the stream

    async def lead(self, server: str, hold_ms: int) -> bool:
        return bool(decode(await self._say("lead", server, hold_ms)))

    async def events(self, after: int, limit: int) -> list[Event]:
        known = self._asides.events(after, limit)
        if known is not None:
            return known
        self._asides.asks_events()
        events = events_of(await self._say("events", after, limit))
        self._asides.keep_events(events)
        return events

    async def backlog(self) -> int:
        return int(decode(await self._say("backlog")))

    async def mark(self) -> int:
        return int(decode(await self._say("mark")))

    async def trim(self, mark: int, keep: int = 0) -> None:
        await self._say("trim", mark, keep)
        self._asides.drop_events(mark)

    async def stir(self, topics: Sequence[str]) -> None:
        await self._say("stir", pack(list(topics)))
