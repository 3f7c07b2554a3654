"""Large runs on both engines: what is done in chunks is done in the same ones, with the same events."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from skep.clock import ManualClock
from skep.engine.memory import MemoryEngine
from skep.engine.protocol import RELEASE_LIMIT, Promoted, RunCommand
from skep.model.event import Event
from skep.model.run import Policy
from skep.testing.shapes import Driver, fan, shape
from tests.engine.servers import IDS, PROGRAMS, end, fresh, server

SIZE = 2 * RELEASE_LIMIT + 100
Story = Callable[[Driver], Awaitable[None]]


async def promote_all(drive: Driver) -> list[Promoted]:
    done = [await drive.engine.promote()]
    while done[-1].more:
        done.append(await drive.engine.promote())
    return done


async def reap_all(drive: Driver) -> list[Promoted]:
    done = [await drive.engine.reap(10**9, 3)]
    while done[-1].more:
        done.append(await drive.engine.reap(10**9, 3))
    return done


async def wide(drive: Driver) -> None:
    await drive.submit(shape(size=SIZE))
    assert len(await promote_all(drive)) == 2
    await drive.engine.cancel([RunCommand("r", 1)])
    await promote_all(drive)


async def fans(drive: Driver) -> None:
    await drive.submit(fan(SIZE, policies={0: Policy.CONTINUE}))
    await drive.work(0, fails=True)
    assert len(await promote_all(drive)) == 2
    await drive.work(3, 4, fails=True)
    await drive.engine.cancel([RunCommand("r", 1, "enough")])
    await promote_all(drive)
    assert await drive.command("retry", 2) == "ok"
    await drive.work(0)
    await promote_all(drive)
    await drive.work(4)


async def maps(drive: Driver) -> None:
    await drive.submit(shape([(0, 1)], 2))
    await drive.expand(0, SIZE)
    await promote_all(drive)
    await drive.work(7)
    await drive.engine.cancel([RunCommand("r", 1)])
    await promote_all(drive)


async def windows(drive: Driver) -> None:
    await drive.submit(shape(size=1, windows={0: RELEASE_LIMIT + 10}))
    await drive.expand(0, SIZE)
    await promote_all(drive)
    await drive.work(*range(1, 9))


async def deadlines(drive: Driver) -> None:
    await drive.submit(shape(size=SIZE, deadlines_ms=dict.fromkeys(range(0, SIZE, 2), 1_000), policies={3: Policy.CONTINUE}))
    await promote_all(drive)
    await drive.start(2)
    drive.clock.advance(1_000)
    assert len(await reap_all(drive)) == 2


async def deadlines_of_children(drive: Driver) -> None:
    await drive.submit(shape(size=1, deadlines_ms={0: 1_000}, policies={0: Policy.CONTINUE}))
    await drive.expand(0, SIZE)
    await promote_all(drive)
    drive.clock.advance(1_000)
    assert len(await reap_all(drive)) == 3


async def told(drive: Driver, story: Story) -> tuple[list[Event], object]:
    await drive.node()
    await story(drive)
    await drive.read()
    size = len(drive.history.runs["r"].states)
    return drive.history.events, (await drive.queue(), await drive.engine.tasks("r", range(size)), await drive.engine.stats())


@pytest.mark.parametrize("program", PROGRAMS, ids=IDS)
@pytest.mark.parametrize("story", [wide, fans, maps, windows, deadlines, deadlines_of_children])
async def test_both_engines_tell_the_same_story(story: Story, program: Path) -> None:
    clock = ManualClock()
    events, left = await told(Driver(MemoryEngine(clock, 1), clock), story)
    clock = ManualClock()
    engine = await fresh(server(program).url, 1, clock)
    again, also_left = await told(Driver(engine, clock), story)
    await end(engine)
    assert len(again) == len(events)
    for one, other in zip(events, again, strict=True):
        assert other == one
    assert also_left == left
