"""A server's parts with a record in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from skep.testing.stage import Stage


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    async with Stage() as made:
        yield made
