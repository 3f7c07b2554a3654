"""Retention: whole ended runs, expired state, node events as old as those runs, and artifacts that nobody refers to."""

from __future__ import annotations

from typing import Final

from skep.record.artifacts import Files
from skep.record.dialect import Transaction
from skep.record.schema import OF_A_RUN

ORPHAN_MS: Final = 86_400_000
"""How long an artifact without a run is kept."""


def prune(tx: Transaction, files: Files, *, ended_before_ms: int, now_ms: int, limit: int) -> int:
    with tx.savepoint():
        sql = "SELECT id, digest FROM runs WHERE state >= 3 AND finished_ms < ? ORDER BY finished_ms LIMIT ?"
        ended = tx.all(sql, ended_before_ms, limit)
        for id, _ in ended:
            for table in OF_A_RUN:
                tx.run(f"DELETE FROM {table} WHERE run_id = ?", id)
            tx.run("DELETE FROM runs WHERE id = ?", id)
        for digest in {digest for _, digest in ended}:
            sql = (
                "DELETE FROM definitions WHERE digest = ? AND NOT EXISTS (SELECT 1 FROM runs WHERE digest = definitions.digest)"
            )
            tx.run(sql, digest)
        tx.run("DELETE FROM events WHERE run_id = '' AND at_ms < ?", ended_before_ms)
        tx.run("DELETE FROM values_kept WHERE expires_ms > 0 AND expires_ms <= ?", now_ms)
        sql = (
            "DELETE FROM artifacts WHERE touched_ms <= ?"
            " AND NOT EXISTS (SELECT 1 FROM artifact_runs WHERE artifact = artifacts.id) RETURNING id"
        )
        for (artifact,) in tx.all(sql, now_ms - ORPHAN_MS):
            files.remove(artifact)
        files.sweep(now_ms - ORPHAN_MS)
    return len(ended)
