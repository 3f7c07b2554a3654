"""What answers say beside is believed only as far as it is all there is: two processes on one engine miss nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from skep.engine.protocol import OK, Done, InboxEntry, Load, Register, Start
from skep.engine.redis import RedisEngine, RedisStore
from skep.engine.redis.asides import MOST_ENTRIES, MOST_EVENTS, Events, Inbox
from skep.errors import NotFoundError
from skep.model.event import Event
from skep.model.node import Grant, NodeInfo, Stop
from skep.model.run import Token
from skep.testing.shapes import shape
from tests.engine.servers import IDS, PROGRAMS, end, fresh, server, until

pytestmark = pytest.mark.parametrize("program", PROGRAMS, ids=IDS)
GRAPH = shape(size=3)


@pytest_asyncio.fixture
async def two(program: Path) -> AsyncIterator[tuple[RedisEngine, RedisEngine]]:
    """Two processes with one engine, as far as that can be told."""
    one = await fresh(server(program).url, 5)
    store = await RedisStore.connect(server(program).url)
    other = RedisEngine(store, one.engine_id, 5)
    await other.start()
    yield one, other
    await end(one)
    await end(other)


class Asked:
    """Counts the scripts that an engine runs."""

    def __init__(self, engine: RedisEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.verbs: list[str] = []
        run = engine.store.run

        async def counted(script: Any, *args: Any) -> bytes:
            self.verbs.append(script.verb)
            return await run(script, *args)

        monkeypatch.setattr(engine.store, "run", counted)


async def load(engine: RedisEngine, run: str) -> None:
    now = engine.now_ms
    chunk = Load(run=run, namespace="d", shape=GRAPH, first=0, count=3, read_ms=now, accepted_ms=now, opens=True)
    assert await engine.load([chunk]) == [OK]


async def place(engine: RedisEngine) -> None:
    """All that is ready."""
    _, classes = await engine.survey(64)
    starts = [Start(t.run, t.task, t.version, False, "n", "t", b"{}") for ready in classes for t in ready.tasks]
    assert set(await engine.place(starts)) == {OK}


async def join(engine: RedisEngine, incarnation: int = 1) -> None:
    assert await engine.register([Register(NodeInfo("n", incarnation))]) == [OK]


async def test_who_does_everything_asks_for_nothing(
    two: tuple[RedisEngine, RedisEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = two
    await join(one)
    assert await one.take("n", 1, 0, 99) == []
    await one.survey(64)
    assert await one.events((await one.events(0, 99))[-1].n, 99) == []
    asked = Asked(one, monkeypatch)
    await load(one, "r")
    await place(one)
    grants = await one.take("n", 1, 0, 99)
    await one.complete([Done("r", grant.entry.task, grant.entry.token) for grant in grants if isinstance(grant.entry, Grant)])
    assert await one.survey(64) == ([], [])
    events = await one.events(0, 99)
    assert asked.verbs == ["load", "place", "complete"]
    assert [event.n for event in events] == list(range(1, events[-1].n + 1))
    assert events[-1].kind == "ended"
    assert await one.events(events[-1].n, 99) == []
    assert asked.verbs == ["load", "place", "complete"]


async def test_what_others_do_is_not_missed(two: tuple[RedisEngine, RedisEngine]) -> None:
    one, other = two
    stirred = {topic: asyncio.Event() for topic in ("ready", "events", "node:n")}
    for topic, event in stirred.items():
        one.listen(topic, event.set)
    await join(one)
    assert await one.take("n", 1, 0, 99) == []
    await one.survey(64)
    await load(one, "a")
    seen = await one.events(0, 99)
    for event in stirred.values():
        event.clear()
    await load(other, "b")
    await stirred["events"].wait()
    await stirred["ready"].wait()
    more = await one.events(seen[-1].n, 99)
    assert [event.run for event in more] == ["b", "b"]
    _, (ready,) = await one.survey(64)
    assert [task.run for task in ready.tasks] == ["a"] * 3 + ["b"] * 3
    await place(other)
    await stirred["node:n"].wait()
    assert [entry.number for entry in await one.take("n", 1, 0, 99)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("first", [True, False])
async def test_grants_of_two_who_place_come_all_and_in_order(two: tuple[RedisEngine, RedisEngine], first: bool) -> None:
    """Also when nothing was heard of the other's yet."""
    one, other = two
    await join(one)
    assert await one.take("n", 1, 0, 99) == []
    taken: list[InboxEntry] = []
    for turn, run in enumerate("abcd"):
        who = one if (turn % 2 == 0) is first else other
        await load(who, run)
        await place(who)
        if who is one:
            taken += await one.take("n", 1, taken[-1].number if taken else 0, 99)

    async def rest() -> None:
        taken.extend(await one.take("n", 1, taken[-1].number if taken else 0, 99))
        if len(taken) < 12:
            raise NotFoundError("not yet")

    await until(rest, NotFoundError)
    assert [entry.number for entry in taken] == list(range(1, 13))
    events: list[Event] = []
    while found := await one.events(len(events), 5):
        events += found
    assert [event.n for event in events] == list(range(1, len(events) + 1))
    assert sum(event.kind == "granted" for event in events) == 12


async def test_a_node_that_begins_anew_gets_nothing_of_before(two: tuple[RedisEngine, RedisEngine]) -> None:
    one, _ = two
    await join(one)
    assert await one.take("n", 1, 0, 99) == []
    await load(one, "r")
    await place(one)
    await one.retire([("n", 1)], lost=True)
    await join(one)
    assert await one.take("n", 1, 0, 99) == []
    await place(one)
    assert len(await one.take("n", 1, 0, 99)) == 3
    await join(one, 2)
    with pytest.raises(NotFoundError):
        await one.take("n", 1, 3, 99)
    assert await one.take("n", 2, 0, 99) == []


async def test_who_begins_to_listen_reads_the_inbox(
    two: tuple[RedisEngine, RedisEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection of a node, which has perhaps been to another server."""
    one, _ = two
    await join(one)
    assert await one.take("n", 1, 0, 99) == []
    await load(one, "r")
    await place(one)
    one.listen("node:n", lambda: None)
    asked = Asked(one, monkeypatch)
    assert len(await one.take("n", 1, 0, 99)) == 3
    assert asked.verbs == ["take"]


async def test_the_store_forgets_what_a_busy_node_has_taken(two: tuple[RedisEngine, RedisEngine]) -> None:
    one, _ = two
    await join(one)
    await one.take("n", 1, 0, 99)
    seen = 0
    for turn in range(MOST_ENTRIES // 250 + 3):
        assert await one.dismiss([("n", Token(4, turn * 250 + at)) for at in range(250)]) == [OK] * 250
        seen = (await one.take("n", 1, seen, 1_000))[-1].number
    assert seen == (MOST_ENTRIES // 250 + 3) * 250
    kept = await one.store.command("LLEN", f"{{skep:{one.engine_id}}}:5:inbox:n")
    assert kept < MOST_ENTRIES


def told(*numbers: int) -> list[Event]:
    return [Event(n, 0, "registered") for n in numbers]


def numbers(events: list[Event]) -> list[int]:
    return [event.n for event in events]


def test_events_are_kept_as_far_as_they_go_on(program: Path) -> None:
    events = Events()
    assert events.after(0, 9) == []
    events.add(told(1, 2))
    events.add(told(3))
    assert numbers(events.after(0, 2)) == [1, 2]
    assert numbers(events.after(2, 9)) == [3]
    assert events.after(3, 9) == []
    events.add(told(6, 7))  # 4 and 5 are another's, or on their way
    assert events.after(3, 9) == []
    assert numbers(events.after(5, 9)) == [6, 7]
    events.add(told(4, 5))
    assert events.after(3, 9) == []
    events.add(told(4, 5, 6, 7, 8))  # as they were fetched
    assert numbers(events.after(3, 9)) == [4, 5, 6, 7, 8]
    events.drop(5)
    assert events.after(4, 9) == []
    assert numbers(events.after(5, 9)) == [6, 7, 8]
    events.drop(20)
    events.add(told(21))
    assert numbers(events.after(20, 9)) == [21]


def test_few_events_are_kept(program: Path) -> None:
    events = Events()
    for n in range(1, 3 * MOST_EVENTS):
        events.add(told(n))
    last = 3 * MOST_EVENTS - 1
    assert events.after(1, 9) == []
    assert numbers(events.after(last - 3, 9)) == [last - 2, last - 1, last]


def test_an_inbox_with_a_gap_is_read(program: Path) -> None:
    stop = Stop(Token(5, 1), "cancel")
    inbox = Inbox(1, 3, [])
    assert inbox.take(3, 9) == []
    assert inbox.add(1, [(4, 1, stop), (5, 1, stop)])
    assert [entry.number for entry in inbox.take(3, 1)] == [4]
    assert [entry.number for entry in inbox.take(3, 9)] == [4, 5]
    assert inbox.take(3, 9) == []  # all of it was handed out
    assert inbox.add(1, [(6, 1, stop)])
    assert inbox.take(2, 9) == []  # it is asked for what is forgotten here
    assert [entry.number for entry in inbox.take(4, 9)] == [5, 6]
    assert not inbox.add(1, [(8, 1, stop)])
    assert not inbox.add(2, [(7, 1, stop)])
