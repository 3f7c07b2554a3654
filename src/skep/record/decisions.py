"""Why tasks went where they went: kept with their run, for people who ask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from skep.record.dialect import Bulk, Transaction
from skep.record.protocol import DecisionRow

_ROWS: Final = Bulk("INSERT INTO decisions (run_id, first, last, data)", "text int int bytes")


def keep(tx: Transaction, rows: Sequence[DecisionRow]) -> None:
    """See `Record.keep_decisions`."""
    with tx.savepoint():
        tx.many(_ROWS, [msgspec.structs.astuple(row) for row in rows])


def of_task(tx: Transaction, run: str, task: int, limit: int) -> list[DecisionRow]:
    """See `Record.decisions`."""
    sql = (
        "SELECT run_id, first, last, data FROM decisions WHERE run_id = ? AND first <= ? AND last >= ? ORDER BY id DESC LIMIT ?"
    )
    return [DecisionRow(run, first, last, bytes(data)) for run, first, last, data in tx.all(sql, run, task, task, limit)]
