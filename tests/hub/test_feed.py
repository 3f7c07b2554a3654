"""The feed: every listener hears every batch, and the end of a run wakes who waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from skep.hub.feed import Feed
from skep.model.event import Event

END = Event(1, 5, "ended", "r", state=3)


async def test_listeners_hear_every_batch_until_they_stop() -> None:
    feed = Feed()
    heard: list[Sequence[Event]] = []
    stop = feed.subscribe(heard.append)
    feed.publish([END])
    stop()
    feed.publish([END])
    assert heard == [[END]]


async def test_a_listener_may_stop_while_it_is_told() -> None:
    feed = Feed()
    heard: list[Sequence[Event]] = []
    stop = feed.subscribe(lambda events: stop())
    feed.subscribe(heard.append)
    feed.publish([END])
    feed.publish([END])
    assert len(heard) == 2


async def test_the_end_of_a_run_wakes_all_who_wait_for_it_and_nobody_else() -> None:
    feed = Feed()
    first, second, other = feed.end_of("r"), feed.end_of("r"), feed.end_of("other")
    feed.publish([Event(1, 5, "granted", "r"), END])
    assert (await first, await second) == (END, END)
    assert not other.done()
    other.cancel()
    await asyncio.wait([other])
    assert feed._ends == {}


async def test_who_gives_up_leaves_nothing_behind() -> None:
    feed = Feed()
    first, second = feed.end_of("r"), feed.end_of("r")
    first.cancel()
    await asyncio.wait([first])
    feed.publish([END])
    assert await second == END
    assert feed._ends == {}
