"""Stored schedules. Whoever fires one moves it on by compare-and-set, so that two never decide on the same time."""

from __future__ import annotations

from typing import Final

from skep.errors import NotFoundError, RefusedError
from skep.record.dialect import Row, Transaction
from skep.record.protocol import ScheduleRow

_SELECT: Final = "SELECT namespace, name, spec, paused, fired_ms, next_ms, made_ms, version FROM schedules"


def _row(row: Row) -> ScheduleRow:
    namespace, name, spec, paused, fired_ms, next_ms, made_ms, version = row
    return ScheduleRow(
        namespace=namespace,
        name=name,
        spec=spec,
        paused=bool(paused),
        fired_ms=fired_ms,
        next_ms=next_ms,
        made_ms=made_ms,
        version=version,
    )


def put(tx: Transaction, namespace: str, name: str, spec: bytes, next_ms: int, at_ms: int) -> ScheduleRow:
    """A schedule that is replaced stays paused if it was, and keeps when it last fired and when it was made."""
    if "\0" in namespace + name:
        raise RefusedError(f"schedule {name!r} holds a NUL character in its name")
    sql = (
        "INSERT INTO schedules (namespace, name, spec, paused, fired_ms, next_ms, made_ms, version)"
        " VALUES (?, ?, ?, 0, 0, ?, ?, 1)"
        " ON CONFLICT (namespace, name) DO UPDATE SET spec = excluded.spec, next_ms = excluded.next_ms,"
        " version = schedules.version + 1"
    )
    tx.tell(sql, namespace, name, spec, next_ms, at_ms)
    return one(tx, namespace, name)


def listed(tx: Transaction, namespace: str, due_ms: int) -> list[ScheduleRow]:
    where = "1 = 1"
    values: list[str | int] = []
    if namespace:
        where += " AND namespace = ?"
        values.append(namespace)
    if due_ms:
        where += " AND paused = 0 AND next_ms > 0 AND next_ms <= ?"
        values.append(due_ms)
    return [_row(row) for row in tx.all(f"{_SELECT} WHERE {where} ORDER BY name, namespace", *values)]


def one(tx: Transaction, namespace: str, name: str) -> ScheduleRow:
    row = tx.one(f"{_SELECT} WHERE namespace = ? AND name = ?", namespace, name)
    if row is None:
        raise NotFoundError(f"there is no schedule {name!r} in namespace {namespace!r}; `skep schedule list` has them")
    return _row(row)


def remove(tx: Transaction, namespace: str, name: str) -> bool:
    return tx.run("DELETE FROM schedules WHERE namespace = ? AND name = ?", namespace, name) == 1


def move(tx: Transaction, row: ScheduleRow, fired_ms: int | None, next_ms: int | None, paused: bool | None) -> bool:
    """See `Record.move_schedule`."""
    sql = (
        "UPDATE schedules SET fired_ms = COALESCE(?, fired_ms), next_ms = COALESCE(?, next_ms), paused = COALESCE(?, paused)"
        " WHERE namespace = ? AND name = ? AND version = ? AND fired_ms = ?"
    )
    flag = None if paused is None else int(paused)
    return tx.run(sql, fired_ms, next_ms, flag, row.namespace, row.name, row.version, row.fired_ms) == 1


def next_ms(tx: Transaction) -> int:
    row = tx.one("SELECT MIN(next_ms) FROM schedules WHERE paused = 0 AND next_ms > 0")
    return int(row[0] or 0) if row else 0
