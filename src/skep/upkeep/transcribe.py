"""Transcribe: events are copied to the record in order, and only then told to anyone.

While one batch is being committed the next one gathers; when nothing is under way the next event is copied at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from skep.engine.protocol import Engine
from skep.errors import StaleEpochError
from skep.loop import Loop
from skep.model.event import Event
from skep.record.protocol import Record

BATCH = 5_000


class TranscribeLoop(Loop):
    """Moves the mark."""

    name = "transcribe"

    def __init__(self, engine: Engine, record: Record, engine_id: str, told: Callable[[Sequence[Event]], None]) -> None:
        super().__init__()
        self._engine = engine
        self._record = record
        self._engine_id = engine_id
        self._told = told
        self.mark = 0
        """Number of the last event that the record has."""

    async def run_once(self) -> bool:
        events = await self._engine.events(self.mark, BATCH)
        if not events:
            return False
        try:
            await self._record.transcribe(self._engine_id, self._engine.epoch, self.mark, events)
        except StaleEpochError:
            row = await self._record.engine(self._engine_id)
            if row is None or row.epoch != self._engine.epoch:
                raise
            self.mark = row.mark  # another transcriber was faster; go on from where it is
            return True
        self.mark = events[-1].n
        await self._engine.trim(self.mark)
        self._told(events)
        return True
