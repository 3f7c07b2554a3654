"""Nodes as events told of them, what somebody wants of them, and settings of the whole installation."""

from __future__ import annotations

from skep.errors import RefusedError
from skep.record.dialect import Transaction
from skep.record.protocol import NodeRow


def nodes(tx: Transaction, engine: str) -> list[NodeRow]:
    sql = "SELECT id, incarnation, state, draining, at_ms FROM nodes WHERE engine = ? ORDER BY id"
    return [
        NodeRow(engine=engine, id=id, incarnation=incarnation, state=state, draining=bool(draining), at_ms=at_ms)
        for id, incarnation, state, draining, at_ms in tx.all(sql, engine)
    ]


def want_drain(tx: Transaction, engine: str, node: str, on: bool, at_ms: int) -> None:
    """A node that was never there stands as retired, so that nobody waits for it."""
    if "\0" in node:
        raise RefusedError(f"node {node!r} holds a NUL character in its name")
    sql = (
        "INSERT INTO nodes (engine, id, incarnation, state, draining, at_ms) VALUES (?, ?, 0, 'retired', ?, ?)"
        " ON CONFLICT (engine, id) DO UPDATE SET draining = excluded.draining"
    )
    tx.tell(sql, engine, node, int(on), at_ms)


def flags(tx: Transaction) -> dict[str, str]:
    return dict(tx.all("SELECT name, value FROM flags ORDER BY name"))


def set_flag(tx: Transaction, name: str, value: str | None) -> None:
    if "\0" in name or "\0" in (value or ""):
        raise RefusedError(f"flag {name!r} holds a NUL character")
    if value is None:
        tx.tell("DELETE FROM flags WHERE name = ?", name)
        return
    sql = "INSERT INTO flags (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
    tx.tell(sql, name, value)
