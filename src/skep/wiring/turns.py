"""How the servers that share an engine take turns in its rejoin: flags in the record, which outlives any of them."""

from __future__ import annotations

import asyncio
from typing import Final

from skep.clock import Clock
from skep.engine.protocol import Engine
from skep.errors import SkepError
from skep.record.protocol import Record
from skep.wiring.presence import late

TOPIC: Final = "rejoin"
LOOK_S: Final = 0.5


class RejoinTurns:
    """Of one epoch of an engine; see `skep.upkeep.rejoin.Turns`."""

    def __init__(self, engine: Engine, record: Record, clock: Clock, engine_id: str) -> None:
        self._engine = engine
        self._record = record
        self._clock = clock
        self._flag = f"rejoin:{engine_id}"
        self._over = False

    async def begin(self) -> None:
        await self._say("begun")

    async def end(self) -> None:
        await self._say("over")
        self._over = True

    async def _say(self, word: str) -> None:
        await self._record.set_flag(self._flag, f"{self._engine.epoch} {word}")
        await self._engine.stir([TOPIC])

    async def _found(self) -> str:
        """What was said last of this epoch; empty: nothing yet."""
        epoch, _, word = (await self._record.flags()).get(self._flag, "").partition(" ")
        return word if epoch == str(self._engine.epoch) else ""

    async def is_over(self) -> bool:
        """Raises RecordError."""
        self._over = self._over or await self._found() == "over"
        return self._over

    async def are_late(self) -> bool:
        return await late(self._record, self._clock, self._engine.epoch)

    async def begun(self) -> None:
        stirred = asyncio.Event()
        stop = self._engine.listen(TOPIC, stirred.set)
        try:
            while True:
                stirred.clear()
                try:
                    if await self._found():
                        return
                except SkepError:
                    pass  # it is asked again
                try:
                    async with asyncio.timeout(LOOK_S):
                        await stirred.wait()
                except TimeoutError:
                    pass  # it is a hint only
        finally:
            stop()
