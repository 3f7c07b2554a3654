"""Keys with which nodes and people come in from other machines: their digests, never their secrets."""

from __future__ import annotations

from typing import Final

from skep.errors import RefusedError
from skep.record.dialect import Transaction
from skep.record.protocol import KeyRow

_COLUMNS: Final = "id, digest, role, note, created_ms, revoked_ms"
_FIELDS: Final = tuple(_COLUMNS.split(", "))


def put(tx: Transaction, row: KeyRow) -> None:
    """See `Record.put_key`."""
    if any("\0" in text for text in (row.id, row.digest, row.role, row.note)):
        raise RefusedError(f"key {row.id!r} holds a NUL character")
    values = [getattr(row, field) for field in _FIELDS]
    if tx.run(f"INSERT INTO keys ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", *values):
        return
    if tx.one("SELECT id, digest, role, note, created_ms FROM keys WHERE id = ?", row.id) != tuple(values[:5]):
        raise RefusedError(f"key {row.id} or its secret is known already; make another one")


def keys(tx: Transaction) -> list[KeyRow]:
    """See `Record.keys`."""
    rows = tx.all(f"SELECT {_COLUMNS} FROM keys ORDER BY created_ms, id")
    return [KeyRow(**dict(zip(_FIELDS, row, strict=True))) for row in rows]


def revoke(tx: Transaction, id: str, at_ms: int) -> bool:
    """See `Record.revoke_key`."""
    return tx.run("UPDATE keys SET revoked_ms = ? WHERE id = ? AND revoked_ms = 0", at_ms, id) == 1
