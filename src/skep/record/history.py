"""How attempts of the latest runs went: what placement learns from when it begins."""

from __future__ import annotations

from typing import Final

from skep.record.dialect import Transaction
from skep.record.protocol import PastAttempt

RUNS: Final = 4_000
"""The latest runs that are looked at."""
AT_ONCE: Final = 200
STATES: Final = ("succeeded", "failed", "cancelled", "snoozed", "lost", "running")


def past_attempts(tx: Transaction, engine: str, limit: int) -> list[PastAttempt]:
    """See `Record.past_attempts`."""
    sql = "SELECT id, digest, engine, state FROM runs ORDER BY accepted_ms DESC, seq DESC LIMIT ?"
    runs = {id: (digest, owner == engine and state < 3) for id, digest, owner, state in tx.all(sql, RUNS)}
    ids, found = list(runs), list[PastAttempt]()
    for start in range(0, len(ids), AT_ONCE):
        if len(found) >= limit:
            break
        found += reversed(_of_runs(tx, runs, ids[start : start + AT_ONCE], limit - len(found)))
    return found[::-1]


def _of_runs(tx: Transaction, runs: dict[str, tuple[str, bool]], ids: list[str], limit: int) -> list[PastAttempt]:
    parent = "SELECT e.parent FROM expansions e WHERE e.run_id = a.run_id AND e.first <= a.idx AND a.idx < e.first + e.count"
    sql = (
        f"SELECT a.run_id, a.idx, ({parent}), a.attempt, a.node, a.state, a.granted_ms, a.started_ms, a.finished_ms"
        f" FROM attempts a WHERE a.run_id IN ({', '.join('?' * len(ids))}) AND a.node <> '' LIMIT ?"
    )
    found = []
    for run, task, above, attempt, node, state, granted_ms, started_ms, finished_ms in tx.all(sql, *ids, limit):
        digest, goes_on = runs[run]
        if state not in STATES or (state == "running" and not goes_on):
            continue
        since_ms = started_ms or granted_ms or 0
        ran_ms = max((finished_ms or since_ms) - since_ms, 0)
        above = -1 if above is None else above
        found.append(PastAttempt(run, digest, task, above, attempt, node, state, since_ms, ran_ms))
    return sorted(found, key=lambda past: past.since_ms)
