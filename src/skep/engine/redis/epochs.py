"""Which epoch of an engine is open, and the removal of what earlier ones left."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from skep.engine.redis.keys import epoch_key, epoch_of, tag
from skep.engine.redis.store import RedisStore
from skep.errors import StaleEpochError

OPEN: Final = """
local open = redis.call("GET", KEYS[1])
if open and tonumber(open) > tonumber(ARGV[1]) then return open end
redis.call("SET", KEYS[1], ARGV[1])
return ARGV[1]
"""
LOOK: Final = 1_000
"""Keys looked at in one call."""


class Swept(NamedTuple):
    """What one call of `sweep` did."""

    removed: int
    cursor: int
    """Where the next call goes on; 0: all was looked at."""


async def open_epoch(store: RedisStore, engine_id: str, epoch: int) -> None:
    """Opens an epoch, which the record has decided on. A repeat does nothing. Raises StaleEpochError if a later one is open."""
    found = int(await store.command("EVAL", OPEN, 1, epoch_key(engine_id), epoch))
    if found != epoch:
        raise StaleEpochError(f"epoch {found} of engine {engine_id} is open already, and {epoch} is older")


async def current_epoch(store: RedisStore, engine_id: str) -> int | None:
    """The epoch that is open; None if the store knows of none."""
    found: Any = await store.command("GET", epoch_key(engine_id))
    return int(found) if found is not None else None


async def sweep(store: RedisStore, engine_id: str, below: int, cursor: int = 0) -> Swept:
    """Unlinks keys of epochs below one, of those that one bounded look finds."""
    found: Any = await store.command("SCAN", cursor, "MATCH", _escaped(tag(engine_id)) + "*", "COUNT", LOOK)
    old = [key for key in found[1] if (epoch := epoch_of(key.decode())) is not None and epoch < below]
    if old:
        await store.command("UNLINK", *old)
    return Swept(len(old), int(found[0]))


def _escaped(text: str) -> str:
    return "".join(f"\\{letter}" if letter in "[]*?\\^" else letter for letter in text)
