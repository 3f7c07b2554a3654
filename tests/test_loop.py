"""The one shape of all loops, stressed once for each of them: the plain one and every real one."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from skep import loop as module
from skep.loop import Loop, Trouble, end
from skep.record.sql import SqlRecord
from skep.testing.stage import Stage
from skep.upkeep.timers import TimerLoop

KINDS = ("plain", "load", "place", "transcribe", "promote", "reap")


class Passes:
    """Counts the passes of a loop, and may make them raise, take their time, or find more to do."""

    def __init__(self, loop: Loop) -> None:
        self.count = 0
        self.under_way = 0
        self.trouble = ""
        """What each pass raises."""
        self.more = 0
        """Passes that will say that there is more to do."""
        self.gate = asyncio.Event()
        self.gate.set()
        self._once: Callable[[], Awaitable[bool]] = loop.run_once
        self._done = asyncio.Condition()
        loop.run_once = self._pass  # type: ignore[method-assign]

    async def _pass(self) -> bool:
        self.under_way += 1
        assert self.under_way == 1, "two passes at once"
        try:
            await self.gate.wait()
            if self.trouble:
                raise OSError(self.trouble)
            found = await self._once()
        finally:
            self.under_way -= 1
            self.count += 1
            async with self._done:
                self._done.notify_all()
        self.more -= self.more > 0
        return found or self.more > 0

    async def reach(self, count: int) -> None:
        """Waits until there were so many passes."""
        async with asyncio.timeout(10), self._done:
            await self._done.wait_for(lambda: self.count >= count)


async def quiet() -> None:
    """Lets everything run that can run without time going by."""
    for _ in range(20):
        await asyncio.sleep(0)


async def nothing() -> bool:
    return False


@pytest.fixture(params=KINDS)
async def loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Loop]:
    """A loop that nothing but its wakes (and a minute) sets going."""
    monkeypatch.setattr(TimerLoop, "longest_s", 60.0)
    async with Stage(SqlRecord(None)) as stage:
        made: Loop = Loop(nothing, "plain") if request.param == "plain" else getattr(stage, request.param)
        made.interval_s = 60.0
        assert made.name == request.param
        yield made
        await made.stop()


@pytest.fixture
def passes(loop: Loop) -> Passes:
    return Passes(loop)


async def test_it_passes_once_at_the_start_and_once_when_it_is_woken(loop: Loop, passes: Passes) -> None:
    loop.start()
    assert loop.running
    await passes.reach(1)
    await quiet()
    loop.wake()
    await passes.reach(2)
    await quiet()
    await loop.stop()
    assert (passes.count, loop.running, loop.failures) == (2, False, 0)


async def test_any_number_of_wakes_gives_one_pass(loop: Loop, passes: Passes) -> None:
    loop.start()
    await passes.reach(1)
    await quiet()
    for _ in range(1_000):
        loop.wake()
    await passes.reach(2)
    await quiet()
    await loop.stop()
    assert passes.count == 2


async def test_a_wake_during_a_pass_gives_one_more(loop: Loop, passes: Passes) -> None:
    passes.gate.clear()
    loop.start()
    await quiet()
    assert passes.under_way == 1
    loop.wake()
    loop.wake()
    passes.gate.set()
    await passes.reach(2)
    await quiet()
    await loop.stop()
    assert passes.count == 2


async def test_it_goes_on_at_once_while_there_is_more(loop: Loop, passes: Passes) -> None:
    passes.more = 5
    loop.start()
    await passes.reach(5)
    await quiet()
    assert passes.count == 5


async def test_start_twice_is_one_loop(loop: Loop, passes: Passes) -> None:
    loop.start()
    loop.start()
    await passes.reach(1)
    await quiet()
    assert passes.count == 1


async def test_stop_before_start_and_stop_twice_are_harmless(loop: Loop, passes: Passes) -> None:
    await loop.stop()
    await loop.stop()
    assert not loop.running
    loop.start()
    await passes.reach(1)
    await asyncio.gather(loop.stop(), loop.stop())
    await loop.stop()
    assert not loop.running


async def test_stop_lets_the_pass_in_progress_finish(loop: Loop, passes: Passes) -> None:
    passes.gate.clear()
    loop.start()
    await quiet()
    stopping = asyncio.ensure_future(loop.stop())
    await quiet()
    assert not stopping.done()
    passes.gate.set()
    await stopping
    assert (passes.count, passes.under_way) == (1, 0)


async def test_stop_right_after_start_ends_it(loop: Loop, passes: Passes) -> None:
    loop.start()
    await loop.stop()
    assert not loop.running
    assert passes.count <= 1


async def test_it_can_be_started_again(loop: Loop, passes: Passes) -> None:
    for again in range(1, 4):
        loop.start()
        await passes.reach(again)
        await loop.stop()


async def test_a_pass_that_raises_is_counted_and_tried_again(
    loop: Loop, passes: Passes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.0001)
    passes.trouble = "the disk is gone"
    loop.start()
    await passes.reach(3)
    assert loop.running
    passes.trouble = ""
    count = passes.count
    await passes.reach(count + 1)
    await loop.stop()
    assert loop.failures >= 3
    assert loop.trouble is None
    assert f"{loop.name}: a pass failed; next try in" in caplog.text


async def test_wakes_do_not_cut_the_pause_after_a_failure_short_but_stop_does(
    loop: Loop, passes: Passes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 3_600.0)
    passes.trouble = "the disk is gone"
    loop.start()
    await passes.reach(1)
    for _ in range(50):
        loop.wake()
        await quiet()
    assert (passes.count, loop.failures) == (1, 1)
    async with asyncio.timeout(5):
        await loop.stop()


async def test_a_pass_may_stop_its_own_loop(loop: Loop) -> None:
    async def last() -> bool:
        await loop.stop()
        return True

    loop.run_once = last  # type: ignore[method-assign]
    loop.start()
    await quiet()
    await loop.stop()
    assert not loop.running


async def test_it_survives_a_storm(loop: Loop, passes: Passes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Starts, stops, wakes and failures in any order; in the end it does one clean pass."""
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.0001)
    chance = random.Random(7)
    for _ in range(200):
        step = chance.randrange(5)
        if step == 0:
            loop.start()
        elif step == 1:
            await loop.stop()
        elif step == 2:
            loop.wake()
        elif step == 3:
            passes.trouble = "now and then"
        else:
            passes.trouble = ""
        await asyncio.sleep(0)
    passes.trouble = ""
    await loop.stop()
    count = passes.count
    loop.start()
    await passes.reach(count + 1)
    await loop.stop()
    assert not loop.running


async def test_the_pause_doubles_up_to_the_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 1.0)
    loop = Loop(nothing)
    passes = Passes(loop)
    passes.trouble = "no"
    pauses: list[float] = []

    async def rest(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 5:
            passes.trouble = ""
        await asyncio.sleep(0)

    monkeypatch.setattr(loop, "_rest", rest)
    loop.start()
    await passes.reach(6)
    passes.trouble = "no"
    loop.wake()
    await passes.reach(7)
    await loop.stop()
    assert pauses[:6] == [1.0, 2.0, 4.0, 5.0, 5.0, 1.0]


async def test_trouble_is_told_since_when_it_lasts_without_a_break(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.0001)
    loop = Loop(nothing)
    passes, told = Passes(loop), list[Trouble | None]()
    loop.on_trouble = lambda changed: told.append(changed.trouble)
    passes.trouble = "no"
    loop.start()
    await passes.reach(3)
    passes.trouble = ""
    await passes.reach(passes.count + 1)
    await loop.stop()
    assert told[-1] is None
    times = {trouble.since_s for trouble in told if trouble is not None}
    assert (len(told) >= 4, len(times), str(told[0] and told[0].error)) == (True, 1, "no")


async def test_a_loop_without_anything_to_do_says_so() -> None:
    with pytest.raises(NotImplementedError, match="the loop idle has nothing to do"):
        await Loop(name="idle").run_once()


async def test_a_task_that_swallows_its_cancellation_ends_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AGAIN_S", 0.01)
    swallowed = 0

    async def goes_on() -> None:
        nonlocal swallowed
        while True:
            try:
                await asyncio.sleep(3_600)
            except asyncio.CancelledError:
                swallowed += 1
                if swallowed > times:
                    raise

    times = 3
    task = asyncio.create_task(goes_on())
    await asyncio.sleep(0)
    await end(None, task)
    assert task.cancelled()
    assert swallowed == 4

    times = 1_000_000
    task = asyncio.create_task(goes_on())
    await asyncio.sleep(0)
    await end(task, within_s=0.05)
    assert not task.done()
    times = 0
    await end(task)
