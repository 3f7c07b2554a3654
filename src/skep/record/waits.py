"""Waits of parked tasks, the decisions that end them, and events that somebody sent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from skep.errors import NotFoundError, RefusedError, WrongStateError
from skep.model.wait import APPROVAL, Verdict
from skep.record.dialect import Row, Transaction
from skep.record.protocol import Command, Signal, WaitRow
from skep.record.runs import numbered

_COLUMNS: Final = (
    "w.run_id, w.idx, w.attempt, r.engine, r.namespace, r.workflow, w.kind, w.event, w.key, w.data, r.accepted_ms, r.depth,"
    " w.since_ms, w.due_ms"
)
_FIELDS: Final = WaitRow.__struct_fields__
_VERDICT: Final = msgspec.json.Decoder(Verdict)


def waits(
    tx: Transaction, engine: str, kinds: Sequence[str], runs: Sequence[str], task: int, namespace: str, limit: int
) -> list[WaitRow]:
    where, values = "r.engine = ? AND w.decided = 0", list[Any]((engine,))
    if task >= 0:
        where += " AND w.idx = ?"
        values.append(task)
    if kinds:
        where += f" AND w.kind IN ({', '.join('?' * len(kinds))})"
        values += kinds
    if namespace:
        where += " AND r.namespace = ?"
        values.append(namespace)
    sql = f"SELECT {_COLUMNS} FROM waits w JOIN runs r ON r.id = w.run_id WHERE {where}"
    order = " ORDER BY w.since_ms, w.run_id, w.idx LIMIT ?"
    if not runs:
        return [_wait_row(row) for row in tx.all(sql + order, *values, limit)]
    found: list[WaitRow] = []
    for start in range(0, len(runs), 500):
        part = runs[start : start + 500]
        some = f" AND w.run_id IN ({', '.join('?' * len(part))})"
        found += [_wait_row(row) for row in tx.all(sql + some + order, *values, *part, limit)]
    found.sort(key=lambda wait: (wait.since_ms, wait.run, wait.task))
    return found[:limit]


def _wait_row(row: Row) -> WaitRow:
    return WaitRow(**dict(zip(_FIELDS, row, strict=True)))


def decide(tx: Transaction, run: str, task: int, attempt: int, data: bytes, at_ms: int) -> Command:
    """See `Record.decide`."""
    tx.lock("decide", run)
    said = _id_of(data)
    if said and (before := next((made for made, verdict in _decisions(tx, run) if verdict.id == said), None)):
        return before
    row = tx.one("SELECT attempt, kind, decided FROM waits WHERE run_id = ? AND idx = ?", run, task)
    if row is None:
        if tx.one("SELECT 1 FROM runs WHERE id = ?", run) is None:
            raise NotFoundError(f"there is no run {run}")
        raise WrongStateError(_by_whom(tx, run, task, attempt) or f"task {task} of run {run} does not wait for an approval")
    waiting, kind, decided = row
    if kind != APPROVAL:
        raise WrongStateError(f"task {task} of run {run} does not wait for an approval: it waits for {kind}")
    if waiting != attempt:
        told = _by_whom(tx, run, task, attempt)
        now = f"task {task} of run {run} waits in attempt {waiting}, not {attempt}; look at it again"
        raise WrongStateError(f"{told}; {now}" if told else now)
    if decided:
        raise WrongStateError(_by_whom(tx, run, task, attempt) or f"task {task} of run {run} was decided before")
    with tx.savepoint():
        made, state = numbered(tx, run, "decide", data, at_ms)
        if state.ended:
            raise WrongStateError(f"run {run} has ended: {state.label}")
        sql = "UPDATE waits SET decided = ? WHERE run_id = ? AND idx = ? AND attempt = ? AND decided = 0"
        if not tx.run(sql, made.number, run, task, attempt):
            raise WrongStateError(f"task {task} of run {run} went on a moment ago; look at it again")
    return made


def _id_of(data: bytes) -> str:
    try:
        return _VERDICT.decode(data).id
    except msgspec.DecodeError:
        return ""


def _by_whom(tx: Transaction, run: str, task: int, attempt: int) -> str:
    """Who decided the attempt and when, in words; empty when nobody did."""
    for made, verdict in _decisions(tx, run):
        if (verdict.task, verdict.attempt) == (task, attempt):
            word = "approved" if verdict.approve else "rejected"
            when = datetime.fromtimestamp(made.at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
            return f"task {task} of run {run} was {word}" + (f" by {verdict.by}" if verdict.by else "") + f" on {when}"
    return ""


def _decisions(tx: Transaction, run: str) -> Iterator[tuple[Command, Verdict]]:
    """All decisions of a run, the last one first."""
    sql = "SELECT number, data, at_ms FROM commands WHERE run_id = ? AND verb = 'decide' ORDER BY number DESC"
    for number, data, at_ms in tx.all(sql, run):
        try:
            verdict = _VERDICT.decode(data)
        except msgspec.DecodeError:
            continue
        yield Command(run=run, number=number, verb="decide", data=data, at_ms=at_ms), verdict


def send(tx: Transaction, signal: Signal) -> bool:
    """See `Record.send`."""
    if any("\0" in text for text in (signal.id, signal.namespace, signal.name, signal.key)):
        raise RefusedError(f"event {signal.name!r} holds a NUL character in its name or key")
    sql = "INSERT INTO signals (id, namespace, name, key, at_ms, data) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING"
    return tx.run(sql, signal.id, signal.namespace, signal.name, signal.key, signal.at_ms, signal.data) == 1


def signals(tx: Transaction, namespace: str, name: str, key: str, from_ms: int, limit: int) -> list[Signal]:
    sql = (
        "SELECT id, data, at_ms FROM signals WHERE namespace = ? AND name = ? AND key = ? AND at_ms >= ?"
        " ORDER BY at_ms, id LIMIT ?"
    )
    return [
        Signal(id=id, namespace=namespace, name=name, key=key, data=data, at_ms=at_ms)
        for id, data, at_ms in tx.all(sql, namespace, name, key, from_ms, limit)
    ]
