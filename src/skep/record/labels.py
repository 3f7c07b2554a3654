"""Labels of runs as rows, so that lists by label are read in their order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from skep.record.dialect import Bulk, Transaction

_ADD: Final = Bulk("INSERT INTO run_labels (name, value, accepted_ms, seq)", "text text int int", "ON CONFLICT DO NOTHING")


def add_labels(tx: Transaction, runs: Iterable[tuple[int, int, Mapping[str, str]]]) -> None:
    """Of new runs (seq, accepted_ms, labels): each label with its value, and with an empty one, by which those are found that
    have it at all."""
    rows = [
        (name, value, accepted_ms, seq)
        for seq, accepted_ms, labels in runs
        for name, full in labels.items()
        for value in (full, "")
    ]
    tx.many(_ADD, rows)


def remove_labels(tx: Transaction, seq: int, accepted_ms: int, labels: Mapping[str, str]) -> None:
    for name, full in labels.items():
        for value in {full, ""}:
            sql = "DELETE FROM run_labels WHERE name = ? AND value = ? AND accepted_ms = ? AND seq = ?"
            tx.tell(sql, name, value, accepted_ms, seq)
