"""Keys: shown once, kept as digests, good until they are revoked, through whichever process that happens."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator

import pytest

from skep.clock import ManualClock
from skep.errors import NotFoundError, RefusedError
from skep.hub import keys as module
from skep.hub.keys import Keys
from skep.record.sql import SqlRecord


@pytest.fixture
async def record() -> AsyncIterator[SqlRecord]:
    made = SqlRecord(None)
    await made.open()
    yield made
    await made.close()


@pytest.fixture
def keys(record: SqlRecord) -> Keys:
    return Keys(record, ManualClock(1_000))


async def test_a_key_opens_and_only_its_digest_is_kept(keys: Keys, record: SqlRecord) -> None:
    made = await keys.create("node", "for gpu0")
    assert made.key.startswith(f"skep_{made.id}_")
    assert len(made.key.rpartition("_")[2]) == 64, "256 random bits"
    (row,) = await record.keys()
    assert row.digest == hashlib.sha256(made.key.encode()).hexdigest()
    assert made.key.rpartition("_")[2] not in repr(row)
    found = await keys.who(made.key)
    assert found is not None
    assert (found.id, found.role, found.note) == (made.id, "node", "for gpu0")


async def test_no_two_keys_are_the_same(keys: Keys) -> None:
    made = [await keys.create("node") for _ in range(20)]
    assert len({key.id for key in made}) == len({key.key for key in made}) == 20


@pytest.mark.parametrize("change", ["x{}", "{}x", "{}_", "skep_{}", "SKEP{}"])
async def test_what_is_not_quite_the_key_opens_nothing(keys: Keys, change: str) -> None:
    made = await keys.create("admin")
    assert await keys.who(change.format(made.key)) is None


@pytest.mark.parametrize("odd", ["", "skep", "skep__", "skep_0_1", "skep_" + "ä" * 70, "skep_" + "x" * 10_000, "a_b_c\0"])
async def test_what_is_no_key_opens_nothing(keys: Keys, odd: str) -> None:
    await keys.create("admin")
    assert await keys.who(odd) is None


async def test_the_secret_of_one_does_not_open_with_the_id_of_another(keys: Keys) -> None:
    node, admin = await keys.create("node"), await keys.create("admin")
    mixed = f"skep_{admin.id}_{node.key.rpartition('_')[2]}"
    assert await keys.who(mixed) is None


async def test_a_revoked_key_opens_nothing_and_whoever_listens_is_told_once(keys: Keys) -> None:
    told: list[str] = []
    keys.on_revoked = told.append
    made, other = await keys.create("node"), await keys.create("node")
    gone = await keys.revoke(made.id)
    again = await keys.revoke(made.id)
    assert gone.revoked_ms == again.revoked_ms == 1_000
    assert told == [made.id]
    assert await keys.who(made.key) is None
    assert await keys.who(other.key) is not None
    assert [(key.id, bool(key.revoked_ms)) for key in await keys.list()].count((made.id, True)) == 1
    with pytest.raises(NotFoundError, match="skep keys list"):
        await keys.revoke("nope")


async def test_another_process_makes_and_revokes_keys_too(
    keys: Keys, record: SqlRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "AGAIN_S", 0.0)
    elsewhere = Keys(record, ManualClock(2_000))
    assert not keys.any
    made = await elsewhere.create("node")
    assert await keys.who(made.key) is not None, "one that nobody knows is looked for"
    assert keys.any
    told: list[str] = []
    keys.on_revoked = told.append
    await elsewhere.revoke(made.id)
    await keys.loop.run_once()
    assert told == [made.id]
    assert await keys.who(made.key) is None
    assert keys.any, "once there was one, nobody comes in without"
    assert not keys.usable


async def test_keys_that_nobody_has_do_not_make_it_read_the_record_each_time(keys: Keys, record: SqlRecord) -> None:
    await keys.create("node")
    before = (await record.stats())["calls"]
    assert await asyncio.gather(*(keys.who(f"skep_{number}_x") for number in range(100))) == [None] * 100
    assert (await record.stats())["calls"] <= before + 2, "once for all of them, but for this question itself"


@pytest.mark.parametrize(("role", "note"), [("root", ""), ("", ""), ("node", "two\nlines"), ("node", "x" * 201)])
async def test_odd_roles_and_notes_are_refused(keys: Keys, role: str, note: str) -> None:
    with pytest.raises(RefusedError):
        await keys.create(role, note)
    assert await keys.list() == []
