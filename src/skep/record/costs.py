"""What attempts and runs cost: the time of an attempt, at what an hour of a slot of its node cost when it was granted.

What an attempt costs follows from its row alone. Its run is told the difference to what was counted before, so a row that
changes again is never counted twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from skep.errors import RefusedError
from skep.record.dialect import Bulk, Transaction

MICRO: Final = 1_000_000
NANO: Final = 1_000_000_000
_HOUR_MS: Final = 3_600_000

_SPENT: Final = Bulk(
    "WITH news (run_id, idx, attempt) AS (",
    "text int int",
    ") SELECT a.run_id, a.idx, a.attempt, COALESCE(a.cost, 0), CASE WHEN a.finished_ms > 0 AND a.price > 0"
    " THEN a.finished_ms - CASE WHEN a.started_ms > 0 THEN a.started_ms ELSE a.granted_ms END ELSE 0 END, a.price"
    " FROM news JOIN attempts a ON a.run_id = news.run_id AND a.idx = news.idx AND a.attempt = news.attempt"
    " WHERE a.price IS NOT NULL",
)
_ATTEMPTS: Final = Bulk(
    "WITH news (run_id, idx, attempt, cost) AS (",
    "text int int int",
    ") UPDATE attempts SET cost = news.cost FROM news"
    " WHERE attempts.run_id = news.run_id AND attempts.idx = news.idx AND attempts.attempt = news.attempt",
)
_RUNS: Final = Bulk(
    "WITH news (id, cost) AS (", "text int", ") UPDATE runs SET cost = runs.cost + news.cost FROM news WHERE runs.id = news.id"
)


def price_of(cost_per_hour: float, slots: int) -> int:
    """Of one slot for an hour, in millionths: a node that is busy with all of its slots costs what it says."""
    return round(cost_per_hour / max(slots, 1) * MICRO)


def prices(tx: Transaction, engine: str) -> dict[str, int]:
    """Of those nodes that ever cost something."""
    return dict(tx.all("SELECT id, price FROM nodes WHERE engine = ? AND price IS NOT NULL", engine))


def set_price(tx: Transaction, engine: str, node: str, price: int, at_ms: int) -> None:
    """A node that was never there stands as retired until an event says that it joined."""
    if "\0" in node:
        raise RefusedError(f"node {node!r} holds a NUL character in its name")
    sql = (
        "INSERT INTO nodes (engine, id, incarnation, state, at_ms, price) VALUES (?, ?, 0, 'retired', ?, ?)"
        " ON CONFLICT (engine, id) DO UPDATE SET price = excluded.price"
    )
    tx.tell(sql, engine, node, at_ms, price)


def spend(tx: Transaction, attempts: Sequence[tuple[str, int, int]]) -> None:
    """Counts what these attempts have cost, as far as it was not counted."""
    changed: list[tuple[str, int, int, int]] = []
    runs: dict[str, int] = {}
    for run, index, attempt, counted, took_ms, price in tx.back(_SPENT, attempts):
        cost = (max(took_ms, 0) * price * (NANO // MICRO) + _HOUR_MS // 2) // _HOUR_MS
        if cost != counted:
            changed.append((run, index, attempt, cost))
            runs[run] = runs.get(run, 0) + cost - counted
    tx.many(_ATTEMPTS, changed)
    tx.many(_RUNS, sorted(runs.items()))
