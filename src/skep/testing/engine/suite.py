"""How an engine is made and driven, and the words that the suites share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import cached_property

import pytest_asyncio

from skep.clock import ManualClock
from skep.engine.protocol import (
    OK,
    Engine,
)
from skep.model.run import EXCLUSIVE, Claim, Token
from skep.model.state import TaskState
from skep.testing.shapes import Driver, MovableClock

EPOCH = 1_750_000_000
READY, SUCCEEDED, FAILED, SKIPPED = TaskState.READY, TaskState.SUCCEEDED, TaskState.FAILED, TaskState.SKIPPED
BOGUS = Token(EPOCH, 999_999_999)
LOCK = (Claim("lock", EXCLUSIVE, EXCLUSIVE),)
SHARED = (Claim("lock", 1, EXCLUSIVE),)
SILENT_MS = 10_000
CLAIMS_KEPT_MS = 15_000
"""How long after a lost node's last beat its fleet-wide claims stay taken."""


class Suite:
    """How an engine is made and driven."""

    async def make(self, epoch: int) -> Engine:
        """A fresh engine of that epoch, whose time is `self.clock`."""
        raise NotImplementedError

    @cached_property
    def clock(self) -> MovableClock:
        return ManualClock()

    @pytest_asyncio.fixture
    async def drive(self) -> AsyncIterator[Driver]:
        driver = Driver(await self.make(EPOCH), self.clock)
        assert await driver.node() == OK
        yield driver
        await driver.read()

    async def promote_all(self, drive: Driver) -> int:
        """Promotes until nothing more is due; answers how many calls it took."""
        calls = 1
        while (await drive.engine.promote()).more:
            calls += 1
        return calls
