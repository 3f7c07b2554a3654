"""Keys: stored once, listed, revoked once."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from skep.errors import RefusedError
from skep.record.protocol import KeyRow
from skep.record.sql import SqlRecord

ONE = KeyRow(id="k1", digest="d1", role="node", note="of the lab", created_ms=10)
TWO = KeyRow(id="k2", digest="d2", role="admin", note="", created_ms=5)


async def test_keys_are_listed_the_oldest_first(record: SqlRecord) -> None:
    assert await record.keys() == []
    await record.put_key(ONE)
    await record.put_key(TWO)
    assert await record.keys() == [TWO, ONE]


async def test_the_same_key_again_is_as_once_and_another_is_refused(record: SqlRecord) -> None:
    await record.put_key(ONE)
    await record.put_key(ONE)
    for other in (KeyRow(id="k1", digest="d9", role="node", note="", created_ms=10), replace(ONE, id="k9")):
        with pytest.raises(RefusedError, match="known already"):
            await record.put_key(other)
    with pytest.raises(RefusedError, match="NUL"):
        await record.put_key(replace(TWO, note="a\0b"))
    assert await record.keys() == [ONE]


async def test_a_key_is_revoked_once(record: SqlRecord) -> None:
    await record.put_key(ONE)
    assert not await record.revoke_key("none", 20)
    assert await record.revoke_key("k1", 20)
    assert not await record.revoke_key("k1", 30)
    assert [key.revoked_ms for key in await record.keys()] == [20]
    await record.put_key(ONE)
    assert [key.revoked_ms for key in await record.keys()] == [20], "it does not come back"
