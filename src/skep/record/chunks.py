"""Artifacts as rows of 1 MiB, for a record that several machines share.

The row of the artifact is committed first, then its chunks, a few in each transaction. One whose chunks are not all there yet
is no artifact for a reader. Pruning deletes all of it in one transaction, so that a writer which comes then begins anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from skep.errors import NotFoundError, RecordError
from skep.record.artifacts import artifact_id
from skep.record.dialect import Transaction

CHUNK: Final = 1 << 20
"""Bytes."""
AT_ONCE: Final = 4
"""Chunks in one call, which others wait for."""


def missing(tx: Transaction, artifact: str, size: int) -> list[int]:
    """Chunks that are not there yet, by number."""
    there = {n for (n,) in tx.all("SELECT n FROM artifact_chunks WHERE id = ?", artifact)}
    return [n for n in range(-(-size // CHUNK)) if n not in there]


def put(tx: Transaction, artifact: str, data: bytes, numbers: Sequence[int]) -> None:
    for n in numbers:
        part = data[n * CHUNK : (n + 1) * CHUNK]
        tx.tell("INSERT INTO artifact_chunks (id, n, data) VALUES (?, ?, ?) ON CONFLICT DO NOTHING", artifact, n, part)


def get(tx: Transaction, artifact: str) -> bytes:
    """Raises NotFoundError; RecordError for one that is damaged."""
    row = tx.one("SELECT size FROM artifacts WHERE id = ?", artifact)
    data = b"".join(part for (part,) in tx.each("SELECT data FROM artifact_chunks WHERE id = ? ORDER BY n", artifact))
    if row is None or len(data) < row[0]:
        raise NotFoundError(f"there is no artifact {artifact}")
    if artifact_id(data) != artifact:
        raise RecordError(f"artifact {artifact} is damaged in the database; restore it from a backup")
    return data


def remove(tx: Transaction, artifacts: Sequence[str]) -> None:
    for artifact in artifacts:
        tx.tell("DELETE FROM artifact_chunks WHERE id = ?", artifact)
