"""Which epoch of an engine is open, and the removal of what earlier ones left."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from skep.engine.redis.keys import epoch_key, epoch_of, schema_key, tag
from skep.engine.redis.store import RedisStore
from skep.errors import SkepError, StaleEpochError
from skep.version import VERSION

SCHEMA: Final = 1
"""Of the keys and what lies in them. Servers one apart work together: who brings the next one still writes this one as long as
an epoch of it is open. Raise it with every change that an older server would misread."""
OPEN: Final = """
local open = redis.call("GET", KEYS[1])
if open and tonumber(open) > tonumber(ARGV[1]) then return open end
redis.call("SET", KEYS[1], ARGV[1])
redis.call("SET", KEYS[2], ARGV[2])
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
    found = int(await store.command("EVAL", OPEN, 2, epoch_key(engine_id), schema_key(engine_id), epoch, SCHEMA))
    if found != epoch:
        raise StaleEpochError(f"epoch {found} of engine {engine_id} is open already, and {epoch} is older")


async def current_epoch(store: RedisStore, engine_id: str) -> int | None:
    """The epoch that is open; None if the store knows of none. Raises SkepError when another version of Skep opened it."""
    found: Any = await store.command("MGET", epoch_key(engine_id), schema_key(engine_id))
    schema = int(found[1] or SCHEMA)
    if abs(schema - SCHEMA) > 1:
        raise SkepError(
            f"the engine in {store.where} has key schema {schema}, this Skep ({VERSION}) has {SCHEMA}: update the older servers"
            " step by step, or stop all of them and start them anew"
        )
    return int(found[0]) if found[0] is not None else None


async def sweep(store: RedisStore, engine_id: str, below: int, cursor: int = 0) -> Swept:
    """Unlinks keys of epochs below one, of those that one bounded look finds."""
    found: Any = await store.command("SCAN", cursor, "MATCH", _escaped(tag(engine_id)) + "*", "COUNT", LOOK)
    old = [key for key in found[1] if (epoch := epoch_of(key.decode())) is not None and epoch < below]
    if old:
        await store.command("UNLINK", *old)
    return Swept(len(old), int(found[0]))


def _escaped(text: str) -> str:
    return "".join(f"\\{letter}" if letter in "[]*?\\^" else letter for letter in text)
