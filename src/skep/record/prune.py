"""Retention: whole ended runs, and what is old of everything else. In steps, so that nobody waits long for the writer.

A run goes in two steps. The first takes its row and notes it in `pruned`: from then on nobody sees it. What it has elsewhere
goes a few thousand rows at a time; a process that ends meanwhile leaves the note, and the next goes on from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from skep.record import chunks
from skep.record.artifacts import Files
from skep.record.definitions import forget_unused
from skep.record.dialect import Bulk, Transaction
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


MANY: Final = (100, 10)
"""Runs whose rows go in one step, if they have few."""

# What a row is deleted for is said of the row itself too: PostgreSQL looks at that again when another server changed it
# meanwhile, as a run that is retried, but not at what a subquery or an earlier statement found.
_TAKEN: Final = Bulk("DELETE FROM runs WHERE state >= 3 AND seq IN (", "int", ") RETURNING seq")
_NOTED: Final = Bulk("INSERT INTO pruned (run_id)", "text", "ON CONFLICT DO NOTHING")


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
        gone = {seq for (seq,) in tx.back(_TAKEN, [(seq,) for seq, *_ in ended])}
        ended = [row for row in ended if row[0] in gone]
        remove_labels(tx, [(seq, accepted_ms, msgspec.json.decode(labels)) for seq, _, _, accepted_ms, labels in ended])
        tx.many(_NOTED, [(id,) for _, id, *_ in ended])
        forget_unused(tx, [digest for _, _, digest, _, _ in ended])
    return len(ended)


def sweep(tx: Transaction) -> bool:
    """One step of what deleted runs left behind. False when nothing is left."""
    tx.lock("prune")
    with tx.savepoint():
        going = [run for (run,) in tx.all("SELECT run_id FROM pruned ORDER BY run_id LIMIT ?", MANY[0])]
        if not going:
            return False
        if not any(_sweep_small(tx, going[:many]) for many in MANY):
            _sweep_large(tx, going[0])
    return True


def _sweep_small(tx: Transaction, runs: Sequence[str]) -> bool:
    """All that these runs have, if that is no more than one step may delete."""
    some = f"run_id IN ({', '.join('?' * len(runs))})"
    left = ROWS
    for table in KEYS:
        row = tx.one(f"SELECT COUNT(*) FROM (SELECT 1 FROM {table} WHERE {some} LIMIT ?) AS few", *runs, left + 1)
        left -= row[0] if row else 0
        if left < 0:
            return False
    for table in (*KEYS, "pruned"):
        tx.tell(f"DELETE FROM {table} WHERE {some}", *runs)
    return True


def _sweep_large(tx: Transaction, run: str) -> None:
    """The next rows of a run that has many."""
    left = ROWS
    for table, key in KEYS.items():
        # Up to the key of the row after the last that goes; all, when there is none.
        bound = tx.one(f"SELECT {key} FROM {table} WHERE run_id = ? ORDER BY {key} LIMIT 1 OFFSET ?", run, left)
        if bound:
            tx.tell(f"DELETE FROM {table} WHERE run_id = ? AND ({key}) < ({', '.join('?' * len(bound))})", run, *bound)
            return
        left -= tx.run(f"DELETE FROM {table} WHERE run_id = ?", run)
    tx.tell("DELETE FROM pruned WHERE run_id = ?", run)


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
            "DELETE FROM values_kept WHERE expires_ms > 0 AND expires_ms <= ? AND (namespace, name) IN"
            " (SELECT namespace, name FROM values_kept WHERE expires_ms > 0 AND expires_ms <= ? LIMIT ?)"
        )
        gone = max(gone, tx.run(sql, now_ms, now_ms, ROWS))
        tx.tell("DELETE FROM nodes WHERE state <> 'live' AND at_ms < ?", now_ms - NODE_MS)
    return gone >= ROWS


def orphans(tx: Transaction, files: Files | None, now_ms: int) -> bool:
    """One step of artifacts that no run has referred to for a day; without `files` they are rows. False: no more."""
    tx.lock("prune")
    with tx.savepoint():
        sql = (
            "DELETE FROM artifacts WHERE touched_ms <= ? AND id IN"
            " (SELECT id FROM artifacts WHERE touched_ms <= ? AND NOT EXISTS"
            " (SELECT 1 FROM artifact_runs WHERE artifact = artifacts.id) LIMIT ?) RETURNING id"
        )
        gone = tx.all(sql, now_ms - ORPHAN_MS, now_ms - ORPHAN_MS, ROWS)
        if files is None:
            chunks.remove(tx, [artifact for (artifact,) in gone])
        else:
            for (artifact,) in gone:
                files.remove(artifact)
    if files is not None and len(gone) < ROWS:
        files.sweep(now_ms - ORPHAN_MS)
    return len(gone) >= ROWS
