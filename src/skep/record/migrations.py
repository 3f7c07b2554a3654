"""How an older record grows: a numbered step from each version to the next, all of them in one transaction."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from skep.errors import RecordError
from skep.record.dialect import Transaction
from skep.record.labels import add_labels
from skep.record.schema import FLEET, LATER, PLACEMENT, RUNS, VERSION, create

log = logging.getLogger(__name__)

_COPIED: Final = (
    "id, engine, workflow, digest, namespace, priority, timeout_ms, idempotency_key, body_digest, state, reason, paused,"
    " loaded, command, task_count, accepted_ms, started_ms, finished_ms, labels, inputs"
)


def _to_2(tx: Transaction) -> None:
    """Runs get a number of their own, to be listed by; tasks remember when they are due and since when their failures count.

    Version 1 was only ever kept in SQLite, so its row numbers may be taken; and nothing of it is waited for any more: every
    recorded command had its effect, or its run was abandoned.
    """
    words = tx.dialect.words
    table, *indexes = RUNS
    tx.tell("ALTER TABLE runs RENAME TO runs_1")
    tx.tell(table.format_map(words))
    tx.tell(f"INSERT INTO runs (seq, applied, {_COPIED}) SELECT rowid, command, {_COPIED} FROM runs_1 ORDER BY rowid")
    tx.tell("DROP TABLE runs_1")
    for statement in (*indexes, *LATER):
        tx.tell(statement.format_map(words))
    for column in ("due_ms", "since"):
        tx.tell(f"ALTER TABLE tasks ADD COLUMN {column} {words['int']}")
    rows = tx.all("SELECT seq, accepted_ms, labels FROM runs")
    add_labels(tx, [(seq, accepted_ms, msgspec.json.decode(labels)) for seq, accepted_ms, labels in rows])


def _to_3(tx: Transaction) -> None:
    """Other machines come in, with keys."""
    for statement in FLEET:
        tx.tell(statement.format_map(tx.dialect.words))


def _to_4(tx: Transaction) -> None:
    """Runs may be unique, and decisions of placement are kept."""
    for statement in PLACEMENT:
        tx.tell(statement.format_map(tx.dialect.words))


MIGRATIONS: Final[Mapping[int, Callable[[Transaction], None]]] = {1: _to_2, 2: _to_3, 3: _to_4}
"""From which version, and what is done."""


def ensure(tx: Transaction) -> None:
    """Creates the tables in an empty database, and brings an older one up to date. Raises RecordError."""
    tx.lock("schema")
    tables = tx.dialect.tables(tx)
    if not tables:
        create(tx)
        return
    row = tx.one("SELECT version FROM record_version") if "record_version" in tables else None
    if row is None:
        raise RecordError("this database has tables but is no Skep record; name another file or directory")
    version = row[0]
    if version > VERSION or (version < VERSION and version not in MIGRATIONS):
        age = "newer" if version > VERSION else "older"
        raise RecordError(
            f"the record has schema version {version}, {age} than version {VERSION} of this Skep. Nothing of it is lost:"
            " run the Skep that wrote it, or use another data directory"
        )
    with tx.savepoint():
        for step in range(version, VERSION):
            log.info("the record grows from schema version %d to %d", step, step + 1)
            MIGRATIONS[step](tx)
        if version < VERSION:
            tx.tell("UPDATE record_version SET version = ?", VERSION)
