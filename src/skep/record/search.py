"""Search: runs whose id begins with a text, or whose workflow's name or a label's value holds it, in small or capital letters.

Names and values are few beside the runs that bear them, so they are looked through first, one by one in their indexes, and the
runs found by those that match. Where there are more of them than `DISTINCT` (a commit's hash in a label of every run), the list
is looked through instead, from the newest run on. A text of eight characters or more that begins an id means that id alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import msgspec

from skep.record.dialect import Transaction

DISTINCT: Final = 1_000
"""Names of workflows, and values of labels, that are looked through."""
IDS: Final = 2_000
"""Ids that are gathered; a beginning that more of them share is left to the list."""
SURE: Final = 8
"""So many characters that begin an id are no word."""

_LABELS: Final = msgspec.json.Decoder(dict[str, str])


class Hits(NamedTuple):
    """Where the runs that match are."""

    whole: bool
    """False: there are too many places; look through the list."""
    ids: bool = False
    workflows: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    """(name, value)."""


def matches(text: str, id: str, workflow: str, labels: bytes) -> bool:
    """Whether a run is found by the text. Pure."""
    folded = text.casefold()
    if id.startswith(folded) or folded in workflow.casefold():
        return True
    return labels != b"{}" and any(folded in value.casefold() for value in _LABELS.decode(labels).values())


def bounds(prefix: str) -> tuple[str, str]:
    """Ids that begin so stand at or after the first and before the second: compared by code points, as SQLite does."""
    return prefix, prefix + "\U0010ffff"


def find(tx: Transaction, text: str) -> Hits:
    """Where to find what matches the text."""
    folded = text.casefold()
    row = tx.one(f"SELECT COUNT(*) FROM (SELECT 1 FROM runs WHERE id >= ? AND id < ? LIMIT {IDS}) AS few", *bounds(folded))
    ids = row[0] if row else 0
    if ids and len(text) >= SURE:
        return Hits(ids < IDS, ids=True)
    looked = 0
    workflows: list[str] = []
    labels: list[tuple[str, str]] = []
    for name in _distinct(tx, "SELECT MIN(workflow) FROM runs WHERE workflow > ?"):
        looked += 1
        if folded in name.casefold():
            workflows.append(name)
        if looked > DISTINCT:
            return Hits(False)
    for name in _distinct(tx, "SELECT MIN(name) FROM run_labels WHERE name > ?"):
        for value in _distinct(tx, "SELECT MIN(value) FROM run_labels WHERE name = ? AND value > ?", name):
            looked += 1
            if folded in value.casefold():
                labels.append((name, value))
            if looked > DISTINCT:
                return Hits(False)
    return Hits(ids < IDS, ids > 0, tuple(workflows), tuple(labels))


def _distinct(tx: Transaction, sql: str, *values: str) -> Iterator[str]:
    """The values of an indexed column, each once: a step of the index for each, however many rows have it."""
    last = ""
    while (row := tx.one(sql, *values, last)) and row[0] is not None:
        last = row[0]
        yield last
