"""The stream: events, trimming, the leader."""

from __future__ import annotations

import asyncio

from skep.engine.protocol import (
    Snooze,
)
from skep.testing.engine.suite import Suite
from skep.testing.shapes import Driver, chain


class StreamSuite(Suite):
    """Events, trim, the leader, callbacks."""

    async def test_events_count_from_one_without_gaps(self, drive: Driver) -> None:
        await drive.submit(chain(3))
        await drive.work(0, 1, 2)
        events = await drive.engine.events(0, 1_000)
        assert [event.n for event in events] == list(range(1, len(events) + 1))
        assert await drive.engine.events(3, 2) == events[3:5]
        assert await drive.engine.events(len(events), 9) == []

    async def test_trim_forgets_up_to_the_mark_and_numbers_go_on(self, drive: Driver) -> None:
        await drive.submit(chain(2))
        await drive.work(0)
        count = len(await drive.read() or drive.history.events)
        await drive.engine.trim(count - 1)
        await drive.engine.trim(count - 2)
        assert [event.n for event in await drive.engine.events(count - 1, 9)] == [count]
        await drive.engine.trim(count)
        await drive.work(1)
        assert (await drive.engine.events(count, 9))[0].n == count + 1

    async def test_what_is_recorded_may_be_kept_for_those_who_follow(self, drive: Driver) -> None:
        await drive.submit(chain(2))
        await drive.work(0, 1)
        last = len(await drive.read() or drive.history.events)
        assert (await drive.engine.mark(), await drive.engine.backlog(), drive.engine.heard) == (0, last, last)
        await drive.engine.trim(last - 1, keep=2)
        assert (await drive.engine.mark(), await drive.engine.backlog()) == (last - 1, 1)
        assert [event.n for event in await drive.engine.events(0, 99)] == [last - 2, last - 1, last]
        await drive.engine.trim(last - 3, keep=0)
        assert await drive.engine.mark() == last - 1, "it only rises"
        await drive.engine.trim(last, keep=0)
        assert await drive.engine.events(0, 99) == []
        assert await drive.engine.backlog() == 0

    async def test_one_server_leads(self, drive: Driver) -> None:
        lead = drive.engine.lead
        assert await lead("a", 3_000)
        assert not await lead("b", 3_000)
        drive.clock.advance(2_000)
        assert await lead("a", 3_000)
        drive.clock.advance(2_000)
        assert not await lead("b", 3_000)
        drive.clock.advance(1_000)
        assert await lead("b", 3_000)
        assert not await lead("a", 3_000)
        assert await lead("b", 0), "a clean stop hands it over"
        assert await lead("a", 3_000)

    async def test_topics_stir(self, drive: Driver) -> None:
        heard = {topic: asyncio.Event() for topic in ("ready", "events", "due", "node:n")}
        stops = [drive.engine.listen(topic, event.set) for topic, event in heard.items()]
        await drive.submit(chain(1))
        token = await drive.start()
        await drive.tell("snooze", Snooze("r", 0, token, 10))
        for event in heard.values():
            await asyncio.wait_for(event.wait(), 2)
            event.clear()
        for topic in ("mark", "anything at all"):
            heard[topic] = asyncio.Event()
            stops.append(drive.engine.listen(topic, heard[topic].set))
        await drive.engine.trim(1)
        await drive.engine.stir(["anything at all"])
        for topic in ("mark", "anything at all"):
            await asyncio.wait_for(heard[topic].wait(), 2)
            heard[topic].clear()
        for event in heard.values():
            event.clear()
        for stop in stops:
            stop()
        drive.clock.advance(10)
        await drive.engine.promote()
        assert not any(event.is_set() for event in heard.values())
