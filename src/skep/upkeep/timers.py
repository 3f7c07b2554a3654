"""Promote and reap: the two loops that wait for time.

Neither polls: each sleeps until the engine says that something is due, and wakes early when that moves.
"""

from __future__ import annotations

import asyncio

from skep.clock import Clock
from skep.engine.protocol import Engine, Promoted
from skep.loop import Loop

SHORTEST_S = 0.001
STOOD_STILL_S = 1.0
"""A pass that comes so much too late says that the whole process stood still: it was stopped, or starved."""


class TimerLoop(Loop):
    """Runs again when the engine's next due time has come."""

    longest_s: float = 1.0
    """The longest sleep, whatever the engine says."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        super().__init__()
        self._engine = engine
        self._clock = clock

    async def step(self) -> Promoted:
        raise NotImplementedError

    async def run_once(self) -> bool:
        done = await self.step()
        due_s = (done.next_ms - self._engine.now_ms) / 1000 if done.next_ms else self.longest_s
        self.interval_s = min(max(due_s, SHORTEST_S), self.longest_s)
        return done.more


class PromoteLoop(TimerLoop):
    """Makes due what is delayed, and works off what large releases left over."""

    name = "promote"

    async def step(self) -> Promoted:
        return await self._engine.promote()


class ReapLoop(TimerLoop):
    """Ends what is over: lost nodes, deadlines, run timeouts, locks held too long."""

    name = "reap"

    def __init__(self, engine: Engine, clock: Clock, silent_ms: int = 10_000, max_lost: int = 3) -> None:
        super().__init__(engine, clock)
        self._silent_ms = silent_ms
        self._max_lost = max_lost
        self._deaf_ms = 0
        """How long nobody could be heard."""
        self._excused_ms = 0
        """Until when that excuses silence."""

    async def step(self) -> Promoted:
        if self._deaf_ms and self._clock.now_ms() >= self._excused_ms:
            self._deaf_ms = 0
        return await self._engine.reap(self._silent_ms + self._deaf_ms, self._max_lost)

    async def _wait(self, seconds: float) -> None:
        """Who stood still has heard nobody meanwhile: no node is lost by that."""
        clock = asyncio.get_running_loop()
        due_s = clock.time() + seconds
        await super()._wait(seconds)
        late_s = clock.time() - due_s
        if late_s >= STOOD_STILL_S:
            self._deaf_ms += round(late_s * 1000)
            self._excused_ms = self._clock.now_ms() + self._silent_ms
