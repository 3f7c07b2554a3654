"""Lines: where those stand who wait for a claim, for people who ask why."""

from __future__ import annotations

import pytest

from skep.engine.protocol import HOLDERS, OK, WAITING, Ask, Holder, Line
from skep.errors import NotFoundError
from skep.model.run import EXCLUSIVE, Claim, Rate
from skep.testing.engine.suite import CLAIMS_KEPT_MS, LOCK, SHARED, SILENT_MS, Suite
from skep.testing.shapes import Driver, shape


class LineSuite(Suite):
    """`lines`."""

    async def test_who_waits_is_told_where_and_who_has_it(self, drive: Driver) -> None:
        await drive.submit(shape(size=5))
        await drive.submit(shape(size=2), "other")
        for task in (0, 1):
            await drive.start(task, claims=SHARED)
        assert await drive.offer(0, "other", claims=LOCK) == WAITING
        assert await drive.offer(3, claims=SHARED) == WAITING
        held = [Holder(1, "r", 0, "n"), Holder(1, "r", 1, "n")]
        (line,) = await drive.engine.lines("r", range(5))
        assert line == Line(3, "lock", 1, EXCLUSIVE, 2, 1, 2, 0, False, False, held)
        (first,) = await drive.engine.lines("other", [0, 1])
        assert (first.task, first.units, first.ahead, first.waiters) == (0, EXCLUSIVE, 0, 2)
        for task in (0, 1):
            await drive.complete(task)
        assert await drive.engine.lines("other", [0]) == [], "it was called up: nobody holds it back"
        (line,) = await drive.engine.lines("r", [3])
        assert (line.used, line.ahead, line.holders) == (0, 1, [])
        await drive.start(0, "other", claims=LOCK)
        (line,) = await drive.engine.lines("r", [3])
        assert (line.used, line.ahead, line.waiters, line.holders) == (EXCLUSIVE, 0, 1, [Holder(EXCLUSIVE, "other", 0, "n")])
        await drive.complete(0, "other")
        assert await drive.engine.lines("r", range(5)) == []

    async def test_a_lock_asked_for_inside_of_a_task(self, drive: Driver) -> None:
        await drive.submit(shape(size=3))
        tokens = [await drive.start(task) for task in range(3)]
        for task in (2, 0, 1):
            await drive.tell("claim", Ask("r", task, tokens[task], "a b"))
        lines = await drive.engine.lines("r", range(3))
        assert [(line.task, line.key, line.ahead, line.inside) for line in lines] == [(0, "a b", 0, True), (1, "a b", 1, True)]
        assert lines[0].holders == [Holder(EXCLUSIVE, "r", 2, "n")]
        await drive.tell("release", (tokens[2], "a b"))
        assert [line.task for line in await drive.engine.lines("r", range(3))] == [1]

    async def test_one_of_many_claims_is_the_one_that_it_waits_for(self, drive: Driver) -> None:
        """Keys are told apart, though one begins or ends as the other."""
        first, second = Claim("a", 2, 2), Claim("x a", 1, 1)
        await drive.submit(shape(size=4))
        await drive.start(0, claims=(second,))
        await drive.start(3, claims=(Claim("a", 1, 2),))
        assert await drive.offer(1, claims=(second, first)) == WAITING
        (line,) = await drive.engine.lines("r", range(4))
        assert (line.key, line.holders) == ("x a", [Holder(1, "r", 0, "n")])

    async def test_of_many_holders_the_oldest_are_named(self, drive: Driver) -> None:
        many = (Claim("key", 1, HOLDERS + 5),)
        await drive.submit(shape(size=HOLDERS + 6))
        for task in range(HOLDERS + 5):
            await drive.start(task, claims=many)
        assert await drive.offer(HOLDERS + 5, claims=many) == WAITING
        (line,) = await drive.engine.lines("r", [HOLDERS + 5])
        assert line.used == HOLDERS + 5
        assert [holder.task for holder in line.holders] == list(range(HOLDERS))

    async def test_units_of_a_lost_node_are_nobodys(self, drive: Driver) -> None:
        await drive.node("m")
        await drive.submit(shape(size=2))
        await drive.start(0, node="m", claims=LOCK)
        assert await drive.offer(1, claims=LOCK) == WAITING
        assert await drive.engine.retire([("m", 1)], lost=True) == [OK]
        (line,) = await drive.engine.lines("r", [1])
        assert line.holders == [Holder(EXCLUSIVE, "", -1, "")]
        drive.clock.advance(CLAIMS_KEPT_MS)
        await drive.engine.reap(SILENT_MS, 3)
        assert await drive.engine.lines("r", [1]) == []

    async def test_a_rate_says_when_it_is_ones_turn(self, drive: Driver) -> None:
        """Each of them spends 500 ms; there is room for one at once."""
        rate = (Rate("rate", 500_000, 500_000),)
        await drive.submit(shape(size=4))
        await drive.start(0, claims=rate)
        begun_ms = drive.clock.now_ms()
        for task in (2, 1, 3):
            assert await drive.offer(task, claims=rate) == WAITING
        lines = await drive.engine.lines("r", range(4))
        assert [(line.task, line.ahead, line.due_ms - begun_ms) for line in lines] == [
            (1, 1, 1_000),
            (2, 0, 500),
            (3, 2, 1_500),
        ]
        assert all((line.holders, line.withheld) == ([], False) for line in lines)

    async def test_what_is_withheld_is_said(self, drive: Driver) -> None:
        await drive.submit(shape(size=1))
        await drive.engine.withhold(1_000)
        assert await drive.offer(0, claims=LOCK) == WAITING
        (line,) = await drive.engine.lines("r", [0])
        assert (line.withheld, line.holders) == (True, [])

    async def test_lines_of_no_run(self, drive: Driver) -> None:
        with pytest.raises(NotFoundError):
            await drive.engine.lines("x", [0])
