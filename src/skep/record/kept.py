"""What lease holders keep in the record: shared state, checkpoints, logs. Fenced by the token of their lease."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Final

from skep.errors import ConflictError, RefusedError, SupersededError
from skep.model.node import LogChunk
from skep.record.dialect import Bulk, Row, Transaction
from skep.record.protocol import Fence, StateValue

FEW_TASKS: Final = 200
"""So many tasks' logs are read by the task; those of more by the run."""


def raise_fence(tx: Transaction, fence: Fence) -> None:
    """Raises the task's fence row to the token. Raises SupersededError for a token below it.

    A call that is refused later for another reason leaves the fence raised: that the token is the newest stays true.
    """
    sql = (
        "INSERT INTO fences (run_id, idx, epoch, n) VALUES (?, ?, ?, ?) ON CONFLICT (run_id, idx) DO UPDATE"
        " SET epoch = excluded.epoch, n = excluded.n WHERE (excluded.epoch, excluded.n) >= (fences.epoch, fences.n)"
    )
    if not tx.run(sql, fence.run, fence.task, fence.token.epoch, fence.token.n):
        raise SupersededError(f"token {fence.token} of task {fence.task} in run {fence.run}: a newer attempt took its place")


def get_state(tx: Transaction, namespace: str, key: str, now_ms: int, fence: Fence | None = None) -> StateValue | None:
    if fence is not None:
        raise_fence(tx, fence)
    row = tx.one("SELECT value, version, expires_ms FROM values_kept WHERE namespace = ? AND name = ?", namespace, key)
    return StateValue(*row) if row and not _expired(row[2], now_ms) else None


def put_state(
    tx: Transaction,
    namespace: str,
    key: str,
    value: bytes,
    *,
    now_ms: int,
    ttl_ms: int,
    expect: int | None = None,
    fence: Fence | None = None,
) -> int:
    if "\0" in key or "\0" in namespace:
        raise RefusedError(f"state key {key!r} holds a NUL character")
    if fence is not None:
        raise_fence(tx, fence)
    tx.lock("state", namespace, key)
    row = tx.one("SELECT version, expires_ms FROM values_kept WHERE namespace = ? AND name = ?", namespace, key)
    stored = row[0] if row else 0
    version = 0 if row and _expired(row[1], now_ms) else stored
    if expect is not None and expect != version:
        raise ConflictError(f"state {key!r} has version {version}, expected {expect}; read it again")
    # Counted on over an expired value, so that a version seen before is not met again with another value.
    sql = (
        "INSERT INTO values_kept (namespace, name, value, version, expires_ms) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (namespace, name) DO UPDATE"
        " SET value = excluded.value, version = excluded.version, expires_ms = excluded.expires_ms"
    )
    tx.tell(sql, namespace, key, value, stored + 1, now_ms + ttl_ms if ttl_ms else 0)
    return int(stored + 1)


def _expired(expires_ms: int, now_ms: int) -> bool:
    return 0 < expires_ms <= now_ms


def save_checkpoint(tx: Transaction, fence: Fence, data: bytes, at_ms: int) -> None:
    raise_fence(tx, fence)
    sql = (
        "INSERT INTO checkpoints (run_id, idx, data, at_ms) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (run_id, idx) DO UPDATE SET data = excluded.data, at_ms = excluded.at_ms"
    )
    tx.tell(sql, fence.run, fence.task, data, at_ms)


def load_checkpoint(tx: Transaction, fence: Fence) -> bytes | None:
    raise_fence(tx, fence)
    row = tx.one("SELECT data FROM checkpoints WHERE run_id = ? AND idx = ?", fence.run, fence.task)
    return bytes(row[0]) if row else None


_LOGS: Final = Bulk(
    "INSERT INTO logs (run_id, idx, attempt, stream, start, at_ms, data)",
    "text int int text int int bytes",
    "ON CONFLICT (run_id, idx, attempt, stream, start) DO NOTHING",
)


def append_logs(tx: Transaction, chunks: Sequence[LogChunk]) -> None:
    # Those of one run come in the order of their ids, or one who reads on from a position would miss what is before it.
    for run in sorted({chunk.run for chunk in chunks}):
        tx.lock("logs", run)
    with tx.savepoint():
        tx.many(_LOGS, [(c.run, c.task, c.attempt, c.stream, c.offset, c.at_ms, c.data) for c in chunks])


def logs(
    tx: Transaction, run: str, task: int, attempt: int | None = None, *, after: int = 0, limit: int = 1_000
) -> list[LogChunk]:
    one = "" if attempt is None else "AND attempt = ?"
    sql = (
        f"SELECT run_id, idx, attempt, stream, start, at_ms, data FROM logs WHERE run_id = ? AND idx = ? {one}"
        " ORDER BY id + 0 LIMIT ? OFFSET ?"
    )
    return [LogChunk(*row) for row in tx.all(sql, run, task, *(() if attempt is None else (attempt,)), limit, after)]


def log_stream(
    tx: Transaction, run: str, tasks: Sequence[int], attempt: int | None, after: int, limit: int
) -> list[tuple[int, LogChunk]]:
    select = "SELECT id, run_id, idx, attempt, stream, start, at_ms, data FROM logs WHERE run_id = ?"
    one, attempts = ("", ()) if attempt is None else (" AND attempt = ?", (attempt,))
    if 0 < len(tasks) <= FEW_TASKS:
        # The tasks' own rows are sorted: as a sum the id is in no index, so the one by tasks is taken.
        sql = f"{select} AND idx IN ({', '.join('?' * len(tasks))}) AND id + 0 > ?{one} ORDER BY id + 0 LIMIT ?"
        rows: Iterable[Row] = tx.all(sql, run, *tasks, after, *attempts, limit)
    else:
        wanted = set(tasks)
        every = tx.each(f"{select} AND id > ?{one} ORDER BY id", run, after, *attempts)
        rows = islice((row for row in every if not wanted or row[2] in wanted), limit)
    return [(position, LogChunk(*row)) for position, *row in rows]
