"""The leader's lease: held by one, handed over, and taken when it has run out."""

from __future__ import annotations

import pytest

from skep.clock import ManualClock
from skep.engine.memory import MemoryEngine
from skep.upkeep.lead import HOLD_MS, RENEW_S, LeadLoop


class Two:
    """Servers a and b on one engine."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        engine = MemoryEngine(self.clock, 1)
        self.told: list[str] = []
        self.a, self.b = (LeadLoop(engine, name, self._tell(f"+{name}"), self._tell(f"-{name}")) for name in "ab")

    def _tell(self, word: str):  # type: ignore[no-untyped-def]
        async def tell() -> None:
            self.told.append(word)

        return tell

    async def turn(self, ms: int, *loops: LeadLoop) -> None:
        self.clock.advance(ms)
        for loop in loops:
            await loop.run_once()


@pytest.fixture
def two() -> Two:
    return Two()


async def test_one_leads_for_as_long_as_it_renews(two: Two) -> None:
    for _ in range(20):
        await two.turn(round(RENEW_S * 1000), two.a, two.b)
    assert two.told == ["+a"]
    assert (two.a.leads, two.b.leads) == (True, False)


async def test_another_leads_when_the_first_is_gone(two: Two) -> None:
    await two.turn(0, two.a, two.b)
    waited = 0
    while not two.b.leads:
        waited += round(RENEW_S * 1000)
        await two.turn(round(RENEW_S * 1000), two.b)
    assert HOLD_MS <= waited <= 3_000
    await two.turn(0, two.a)
    assert two.told == ["+a", "+b", "-a"], "the first learns of it when it is back"


async def test_a_clean_stop_hands_it_over_at_once(two: Two) -> None:
    await two.turn(0, two.a, two.b)
    await two.a.resign()
    await two.a.resign()
    await two.turn(0, two.b)
    assert two.b.leads
    await two.a.resign()
    await two.turn(0, two.b, two.a)
    assert (two.a.leads, two.b.leads) == (False, True), "who does not lead hands nothing over"
