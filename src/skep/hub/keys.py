"""Keys: who comes in from other machines. What is kept of a key is its digest; the key itself is shown once."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import math
import secrets
from collections.abc import Callable
from typing import Final

from skep.clock import Clock
from skep.errors import NotFoundError, RefusedError
from skep.loop import Loop
from skep.model.views import KeyView, NewKey
from skep.record.protocol import KeyRow, Record

ADMIN: Final = "admin"
"""May do everything."""
NODE: Final = "node"
"""May be a node, and nothing else."""
ROLES: Final = (ADMIN, NODE)
PREFIX: Final = "skep"
REFRESH_S: Final = 2.0
"""Between two looks at the record: so long at most a key that was revoked through another process still works."""
AGAIN_S: Final = 1.0
"""Between two looks because of keys that nobody knows."""
LONGEST: Final = 200
"""Characters of a key, and of a note."""


class Keys:
    """The noun of the hub, and the judge of what comes in."""

    def __init__(self, record: Record, clock: Clock) -> None:
        self._record = record
        self._clock = clock
        self._rows: dict[str, KeyRow] = {}
        self._read_s = -math.inf
        self.loop = Loop(self._refresh, "keys")
        """Reads them again and again; to be run where something listens to the network."""
        self.loop.interval_s = REFRESH_S
        self.on_revoked: Callable[[str], None] = lambda id: None
        """Told of every key that has ceased to be good."""

    @property
    def any(self) -> bool:
        """Whether a key was ever made: from then on nobody comes in over the network without one."""
        return bool(self._rows)

    @property
    def usable(self) -> bool:
        """Whether there is one that is good."""
        return any(not row.revoked_ms for row in self._rows.values())

    # -- the noun

    async def create(self, role: str, note: str = "") -> NewKey:
        """Makes a key. Raises RefusedError."""
        if role not in ROLES:
            raise RefusedError(f"there is no role {role[:40]!r}; expected {' or '.join(ROLES)}")
        if len(note) > LONGEST or not (note.isprintable() or not note):
            raise RefusedError(f"a note is one line of at most {LONGEST} characters")
        id = secrets.token_hex(4)
        key = f"{PREFIX}_{id}_{secrets.token_hex(32)}"
        row = KeyRow(id=id, digest=digest(key), role=role, note=note, created_ms=self._clock.now_ms())
        await self._record.put_key(row)
        await self.refresh()
        return NewKey(key=key, id=id, role=role, note=note, created_ms=row.created_ms)

    async def list(self) -> list[KeyView]:
        """All of them, also those that were revoked, the oldest first."""
        await self.refresh()
        return [_view(row) for row in self._rows.values()]

    async def revoke(self, id: str) -> KeyView:
        """From now on it opens nothing, and what it has opened is closed. Harmless when repeated. Raises NotFoundError."""
        await self._record.revoke_key(id, self._clock.now_ms())
        await self.refresh()
        row = self._rows.get(id)
        if row is None:
            raise NotFoundError(f"there is no key {id[:40]!r}; `skep keys list` shows them")
        return _view(row)

    # -- the judge

    async def who(self, key: str) -> KeyRow | None:
        """Whose key this is; None when it is nobody's, or was revoked."""
        row = self._find(key)
        if row is None:  # it may have been made through another process a moment ago
            clock = asyncio.get_running_loop().time
            asked_s = clock()
            await asyncio.sleep(max(0.0, self._read_s + AGAIN_S - asked_s))
            if self._read_s <= asked_s:
                await self.refresh()
            row = self._find(key)
        return row

    def _find(self, key: str) -> KeyRow | None:
        if len(key) > LONGEST or not key.isascii():
            return None
        found = digest(key)
        parts = key.split("_")
        row = self._rows.get(parts[1]) if len(parts) == 3 and parts[0] == PREFIX else None
        same = hmac.compare_digest(found, row.digest if row is not None else digest(""))
        return row if row is not None and same and not row.revoked_ms else None

    async def refresh(self) -> None:
        """Reads them now."""
        self._read_s = asyncio.get_running_loop().time()
        before = self._rows
        self._rows = {row.id: row for row in await self._record.keys()}
        for id, row in before.items():
            now = self._rows.get(id)
            if not row.revoked_ms and (now is None or now.revoked_ms):
                self.on_revoked(id)

    async def _refresh(self) -> bool:
        await self.refresh()
        return False


def digest(key: str) -> str:
    """What is kept of a key. It has 256 random bits: a slow hash would add nothing."""
    return hashlib.sha256(key.encode()).hexdigest()


def _view(row: KeyRow) -> KeyView:
    return KeyView(id=row.id, role=row.role, note=row.note, created_ms=row.created_ms, revoked_ms=row.revoked_ms or None)
