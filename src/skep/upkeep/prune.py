"""Prune: whole ended runs go when they have been kept long enough, with everything of theirs."""

from __future__ import annotations

from typing import Final

from skep.clock import Clock
from skep.loop import Loop
from skep.record.protocol import Record

KEEP_MS: Final = 30 * 86_400_000
"""How long ended runs are kept by default."""
BATCH: Final = 200
"""Runs in one transaction: what else is to be recorded waits no longer than for these."""
BUSY_S: Final = 60.0
IDLE_S: Final = 3_600.0


class PruneLoop(Loop):
    """Deletes what is older than it must be: at once while there is a whole batch of it, after a minute while there is
    something, after an hour when there was nothing."""

    name = "prune"

    def __init__(self, record: Record, clock: Clock, keep_ms: int = KEEP_MS) -> None:
        """`keep_ms`: 0 keeps runs for ever; sent events, expired state and artifacts without a run go all the same."""
        super().__init__()
        self._record = record
        self._clock = clock
        self._keep_ms = keep_ms

    async def run_once(self) -> bool:
        now_ms = self._clock.now_ms()
        before_ms = max(now_ms - self._keep_ms, 0) if self._keep_ms else 0
        gone = await self._record.prune(ended_before_ms=before_ms, now_ms=now_ms, limit=BATCH)
        self.interval_s = BUSY_S if gone else IDLE_S
        return gone >= BATCH
