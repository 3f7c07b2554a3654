"""Who follows hears all that is recorded and nothing more, in order, or hears that it missed something."""

from __future__ import annotations

from collections.abc import Sequence

from skep.engine.protocol import Register
from skep.model.event import Event
from skep.model.node import NodeInfo
from skep.testing.stage import Stage
from skep.upkeep.follow import FollowLoop


class Follower:
    def __init__(self, stage: Stage) -> None:
        self.heard: list[int] = []
        self.missed = 0
        self.loop = FollowLoop(stage.engine, self._told, self._missed)
        stage.engine.listen("mark", self.loop.wake)

    def _told(self, events: Sequence[Event]) -> None:
        self.heard += [event.n for event in events]

    async def _missed(self) -> None:
        self.missed += 1


async def happen(stage: Stage, count: int) -> None:
    for _ in range(count):
        at = stage.engine.core.n
        await stage.engine.register([Register(NodeInfo(f"n{at}"))])


async def test_only_what_is_recorded_is_heard(stage: Stage) -> None:
    follower = Follower(stage)
    await happen(stage, 5)
    assert not await follower.loop.run_once()
    assert follower.heard == []
    await stage.engine.trim(3, keep=100)
    await stage.pass_(follower.loop)
    assert follower.heard == [1, 2, 3]
    await happen(stage, 2)
    await stage.engine.trim(7, keep=100)
    await stage.pass_(follower.loop)
    assert follower.heard == [1, 2, 3, 4, 5, 6, 7]
    assert not follower.missed


async def test_who_comes_too_late_hears_that_it_missed_something(stage: Stage) -> None:
    follower = Follower(stage)
    await happen(stage, 6)
    await stage.engine.trim(5, keep=2)
    await stage.pass_(follower.loop)
    assert (follower.heard, follower.missed) == ([4, 5], 1)
    await happen(stage, 4)
    await stage.engine.trim(10)
    await stage.pass_(follower.loop)
    assert (follower.heard, follower.missed, follower.loop.mark) == ([4, 5], 2, 10)
