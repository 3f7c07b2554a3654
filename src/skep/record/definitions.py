"""Workflows that somebody stored, by name and version. Bodies are shared with those of runs."""

from __future__ import annotations

from skep.errors import NotFoundError, RefusedError
from skep.record.dialect import Row, Transaction
from skep.record.protocol import Definition


def put(tx: Transaction, namespace: str, name: str, digest: str, body: bytes, note: str, at_ms: int) -> Definition:
    """See `Record.put_definition`."""
    if "\0" in namespace + name + note:
        raise RefusedError(f"definition {name!r} holds a NUL character in its name or note")
    tx.lock("definitions", shared=True)
    tx.lock("workflow", namespace, name)
    newest = _newest(tx, namespace, name)
    if newest is not None and newest[3] == digest:
        return _definition(newest, body)
    version = newest[2] + 1 if newest else 1
    row = (namespace, name, version, digest, note, at_ms)
    with tx.savepoint():
        sql = "INSERT INTO workflows (namespace, name, version, digest, note, at_ms) VALUES (?, ?, ?, ?, ?, ?)"
        tx.tell(sql, *row)
        tx.tell("INSERT INTO definitions (digest, body) VALUES (?, ?) ON CONFLICT (digest) DO NOTHING", digest, body)
    return _definition(row, body)


_SELECT = "SELECT namespace, name, version, digest, note, at_ms FROM workflows w"


def _newest(tx: Transaction, namespace: str, name: str) -> Row | None:
    return tx.one(f"{_SELECT} WHERE namespace = ? AND name = ? ORDER BY version DESC LIMIT 1", namespace, name)


def _definition(row: Row, body: bytes = b"") -> Definition:
    namespace, name, version, digest, note, at_ms = row
    return Definition(namespace=namespace, name=name, version=version, digest=digest, body=body, note=note, at_ms=at_ms)


def listed(tx: Transaction, namespace: str, name: str) -> list[Definition]:
    """See `Record.definitions`."""
    where, values = "1 = 1", []
    for column, value in (("namespace", namespace), ("name", name)):
        if value:
            where += f" AND {column} = ?"
            values.append(value)
    if not name:
        newest = "SELECT MAX(version) FROM workflows v WHERE v.namespace = w.namespace AND v.name = w.name"
        where += f" AND version = ({newest})"
    return [_definition(row) for row in tx.all(f"{_SELECT} WHERE {where} ORDER BY name, namespace, version DESC", *values)]


def stored(tx: Transaction, namespace: str, name: str, version: int) -> Definition:
    """See `Record.stored_definition`."""
    if version:
        row = tx.one(f"{_SELECT} WHERE namespace = ? AND name = ? AND version = ?", namespace, name, version)
    else:
        row = _newest(tx, namespace, name)
    if row is None:
        raise NotFoundError(_what_there_is(tx, namespace, name, version))
    body = tx.one("SELECT body FROM definitions WHERE digest = ?", row[3])
    if body is None:
        raise NotFoundError(f"the body of definition {name}@{row[2]} is gone from the record; store it again")
    return _definition(row, bytes(body[0]))


def _what_there_is(tx: Transaction, namespace: str, name: str, version: int) -> str:
    newest = _newest(tx, namespace, name)
    if newest is not None:
        return f"definition {name!r} has no version {version}; its newest is {newest[2]}"
    sql = "SELECT DISTINCT name FROM workflows WHERE namespace = ? ORDER BY name LIMIT 11"
    names = [name for (name,) in tx.all(sql, namespace)]
    there = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
    return f"there is no definition {name!r} in namespace {namespace!r}; there is {there or 'none yet'}"


def remove(tx: Transaction, namespace: str, name: str) -> int:
    """See `Record.remove_definition`."""
    tx.lock("definitions")
    with tx.savepoint():
        sql = "DELETE FROM workflows WHERE namespace = ? AND name = ? RETURNING digest"
        gone = [digest for (digest,) in tx.all(sql, namespace, name)]
        forget_unused(tx, gone)
    return len(gone)


def forget_unused(tx: Transaction, digests: list[str]) -> None:
    """Deletes those bodies that no run and no stored version has any more.

    The caller has the lock `definitions`; whoever refers to one shares it, so that none goes that is about to be used.
    """
    for digest in sorted(set(digests)):
        sql = (
            "DELETE FROM definitions WHERE digest = ? AND NOT EXISTS (SELECT 1 FROM runs WHERE digest = definitions.digest)"
            " AND NOT EXISTS (SELECT 1 FROM workflows WHERE digest = definitions.digest)"
        )
        tx.tell(sql, digest)
