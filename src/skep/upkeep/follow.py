"""Follow: a server that does not lead hears what was recorded from the engine's stream, which keeps it for a while."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from skep.engine.protocol import Engine
from skep.loop import Loop
from skep.model.event import Event

BATCH: Final = 5_000
KEPT: Final = 20_000
"""Recorded events that stay in the engine for those who follow."""


class FollowLoop(Loop):
    """Tells recorded events, in order. What it came too late for is not told: `missed` is called in its place."""

    name = "follow"

    def __init__(
        self, engine: Engine, told: Callable[[Sequence[Event]], None], missed: Callable[[], Awaitable[None]], mark: int = 0
    ) -> None:
        """`mark`: number of the last event that was told."""
        super().__init__()
        self._engine = engine
        self._told = told
        self._missed = missed
        self.mark = mark

    async def run_once(self) -> bool:
        mark = await self._engine.mark()
        if mark <= self.mark:
            return False
        events = [event for event in await self._engine.events(self.mark, BATCH) if event.n <= mark]
        if not events or events[0].n > self.mark + 1:
            await self._missed()
            self.mark = events[0].n - 1 if events else mark
        if events:
            self.mark = events[-1].n
            self._told(events)
        return self.mark < mark
