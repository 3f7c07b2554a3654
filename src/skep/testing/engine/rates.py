"""Rates: how often the fleet may start what has one key."""

from __future__ import annotations

from typing import Final

from skep.engine.protocol import FORGET_MS, OK, PAUSED, WAITING, Start
from skep.model.run import Rate
from skep.testing.engine.suite import LOCK, Suite
from skep.testing.shapes import Driver, chain, shape

SECOND: Final = 1_000_000
"""Units of a rate that come back in a second."""
ONE: Final = (Rate("api", SECOND, SECOND),)
"""One in a second."""
THREE: Final = (Rate("api", SECOND, 3 * SECOND),)
"""One in a second, three at once after a while."""


class RateSuite(Suite):
    """What a grant spends. Who waits for a rate comes back by `promote`, as many as there is room for."""

    async def pass_ms(self, drive: Driver, ms: int) -> None:
        drive.clock.advance(ms)
        await self.promote_all(drive)

    async def test_as_many_as_the_burst_and_then_one_by_one(self, drive: Driver) -> None:
        await drive.submit(shape(size=7))
        for task in range(3):
            await drive.start(task, claims=THREE)
        for task in range(3, 7):
            assert await drive.offer(task, claims=THREE) == WAITING
        assert await drive.queue() == [], "they are ready, but not offered again"
        for task in range(3, 7):
            await self.pass_ms(drive, 999)
            assert await drive.queue() == []
            await self.pass_ms(drive, 1)
            assert await drive.queue() == [("r", task)], "only as many as there is room for, in the order of the line"
            await drive.start(task, claims=THREE)

    async def test_promote_says_when_there_is_room_again(self, drive: Driver) -> None:
        await drive.submit(shape(size=2))
        await drive.start(0, claims=ONE)
        drive.clock.advance(400)
        assert await drive.offer(1, claims=ONE) == WAITING
        assert (await drive.engine.promote()).next_ms == drive.clock.now_ms() + 600
        drive.clock.advance(600)
        promoted = await drive.engine.promote()
        assert (promoted.moved, promoted.more) == (1, False)

    async def test_a_quiet_time_saves_up_no_more_than_the_burst(self, drive: Driver) -> None:
        await drive.submit(shape(size=5))
        await drive.start(0, claims=THREE)
        drive.clock.advance(60_000)
        for task in range(1, 4):
            await drive.start(task, claims=THREE)
        assert await drive.offer(4, claims=THREE) == WAITING

    async def test_a_crowd_comes_back_only_as_there_is_room(self, drive: Driver) -> None:
        """More than one call of `promote` may let out, and still no more than fit."""
        rate = (Rate("api", 1_000, 700_000),)
        await drive.submit(shape(size=2_000))
        await self.promote_all(drive)
        (group,) = await drive.engine.ready(2_000)
        starts = [Start("r", seen.task, seen.version, False, "n", "t", b"{}", (), rate) for seen in group.tasks]
        assert await drive.engine.place(starts) == [OK] * 700 + [WAITING] * 1_300
        await self.pass_ms(drive, 50)
        assert len(await drive.queue()) == 50
        await self.pass_ms(drive, 550)
        assert len(await drive.queue()) == 600
        await self.pass_ms(drive, 400)
        assert len(await drive.queue()) == 700, "those who were not started keep their place, and the rest waits"

    async def test_nobody_overtakes(self, drive: Driver) -> None:
        await drive.submit(shape(size=4))
        await drive.start(0, claims=ONE)
        assert await drive.offer(1, claims=ONE) == WAITING
        drive.clock.advance(1_000)
        assert await drive.offer(2, claims=ONE) == WAITING, "there is room, for who has waited"
        await self.promote_all(drive)
        assert await drive.queue() == [("r", 1), ("r", 3)]
        assert await drive.offer(3, claims=ONE) == WAITING
        await drive.start(1, claims=ONE)

    async def test_a_waiter_that_ends_makes_room_for_those_behind(self, drive: Driver) -> None:
        await drive.submit(shape(size=2))
        await drive.submit(chain(1), "other")
        await drive.start(0, claims=ONE)
        assert await drive.offer(0, "other", claims=ONE) == WAITING
        assert await drive.offer(1, claims=ONE) == WAITING
        await drive.command("cancel", run="other")
        await self.pass_ms(drive, 1_000)
        assert await drive.queue() == [("r", 1)]

    async def test_one_that_was_called_up_and_ends_leaves_its_room_to_the_next(self, drive: Driver) -> None:
        await drive.submit(shape(size=2))
        await drive.submit(chain(1), "other")
        await drive.start(0, claims=ONE)
        assert await drive.offer(0, "other", claims=ONE) == WAITING
        assert await drive.offer(1, claims=ONE) == WAITING
        await self.pass_ms(drive, 1_000)
        assert await drive.queue() == [("other", 0)]
        await drive.command("cancel", run="other")
        assert await drive.queue() == [("r", 1)]

    async def test_a_paused_waiter_holds_nobody_back(self, drive: Driver) -> None:
        await drive.submit(shape(size=2))
        await drive.submit(chain(1), "other")
        await drive.start(0, claims=ONE)
        for task, run in ((0, "other"), (1, "r")):
            assert await drive.offer(task, run, claims=ONE) == WAITING
        await drive.command("pause", run="other")
        await self.pass_ms(drive, 1_000)
        assert await drive.offer(0, "other", claims=ONE) == PAUSED
        await drive.start(1, claims=ONE)

    async def test_a_rate_is_spent_only_with_all_else(self, drive: Driver) -> None:
        await drive.submit(shape(size=4))
        await drive.start(0, claims=LOCK)
        assert await drive.offer(1, claims=(*ONE, *LOCK)) == WAITING
        await drive.start(2, claims=ONE)
        await drive.complete(0)
        assert await drive.queue() == [("r", 1), ("r", 3)]
        assert await drive.offer(1, claims=(*ONE, *LOCK)) == WAITING, "the lock is there, the rate is not"
        await drive.start(3, claims=LOCK)
        await drive.complete(3)
        await self.pass_ms(drive, 1_000)
        await drive.start(1, claims=(*ONE, *LOCK))

    async def test_a_lease_holds_nothing_of_a_rate(self, drive: Driver) -> None:
        """Neither its node nor its end know of it, and another attempt spends again."""
        await drive.submit(shape(size=1))
        await drive.start(0, claims=(*ONE, *LOCK))
        (entry,) = await drive.engine.take("n", 1, 0, 9)
        assert entry.entry.claims == LOCK  # type: ignore[union-attr]
        await drive.fail(0, retry_in_ms=0)
        assert await drive.offer(0, claims=(*ONE, *LOCK)) == WAITING
        await self.pass_ms(drive, 1_000)
        await drive.start(0, claims=(*ONE, *LOCK))

    async def test_rates_of_one_key_count_together(self, drive: Driver) -> None:
        """Each by its own measure: what one spends is missing to the other."""
        slow, fast = (Rate("api", 2 * SECOND, 2 * SECOND),), (Rate("api", SECOND, 3 * SECOND),)
        await drive.submit(shape(size=4))
        await drive.start(0, claims=slow)
        await drive.start(1, claims=fast)
        assert await drive.offer(2, claims=fast) == WAITING
        assert await drive.offer(3, claims=slow) == WAITING
        await self.pass_ms(drive, 1_000)
        await drive.start(2, claims=fast)
        await self.pass_ms(drive, 2_999)
        assert await drive.queue() == []
        await self.pass_ms(drive, 1)
        await drive.start(3, claims=slow)

    async def test_several_rates_at_once(self, drive: Driver) -> None:
        both = (Rate("minute", 30 * SECOND, 60 * SECOND), *ONE)
        await drive.submit(shape(size=3))
        await drive.start(0, claims=both)
        assert await drive.offer(1, claims=both) == WAITING
        await self.pass_ms(drive, 1_000)
        await drive.start(1, claims=both)
        assert await drive.offer(2, claims=both) == WAITING
        await self.pass_ms(drive, 28_999)
        assert await drive.queue() == []
        await self.pass_ms(drive, 1)
        await drive.start(2, claims=both)

    async def test_rates_are_not_withheld(self, drive: Driver) -> None:
        """What an earlier engine gave of them is not known, and nobody holds it: there may be one more burst, no harm else."""
        await drive.submit(shape(size=3))
        await drive.engine.withhold(10_000)
        await drive.start(0, claims=ONE)
        assert await drive.offer(1, claims=ONE) == WAITING
        assert await drive.offer(2, claims=LOCK) == WAITING
        await self.pass_ms(drive, 1_000)
        assert await drive.queue() == [("r", 1)]

    async def test_what_has_come_back_is_forgotten(self, drive: Driver) -> None:
        await drive.submit(shape(size=2))
        await drive.start(0, claims=ONE)
        await self.pass_ms(drive, FORGET_MS)
        assert (await drive.engine.promote()).next_ms == 0
        await drive.start(1, claims=ONE)

    async def test_a_node_that_is_full_spends_nothing(self, drive: Driver) -> None:
        await drive.submit(shape(size=2))
        assert await drive.offer(0, takes=(("vram", 1),), claims=ONE) != OK
        await drive.start(1, claims=ONE)
