"""The table of moves against the Redis engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from skep.clock import ManualClock
from skep.engine.redis import RedisEngine, RedisStore, open_epoch
from skep.model.state import TaskState
from skep.testing.shapes import Driver
from tests.engine.servers import IDS, PROGRAMS, server
from tests.engine.test_moves import INTENTS, STATES, try_move


@pytest.mark.parametrize("program", PROGRAMS, ids=IDS)
@pytest.mark.parametrize("intent", INTENTS, ids=lambda intent: f"{intent[0]} to {intent[1].label} {intent[2]}".rstrip())
async def test_only_what_is_in_the_table_moves(intent: tuple[str, TaskState, str], program: Path) -> None:
    store = await RedisStore.connect(server(program).url)
    for source in STATES:
        clock, name = ManualClock(), f"move {intent} {source}"
        await store.command("DEL", f"{{skep:{name}}}:epoch")
        await open_epoch(store, name, 1)
        await try_move(Driver(RedisEngine(store, name, 1, clock), clock), intent, source)
    await store.close()
