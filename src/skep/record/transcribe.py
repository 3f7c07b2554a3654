"""Copies an engine's events into the record: the mark first, then the events, then the rows that they change."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from skep.errors import RecordError, StaleEpochError
from skep.model.event import Event
from skep.record import costs
from skep.record.dialect import Bulk, Transaction, Trouble
from skep.record.fold import ALL_SO_FAR, clean, fold

log = logging.getLogger(__name__)

_ENCODER = msgspec.json.Encoder()


def _keep(table: str, *columns: str) -> str:
    return ", ".join(f"{column} = COALESCE(excluded.{column}, {table}.{column})" for column in columns)


_CHUNKS: Final = Bulk("INSERT INTO events (run_id, epoch, first, last, count, at_ms, events)", "text int int int int int bytes")
_TASKS: Final = Bulk(
    "INSERT INTO tasks (run_id, idx, state, attempts, node, reason, started_ms, finished_ms, output, error, due_ms, since)",
    "text int int int text text int int bytes bytes int int",
    "ON CONFLICT (run_id, idx) DO UPDATE SET state = excluded.state,"
    f" since = CASE excluded.since WHEN {ALL_SO_FAR} THEN COALESCE(tasks.attempts, 0)"
    " ELSE COALESCE(excluded.since, tasks.since) END, "
    + _keep("tasks", "attempts", "node", "reason", "started_ms", "finished_ms", "output", "error", "due_ms"),
)
_ATTEMPTS: Final = Bulk(
    "INSERT INTO attempts (run_id, idx, attempt, state, token_epoch, token_n, first_epoch, first_n, node, granted_ms,"
    " started_ms, finished_ms, error, price)",
    "text int int text int int int int text int int int bytes int",
    "ON CONFLICT (run_id, idx, attempt) DO UPDATE SET state = excluded.state,"
    " first_epoch = COALESCE(attempts.first_epoch, excluded.first_epoch),"
    " first_n = COALESCE(attempts.first_n, excluded.first_n),"
    " price = COALESCE(attempts.price, excluded.price), "
    + _keep("attempts", "token_epoch", "token_n", "node", "granted_ms", "started_ms", "finished_ms", "error"),
)
_ADOPTED: Final = Bulk(
    "INSERT INTO attempts (run_id, idx, attempt, state, granted_ms)", "text int int text int", "ON CONFLICT DO NOTHING"
)
_EXPANSIONS: Final = Bulk(
    "INSERT INTO expansions (run_id, parent, first, count)",
    "text int int int",
    "ON CONFLICT (run_id, parent) DO UPDATE SET first = excluded.first, count = excluded.count",
)
_READY: Final = Bulk(
    "WITH news (run_id, idx) AS (",
    "text int",
    ") UPDATE tasks SET state = 2, reason = '' FROM news"
    " WHERE tasks.run_id = news.run_id AND tasks.idx = news.idx AND tasks.state < 5",
)
_RUNS: Final = Bulk(
    "WITH news (id, loaded, state, reason, paused, started_ms, finished_ms, task_count, applied) AS (",
    "text int int text int int int int int",
    ") UPDATE runs SET loaded = COALESCE(news.loaded, runs.loaded), state = COALESCE(news.state, runs.state),"
    " reason = COALESCE(news.reason, runs.reason), paused = COALESCE(news.paused, runs.paused),"
    " started_ms = CASE runs.started_ms WHEN 0 THEN COALESCE(news.started_ms, 0) ELSE runs.started_ms END,"
    " finished_ms = COALESCE(news.finished_ms, runs.finished_ms),"
    " task_count = CASE WHEN news.task_count > runs.task_count THEN news.task_count ELSE runs.task_count END,"
    " applied = CASE WHEN news.applied > runs.applied THEN news.applied ELSE runs.applied END"
    " FROM news WHERE runs.id = news.id",
)
_WAITS: Final = Bulk(
    "INSERT INTO waits (run_id, idx, attempt, kind, event, key, since_ms, due_ms, data)",
    "text int int text text text int int bytes",
    "ON CONFLICT (run_id, idx) DO UPDATE SET attempt = excluded.attempt, kind = excluded.kind, event = excluded.event,"
    " key = excluded.key, since_ms = excluded.since_ms, due_ms = excluded.due_ms, decided = 0, data = excluded.data",
)
_OVER: Final = Bulk("DELETE FROM waits WHERE (run_id, idx) IN (", "text int", ")")
_NODES: Final = Bulk(
    "INSERT INTO nodes (engine, id, incarnation, state, at_ms)",
    "text text int text int",
    "ON CONFLICT (engine, id) DO UPDATE SET incarnation = excluded.incarnation, state = excluded.state, at_ms = excluded.at_ms",
)


def transcribe(tx: Transaction, engine: str, epoch: int, after: int, events: Sequence[Event]) -> None:
    """See `Record.transcribe`. Raises RecordError when the events do not follow `after` one by one."""
    last = after + len(events)
    if events and (events[0].n != after + 1 or events[-1].n != last):
        raise RecordError(f"events {events[0].n} to {events[-1].n} do not follow mark {after} one by one; read them again")
    sql = (
        "UPDATE engines SET mark = ? WHERE id = ? AND epoch = ? AND mark = ? RETURNING EXISTS (SELECT 1 FROM waits),"
        " EXISTS (SELECT 1 FROM nodes WHERE nodes.engine = engines.id AND nodes.price IS NOT NULL)"
    )
    moved = tx.one(sql, last, engine, epoch, after)
    if moved is None:
        raise StaleEpochError(f"engine {engine}: the record is not at mark {after} of epoch {epoch}; read its row again")
    if events:
        prices = costs.prices(tx, engine) if moved[1] else {}
        _apply(tx, engine, epoch, after, events, bool(moved[0]), prices)


def _apply(
    tx: Transaction, engine: str, epoch: int, after: int, events: Sequence[Event], waits: bool, prices: Mapping[str, int]
) -> None:
    """Writes a batch; one that fails for what it holds is cut in halves until the bad event stands alone in `rejected`.

    `waits`: whether anything waits before it. `prices`: of nodes; empty: nothing ever cost anything.
    """
    try:
        with tx.savepoint():
            _write(tx, engine, epoch, events, waits, prices)
    except Exception as error:
        if tx.dialect.trouble(error) is not Trouble.DATA:
            raise
        if len(events) > 1:
            middle = len(events) // 2
            _apply(tx, engine, epoch, after, events[:middle], waits, prices)
            _apply(tx, engine, epoch, after + middle, events[middle:], True, prices)
            return
        _reject(tx, engine, epoch, after + 1, events[0], error)


def _reject(tx: Transaction, engine: str, epoch: int, n: int, event: Event, error: Exception) -> None:
    log.error("event %d-%d of engine %s is rejected: %s; the event: %.300r", epoch, n, engine, error, event)
    text = clean(f"{type(error).__name__}: {error}")
    body = repr(event).encode("utf-8", "backslashreplace")
    tx.tell("INSERT INTO rejected (engine, epoch, n, error, event) VALUES (?, ?, ?, ?, ?)", engine, epoch, n, text, body)


def _write(tx: Transaction, engine: str, epoch: int, events: Sequence[Event], waits: bool, prices: Mapping[str, int]) -> None:
    """Events of no run are the engine's own, under its id: several engines share a record, and perhaps an epoch."""
    changes = fold(epoch, events)
    tx.many(
        _CHUNKS,
        [
            (run or engine, epoch, chunk[0].n, chunk[-1].n, len(chunk), chunk[-1].at_ms, _ENCODER.encode(chunk))
            for run, chunk in changes.chunks.items()
        ],
    )
    astuple = msgspec.structs.astuple
    if prices:
        for attempt in changes.attempts.values():
            attempt.price = prices.get(attempt.node or "")
    tx.many(_READY, [place for place in changes.ready if place not in changes.tasks])
    # In the order of the primary keys, which are unique here: the tables are their own index, and neighbours share a page.
    tx.many(_TASKS, sorted(map(astuple, changes.tasks.values())))
    if changes.adopted:
        tx.many(_ADOPTED, [(*place, "running", at_ms) for place, at_ms in changes.adopted.items()])
    tx.many(_ATTEMPTS, sorted(map(astuple, changes.attempts.values())))
    tx.many(_EXPANSIONS, [(*place, *children) for place, children in changes.expansions.items()])
    tx.many(_RUNS, sorted(map(astuple, changes.runs.values())))
    if prices:
        costs.spend(tx, sorted(changes.attempts))
    if waits:
        tx.many(_OVER, [place for place in changes.tasks.keys() | changes.ready.keys() if place not in changes.waits])
    tx.many(_WAITS, [astuple(wait) for wait in changes.waits.values()])
    tx.many(_NODES, [(engine, *astuple(node)) for node in changes.nodes.values()])
