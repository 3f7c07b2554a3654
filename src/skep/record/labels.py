"""Labels of runs as rows, so that lists by label are read in their order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from skep.record.dialect import Bulk, Row, Transaction

_ADD: Final = Bulk("INSERT INTO run_labels (name, value, accepted_ms, seq)", "text text int int", "ON CONFLICT DO NOTHING")
_REMOVE: Final = Bulk("DELETE FROM run_labels WHERE (name, value, accepted_ms, seq) IN (", "text text int int", ")")


def add_labels(tx: Transaction, runs: Iterable[tuple[int, int, Mapping[str, str]]]) -> None:
    """Of new runs (seq, accepted_ms, labels): each label with its value, and with an empty one, by which those are found that
    have it at all."""
    tx.many(_ADD, _rows(runs))


def _rows(runs: Iterable[tuple[int, int, Mapping[str, str]]]) -> list[Row]:
    return [
        (name, value, accepted_ms, seq)
        for seq, accepted_ms, labels in runs
        for name, full in labels.items()
        for value in (full, "")
    ]


def remove_labels(tx: Transaction, runs: Iterable[tuple[int, int, Mapping[str, str]]]) -> None:
    """Of runs that go."""
    tx.many(_REMOVE, _rows(runs))
