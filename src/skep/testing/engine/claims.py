"""Claims: what the fleet shares."""

from __future__ import annotations

import pytest

from skep.engine.protocol import (
    NO_FIT,
    NOT_FOUND,
    OK,
    PAUSED,
    SUPERSEDED,
    WAITING,
    Ask,
    Beat,
    Failure,
    Parked,
    Snooze,
)
from skep.model.node import LockGrant
from skep.model.run import EXCLUSIVE, Claim
from skep.testing.engine.suite import BOGUS, LOCK, SHARED, SILENT_MS, Suite
from skep.testing.shapes import Driver, chain, shape


class ClaimSuite(Suite):
    """What the fleet shares: claims of a grant, locks inside a task."""

    async def test_a_claim_that_does_not_fit_waits_until_units_are_free(self, drive: Driver) -> None:
        two = (Claim("key", 1, 2),)
        await drive.submit(shape(size=4))
        for task in (0, 1):
            await drive.start(task, claims=two)
        assert await drive.offer(2, claims=two) == WAITING
        assert await drive.queue() == [("r", 3)], "it is ready, but not offered again"
        assert await drive.states() == "running running ready ready"
        await drive.complete(0)
        assert await drive.queue() == [("r", 2), ("r", 3)]
        await drive.start(2, claims=two)

    async def test_all_claims_or_none(self, drive: Driver) -> None:
        first, second = Claim("a", 1, 2), Claim("b", 1, 1)
        await drive.submit(shape(size=4))
        await drive.start(0, claims=(second,))
        assert await drive.offer(1, claims=(first, second)) == WAITING
        await drive.start(2, claims=(first,))
        await drive.start(3, claims=(first,))

    async def test_what_is_withheld_is_given_to_nobody(self, drive: Driver) -> None:
        """Whoever asks meanwhile is served in turn when it is over."""
        await drive.submit(shape(size=4))
        token = await drive.start(3)
        await drive.engine.withhold(1_000)
        await drive.engine.withhold(300)
        for task in (1, 0):
            assert await drive.offer(task, claims=LOCK) == WAITING
        await drive.start(2)
        assert await drive.tell("claim", Ask("r", 3, token, "inside", 1, EXCLUSIVE, 60_000)) == WAITING
        drive.clock.advance(999)
        await drive.engine.reap(SILENT_MS, 3)
        assert await drive.queue() == []
        drive.clock.advance(1)
        await drive.engine.reap(SILENT_MS, 3)
        assert await drive.queue() == [("r", 1)], "the longer one counts"
        assert LockGrant(token, "inside") in [entry for _, entry in await drive.engine.take("n", 1, 0, 9)]
        await drive.start(1, claims=LOCK)
        await drive.complete(1)
        await drive.start(0, claims=LOCK)

    async def test_withholding_may_end_at_once(self, drive: Driver) -> None:
        await drive.submit(shape(size=2))
        await drive.engine.withhold(0)
        await drive.engine.withhold(10_000)
        assert await drive.offer(0, claims=LOCK) == WAITING
        await drive.engine.withhold(0)
        await drive.engine.withhold(0)
        assert sorted(await drive.queue()) == [("r", 0), ("r", 1)]
        await drive.start(0, claims=LOCK)
        drive.clock.advance(10_000)
        await drive.engine.reap(60_000, 3)
        assert await drive.offer(1, claims=LOCK) == WAITING, "what ends later changes nothing"

    async def test_a_node_that_is_full_takes_no_claim(self, drive: Driver) -> None:
        await drive.submit(shape(size=2))
        assert await drive.offer(0, takes=(("vram", 1),), claims=LOCK) == NO_FIT
        await drive.start(1, claims=LOCK)

    async def test_who_waits_first_is_served_first(self, drive: Driver) -> None:
        await drive.submit(shape(size=4))
        await drive.start(0, claims=LOCK)
        for task in (2, 1, 3):
            assert await drive.offer(task, claims=LOCK) == WAITING
        for task, following in ((0, 2), (2, 1), (1, 3)):
            await drive.complete(task)
            assert await drive.queue() == [("r", following)]
            await drive.start(following, claims=LOCK)

    async def test_an_exclusive_waiter_holds_back_later_shared_ones(self, drive: Driver) -> None:
        await drive.submit(shape(size=5))
        for task in (0, 1):
            await drive.start(task, claims=SHARED)
        assert await drive.offer(2, claims=LOCK) == WAITING
        for task in (3, 4):
            assert await drive.offer(task, claims=SHARED) == WAITING
        await drive.complete(0)
        assert await drive.queue() == []
        await drive.complete(1)
        assert await drive.queue() == [("r", 2)]
        await drive.work(2)
        assert await drive.queue() == [("r", 3), ("r", 4)], "shared ones wake together"

    async def test_a_waiter_that_ends_makes_room_for_those_behind(self, drive: Driver) -> None:
        await drive.submit(shape(size=2))
        await drive.submit(chain(1), "other")
        await drive.start(0, claims=SHARED)
        assert await drive.offer(0, "other", claims=LOCK) == WAITING
        assert await drive.offer(1, claims=SHARED) == WAITING
        await drive.command("cancel", run="other")
        assert await drive.queue() == [("r", 1)]

    async def test_a_waiter_that_was_parked_instead_holds_nobody_back(self, drive: Driver) -> None:
        await drive.submit(shape(size=3))
        await drive.start(0, claims=LOCK)
        for task in (1, 2):
            assert await drive.offer(task, claims=LOCK) == WAITING
        await drive.complete(0)
        await drive.wait(1)
        await drive.start(2, claims=LOCK)

    async def test_a_paused_waiter_holds_nobody_back(self, drive: Driver) -> None:
        """It keeps no place in the line: after resume it stands in line again."""
        await drive.submit(shape(size=2))
        await drive.submit(chain(1), "other")
        await drive.start(0, claims=LOCK)
        assert await drive.offer(0, "other", claims=LOCK) == WAITING
        await drive.command("pause", run="other")
        await drive.complete(0)
        assert await drive.offer(0, "other", claims=LOCK) == PAUSED
        await drive.start(1, claims=LOCK)
        await drive.command("resume", 2, run="other")
        assert await drive.offer(0, "other", claims=LOCK) == WAITING
        await drive.complete(1)
        await drive.start(0, "other", claims=LOCK)

    @pytest.mark.parametrize("end", ["fail", "retry", "snooze", "park", "unlisted", "retire"])
    async def test_every_end_of_a_lease_frees_its_claims(self, drive: Driver, end: str) -> None:
        await drive.node("m")
        await drive.submit(shape(size=2))
        token = await drive.start(0, node="m", claims=LOCK)
        assert await drive.tell("claim", Ask("r", 0, token, "inner")) == OK
        items: dict[str, tuple[str, object]] = {
            "fail": ("fail", Failure("r", 0, token)),
            "retry": ("fail", Failure("r", 0, token, retry_in_ms=5)),
            "snooze": ("snooze", Snooze("r", 0, token, 5)),
            "park": ("park", Parked("r", 0, token, "event")),
            "unlisted": ("beat", Beat("m", 1, (), 1)),
            "retire": ("retire", ("m", 1)),
        }
        verb, item = items[end]
        assert await drive.tell(verb, item) == OK
        inner = (Claim("inner", EXCLUSIVE, EXCLUSIVE),)
        await drive.start(1, claims=LOCK + inner)

    async def test_a_lock_inside_a_task_is_granted_through_the_inbox(self, drive: Driver) -> None:
        await drive.submit(shape(size=2))
        first, second = await drive.start(0), await drive.start(1)
        assert await drive.tell("claim", Ask("r", 0, first, "lock")) == OK
        assert await drive.tell("claim", Ask("r", 1, second, "lock")) == WAITING
        assert await drive.tell("release", (first, "lock")) == OK
        assert [entry for _, entry in await drive.engine.take("n", 1, 2, 9)] == [LockGrant(second, "lock")]
        assert await drive.tell("claim", Ask("r", 1, second, "lock")) == OK, "it is held now"
        assert await drive.tell("claim", Ask("r", 0, first, "lock")) == WAITING
        await drive.complete(1)
        assert (await drive.engine.take("n", 1, 3, 9))[0].entry == LockGrant(first, "lock")

    async def test_locks_inside_and_around_a_task_are_the_same(self, drive: Driver) -> None:
        await drive.submit(shape(size=2))
        token = await drive.start(0)
        assert await drive.tell("claim", Ask("r", 0, token, "lock")) == OK
        assert await drive.offer(1, claims=LOCK) == WAITING
        assert await drive.tell("release", (token, "lock")) == OK
        await drive.start(1, claims=LOCK)

    async def test_a_lock_of_the_lease_itself_stays_until_the_lease_ends(self, drive: Driver) -> None:
        """Asking for it again inside the task is fine, and giving it back there changes nothing."""
        await drive.submit(shape(size=2))
        token = await drive.start(0, claims=LOCK)
        assert await drive.tell("claim", Ask("r", 0, token, "lock")) == OK
        assert await drive.tell("release", (token, "lock")) == OK
        assert await drive.offer(1, claims=LOCK) == WAITING

    async def test_who_will_not_wait_stands_in_no_line(self, drive: Driver) -> None:
        """`waiting` is the answer all the same."""
        await drive.submit(shape(size=2))
        first, second = await drive.start(0), await drive.start(1)
        assert await drive.tell("claim", Ask("r", 0, first, "lock")) == OK
        assert await drive.tell("claim", Ask("r", 1, second, "lock", wait=False)) == WAITING
        await drive.tell("release", (first, "lock"))
        assert await drive.engine.take("n", 1, 2, 9) == []

    async def test_claim_and_release_need_the_lease(self, drive: Driver) -> None:
        await drive.submit(chain(1))
        await drive.start()
        assert await drive.tell("claim", Ask("r", 0, BOGUS, "lock")) == SUPERSEDED
        assert await drive.tell("claim", Ask("x", 0, BOGUS, "lock")) == NOT_FOUND
        assert await drive.tell("release", (BOGUS, "lock")) == SUPERSEDED

    async def test_a_lock_held_too_long_is_freed(self, drive: Driver) -> None:
        """The limit counts from when it was taken last."""
        await drive.submit(shape(size=2))
        first, second = await drive.start(0), await drive.start(1)
        ask = Ask("r", 0, first, "lock", hold_ms=1_000)
        assert await drive.tell("claim", ask) == OK
        drive.clock.advance(600)
        await drive.tell("release", (first, "lock"))
        assert await drive.tell("claim", ask) == OK
        assert await drive.tell("claim", Ask("r", 1, second, "lock")) == WAITING
        drive.clock.advance(600)
        await drive.engine.reap(SILENT_MS, 3)
        assert await drive.engine.take("n", 1, 2, 9) == []
        drive.clock.advance(400)
        await drive.engine.reap(SILENT_MS, 3)
        assert (await drive.engine.take("n", 1, 2, 9))[0].entry == LockGrant(second, "lock")
        assert await drive.states() == "running running"
