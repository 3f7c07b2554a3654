"""Where a server's engine is, and how it is opened (DESIGN §4). Here: in its own memory. `skep.wiring.shared`: in a Redis."""

from __future__ import annotations

import os
import time
from typing import Final, Protocol

from skep.clock import Clock
from skep.engine.memory import MemoryEngine
from skep.engine.protocol import Engine
from skep.errors import RecordError
from skep.record.protocol import EngineRow, Record

ENGINE_ID: Final = "local"
"""A record has one engine that stays, wherever that is: so work goes on when it moves."""


class EngineSource(Protocol):
    """Opens the engine, as often as it is lost."""

    where: str
    """As people are told."""
    shared: bool
    """Whether other servers may have it too."""

    async def open(self, record: Record, clock: Clock) -> Engine:
        """The engine under an epoch. Raises RecordError, EngineUnavailableError."""
        ...

    async def close(self) -> None: ...


class MemorySource:
    """An engine in this process: each process opens it once."""

    where = "memory"
    shared = False

    async def open(self, record: Record, clock: Clock) -> Engine:
        await record.own(ENGINE_ID)
        row = await record.engine(ENGINE_ID)
        after = row.epoch if row is not None else 0
        epoch = next_epoch(after, clock)
        if not await open_row(record, epoch, after, f"{os.getpid()}-{time.monotonic_ns()}"):
            raise RecordError(
                "another process has just opened the engine of this record; servers that share a record need --engine"
            )
        return MemoryEngine(clock, epoch)

    async def close(self) -> None:
        pass


def next_epoch(after: int, clock: Clock) -> int:
    return max(after + 1, clock.now_ms() // 1000)


async def open_row(record: Record, epoch: int, after: int, process: str) -> bool:
    """Records that the engine was opened. False: somebody else was faster."""
    row = EngineRow(id=ENGINE_ID, epoch=epoch, mark=0, process=process, embedded=False)
    return await record.open_engine(row, after_epoch=after)
