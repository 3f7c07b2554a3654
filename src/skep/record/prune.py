"""Retention: whole ended runs, and what is old of everything else. In steps, so that nobody waits long for the writer.

A run goes in two steps. The first takes its row and notes it in `pruned`: from then on nobody sees it. What it has elsewhere
goes a few thousand rows at a time; a process that ends meanwhile leaves the note, and the next goes on from there.
"""

from __future__ import annotations

from typing import Final

import msgspec

from skep.record import chunks
from skep.record.artifacts import Files
from skep.record.definitions import forget_unused
from skep.record.dialect import Transaction
from skep.record.labels import remove_labels
from skep.record.schema import KEYS

DAY_MS: Final = 86_400_000
ORPHAN_MS: Final = DAY_MS
"""How long an artifact without a run is kept."""
SIGNAL_MS: Final = 7 * DAY_MS
NODE_MS: Final = 7 * DAY_MS
"""How long a node that has left is remembered."""
ROWS: Final = 2_000
"""Rows that one step deletes of a table."""


def take_runs(tx: Transaction, ended_before_ms: int, limit: int) -> int:
    """Deletes the rows of ended runs, oldest first, but for children whose parents go on. Answers how many."""
    tx.lock("prune")
    tx.lock("definitions")
    with tx.savepoint():
        sql = (
            "SELECT seq, id, digest, accepted_ms, labels FROM runs r WHERE state >= 3 AND finished_ms < ? AND NOT EXISTS"
            " (SELECT 1 FROM runs p WHERE p.id = r.parent_run AND p.state < 3) ORDER BY finished_ms LIMIT ?"
        )
        ended = tx.all(sql, ended_before_ms, limit)
        for seq, id, _, accepted_ms, labels in ended:
            tx.tell("DELETE FROM runs WHERE seq = ?", seq)
            remove_labels(tx, seq, accepted_ms, msgspec.json.decode(labels))
            tx.tell("INSERT INTO pruned (run_id) VALUES (?) ON CONFLICT DO NOTHING", id)
        forget_unused(tx, [digest for _, _, digest, _, _ in ended])
    return len(ended)


def sweep(tx: Transaction) -> bool:
    """One step of what deleted runs left behind. False when nothing is left."""
    tx.lock("prune")
    with tx.savepoint():
        left = ROWS
        for (run,) in tx.all("SELECT run_id FROM pruned ORDER BY run_id LIMIT ?", ROWS):
            for table, key in KEYS.items():
                # Up to the key of the row after the last that goes; all, when there is none.
                bound = tx.one(f"SELECT {key} FROM {table} WHERE run_id = ? ORDER BY {key} LIMIT 1 OFFSET ?", run, left)
                if bound:
                    marks = ", ".join("?" * len(bound))
                    tx.tell(f"DELETE FROM {table} WHERE run_id = ? AND ({key}) < ({marks})", run, *bound)
                    return True
                left -= tx.run(f"DELETE FROM {table} WHERE run_id = ?", run)
            tx.tell("DELETE FROM pruned WHERE run_id = ?", run)
            if left <= 0:
                return True
    return False


def age(tx: Transaction, *, ended_before_ms: int, now_ms: int) -> bool:
    """One step of what is too old by itself: events of nodes, sent events, nodes that left, expired state. False: no more."""
    tx.lock("prune")
    with tx.savepoint():
        gone = 0
        for (engine,) in tx.all("SELECT id FROM engines"):
            sql = (
                "DELETE FROM events WHERE run_id = ? AND (epoch, first) IN"
                " (SELECT epoch, first FROM events WHERE run_id = ? AND at_ms < ? LIMIT ?)"
            )
            gone = max(gone, tx.run(sql, engine, engine, ended_before_ms, ROWS))
        sql = "DELETE FROM signals WHERE id IN (SELECT id FROM signals WHERE at_ms < ? LIMIT ?)"
        gone = max(gone, tx.run(sql, now_ms - SIGNAL_MS, ROWS))
        sql = (
            "DELETE FROM values_kept WHERE (namespace, name) IN"
            " (SELECT namespace, name FROM values_kept WHERE expires_ms > 0 AND expires_ms <= ? LIMIT ?)"
        )
        gone = max(gone, tx.run(sql, now_ms, ROWS))
        tx.tell("DELETE FROM nodes WHERE state <> 'live' AND at_ms < ?", now_ms - NODE_MS)
    return gone >= ROWS


def orphans(tx: Transaction, files: Files | None, now_ms: int) -> bool:
    """One step of artifacts that no run has referred to for a day; without `files` they are rows. False: no more."""
    tx.lock("prune")
    with tx.savepoint():
        sql = (
            "DELETE FROM artifacts WHERE id IN (SELECT id FROM artifacts WHERE touched_ms <= ? AND NOT EXISTS"
            " (SELECT 1 FROM artifact_runs WHERE artifact = artifacts.id) LIMIT ?) RETURNING id"
        )
        gone = tx.all(sql, now_ms - ORPHAN_MS, ROWS)
        if files is None:
            chunks.remove(tx, [artifact for (artifact,) in gone])
        else:
            for (artifact,) in gone:
                files.remove(artifact)
    if files is not None and len(gone) < ROWS:
        files.sweep(now_ms - ORPHAN_MS)
    return len(gone) >= ROWS
