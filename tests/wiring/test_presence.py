"""Servers sign in the record: whoever leads a rejoin knows which of them live and are not there yet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from skep.clock import ManualClock
from skep.record.sql import SqlRecord
from skep.wiring.presence import ALIVE_MS, FORGET_MS, Presence, late


@pytest.fixture
async def record() -> AsyncIterator[SqlRecord]:
    made = SqlRecord(None, inline=True)
    await made.open()
    yield made
    await made.close()


async def test_a_server_is_late_until_it_serves_the_epoch_or_is_gone(record: SqlRecord) -> None:
    clock = ManualClock()
    assert not await late(record, clock, 5)
    a, b = Presence(record, clock, "a"), Presence(record, clock, "b")
    for server in (a, b):
        server.serves(5)
        await server.run_once()
    assert not await late(record, clock, 5)
    assert await late(record, clock, 6)
    a.serves(6)
    await a.run_once()
    assert await late(record, clock, 6), "the other one still"
    clock.advance(ALIVE_MS - 1)
    await a.run_once()
    assert await late(record, clock, 6)
    clock.advance(1)
    assert not await late(record, clock, 6), "it was killed"


async def test_it_signs_by_itself_and_at_once_for_a_new_epoch(record: SqlRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Presence, "interval_s", 0.01)
    clock = ManualClock()
    server = Presence(record, clock, "a")
    server.serves(5)
    server.start()

    async def until(epoch: int) -> None:
        async with asyncio.timeout(20):
            while (await record.flags()).get("server:a") != f"{epoch} {clock.now_ms()}":  # noqa: ASYNC110  nobody tells
                await asyncio.sleep(0.005)

    await until(5)
    clock.advance(10)
    await until(5)
    monkeypatch.setattr(Presence, "interval_s", 3_600)
    server.serves(6)
    await until(6)
    await server.leave()


async def test_who_leaves_takes_its_sign_along_and_those_of_the_dead(record: SqlRecord) -> None:
    clock = ManualClock()
    for name in ("dead", "a", "b"):
        server = Presence(record, clock, name)
        server.start()
        await server.run_once()
        if name == "dead":
            await server.stop()
            clock.advance(FORGET_MS + 1)
        elif name == "a":
            left = server
    await left.leave()
    await left.leave()
    assert list(await record.flags()) == ["server:b"]
    await server.leave()
    assert not await record.flags()
