"""Lead: one of the servers that share an engine is the leader, and runs the loops of which there shall be one.

The leader's lease is in the engine. It is handed over at a clean stop, and runs out by itself when its server is gone. Two that
both believe to lead do no harm: epoch, mark and claims decide, not the lease.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from skep.engine.protocol import Engine
from skep.loop import Loop

HOLD_MS: Final = 2_500
"""How long the lease lasts after it was renewed."""
REST_S: Final = 2.0
"""For others to try, where this one is not fit."""
RENEW_S: Final = 0.5
"""So that another server leads 3 s after this one is gone, at the latest."""


class LeadLoop(Loop):
    """Takes the lease, or waits for it. `gained` and `lost` are called, one after the other, when that changes."""

    name = "lead"
    interval_s = RENEW_S
    longest_pause_s = RENEW_S

    def __init__(
        self,
        engine: Engine,
        server: str,
        gained: Callable[[], Awaitable[None]],
        lost: Callable[[], Awaitable[None]],
        is_fit: Callable[[], bool] = lambda: True,
    ) -> None:
        """`is_fit`: whether this server can do a leader's work; one that cannot lets others try for a while."""
        super().__init__()
        self._is_fit = is_fit
        self._not_before = 0.0
        """On the clock of the event loop."""
        self._engine = engine
        self._server = server
        self._gained = gained
        self._lost = lost
        self.leads = False

    async def run_once(self) -> bool:
        now = asyncio.get_running_loop().time()
        if self.leads and not self._is_fit():
            self._not_before = now + REST_S
            await self._lost()
            await self.resign()
        if now < self._not_before:
            return False
        leads = await self._engine.lead(self._server, HOLD_MS)
        if leads and not self.leads:
            try:
                await self._gained()
            except BaseException:
                self._not_before = now + REST_S
                await self._engine.lead(self._server, 0)
                raise
        elif self.leads and not leads:
            await self._lost()
        self.leads = leads
        return False

    async def resign(self) -> None:
        """Hands the lease over; call it when the loop is stopped, and what only a leader does."""
        if self.leads:
            self.leads = False
            await self._engine.lead(self._server, 0)
