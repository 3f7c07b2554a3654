"""What people and loops ask of the record. Nothing here writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from skep.errors import NotFoundError
from skep.model.event import Event
from skep.model.node import failure
from skep.model.run import AttemptView, Token
from skep.model.state import TaskState
from skep.record.costs import NANO
from skep.record.dialect import Row, Transaction
from skep.record.protocol import Expansion, RunRow, TaskRow

RUN_COLUMNS: Final = (
    "id, engine, workflow, digest, namespace, priority, timeout_ms, state, reason, paused, loaded, command, applied,"
    " task_count, accepted_ms, started_ms, finished_ms, due_ms, parent_run, parent_task, depth, schedule, base, cost, labels,"
    " inputs"
)
_RUN_FIELDS: Final = tuple(RUN_COLUMNS.split(", "))
_TASK_COLUMNS: Final = "idx, state, attempts, node, reason, started_ms, finished_ms, output, error, due_ms"
_EVENTS = msgspec.json.Decoder(list[Event])


def run_row(row: Sequence[Any]) -> RunRow:
    """A row of `RUN_COLUMNS`."""
    fields = dict(zip(_RUN_FIELDS, row, strict=True))
    parent, task = fields.pop("parent_run"), fields.pop("parent_task")
    fields["parent"] = (parent, task) if parent else None
    fields["labels"] = msgspec.json.decode(fields["labels"])
    fields["inputs"] = fields["inputs"] or b""
    fields["paused"] = bool(fields["paused"])
    fields["cost"] /= NANO
    fields["started_ms"] = fields["started_ms"] or None
    fields["finished_ms"] = fields["finished_ms"] or None
    return RunRow(**fields)


def definition(tx: Transaction, digest: str) -> bytes:
    row = tx.one("SELECT body FROM definitions WHERE digest = ?", digest)
    if row is None:
        raise NotFoundError(f"there is no definition {digest}")
    return bytes(row[0])


def run(tx: Transaction, run: str) -> RunRow:
    row = tx.one(f"SELECT {RUN_COLUMNS} FROM runs WHERE id = ?", run)
    if row is None:
        raise NotFoundError(f"there is no run {run}")
    return run_row(row)


def counts(tx: Transaction, run: str, total: int) -> tuple[int, ...]:
    """How many of its `total` tasks stand in each state; those without a row wait."""
    found = [0] * len(TaskState)
    for state, count in tx.all("SELECT state, COUNT(*) FROM tasks WHERE run_id = ? GROUP BY state", run):
        found[state] = count
    found[TaskState.WAITING] += max(total - sum(found), 0)
    return tuple(found)


def tasks(tx: Transaction, run: str) -> list[TaskRow]:
    return [_task_row(row) for row in tx.all(f"SELECT {_TASK_COLUMNS} FROM tasks WHERE run_id = ? ORDER BY idx", run)]


def task(tx: Transaction, run: str, index: int) -> TaskRow | None:
    row = tx.one(f"SELECT {_TASK_COLUMNS} FROM tasks WHERE run_id = ? AND idx = ?", run, index)
    return _task_row(row) if row else None


def list_tasks(
    tx: Transaction, run: str, states: Sequence[int], after: int, limit: int, indexes: Sequence[int] | None
) -> list[TaskRow]:
    one = f"AND state IN ({', '.join('?' * len(states))})" if states else ""
    select = f"SELECT {_TASK_COLUMNS} FROM tasks WHERE run_id = ? AND idx > ? {one}"
    if indexes is None:
        return [_task_row(row) for row in tx.all(f"{select} ORDER BY idx LIMIT ?", run, after, *states, limit)]
    found: list[TaskRow] = []
    named = sorted({index for index in indexes if index > after})
    for start in range(0, len(named), 500):
        part = named[start : start + 500]
        sql = f"{select} AND idx IN ({', '.join('?' * len(part))}) ORDER BY idx LIMIT ?"
        found += map(_task_row, tx.all(sql, run, after, *states, *part, limit - len(found)))
        if len(found) >= limit:
            break
    return found


def _task_row(row: Row) -> TaskRow:
    index, state, attempts, node, reason, started_ms, finished_ms, output, error, due_ms = row
    return TaskRow(
        index=index,
        state=state,
        attempts=attempts or 0,
        node=node or "",
        reason=reason or "",
        started_ms=started_ms or None,
        finished_ms=finished_ms or None,
        output=output or b"",
        error=error or b"",
        due_ms=due_ms or None if state == TaskState.DELAYED else None,
    )


def attempts(tx: Transaction, run: str, task: int | None = None) -> dict[int, list[AttemptView]]:
    # An attempt whose end no event told (its engine was rebuilt and its node did not return) is lost once its task moved on; a
    # wait that was swept, or whose task came to be ready again, ended with that.
    sql = (
        "SELECT a.idx, a.attempt, CASE WHEN a.state = 'returned' THEN 'lost'"
        " WHEN a.state = 'running' AND (t.state <> 3 OR t.attempts > a.attempt) THEN 'lost'"
        " WHEN a.state = 'parked' AND t.attempts > a.attempt THEN 'snoozed'"
        " WHEN a.state = 'parked' AND t.state = 7 THEN 'cancelled' WHEN a.state = 'parked' AND t.state = 6 THEN 'failed'"
        " WHEN a.state = 'parked' AND t.state <> 4 THEN 'snoozed'"
        " ELSE a.state END, a.node, a.token_epoch, a.token_n, a.granted_ms, a.started_ms, a.finished_ms, a.cost, a.error"
        " FROM attempts a LEFT JOIN tasks t ON t.run_id = a.run_id AND t.idx = a.idx"
        f" WHERE a.run_id = ? {'' if task is None else 'AND a.idx = ?'} ORDER BY a.idx, a.attempt"
    )
    of = (run,) if task is None else (run, task)
    views: dict[int, list[AttemptView]] = {}
    for index, attempt, state, node, epoch, n, granted_ms, started_ms, finished_ms, cost, error in tx.all(sql, *of):
        views.setdefault(index, []).append(
            AttemptView(
                attempt=attempt,
                state=state,
                node=node or None,
                token=str(Token(epoch, n)) if n else None,
                started_ms=started_ms or granted_ms or None,
                finished_ms=finished_ms or None,
                error=_decoded(error),
                cost=(cost or 0) / NANO,
            )
        )
    return views


def _decoded(error: bytes | None) -> Any:
    if not error:
        return None
    try:
        return msgspec.json.decode(error)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {"type": "Unreadable", "message": error[:1_000].decode("utf-8", "replace")}


def expansions(tx: Transaction, run: str) -> list[Expansion]:
    rows = tx.all("SELECT parent, first, count FROM expansions WHERE run_id = ? ORDER BY first", run)
    return [Expansion(parent, first, count) for parent, first, count in rows]


def outputs(tx: Transaction, run: str, tasks: Sequence[int]) -> dict[int, bytes]:
    rows = _of_tasks(tx, "SELECT idx, output FROM tasks WHERE run_id = ? AND state = 5 AND idx IN", run, tasks)
    return {index: output for index, output in rows if output}


def errors(tx: Transaction, run: str, tasks: Sequence[int]) -> dict[int, bytes]:
    rows = _of_tasks(tx, "SELECT idx, error, reason FROM tasks WHERE run_id = ? AND state = 6 AND idx IN", run, tasks)
    return {index: failure(error or b"", reason or "") for index, error, reason in rows}


def _of_tasks(tx: Transaction, sql: str, run: str, tasks: Sequence[int]) -> Iterator[Any]:
    for start in range(0, len(tasks), 500):
        part = tasks[start : start + 500]
        yield from tx.all(f"{sql} ({', '.join('?' * len(part))})", run, *part)


def last_event(tx: Transaction, run: str) -> Token:
    row = tx.one("SELECT epoch, last FROM events WHERE run_id = ? ORDER BY epoch DESC, first DESC LIMIT 1", run)
    return Token(*row) if row else Token(0, 0)


def events(tx: Transaction, run: str, after: Token, limit: int) -> list[tuple[Token, Event]]:
    # From the chunk that may hold the event after `after`; chunks of an epoch do not overlap.
    sql = (
        "SELECT epoch, events FROM events WHERE run_id = ? AND (epoch, first) >= (?, COALESCE("
        "(SELECT MAX(first) FROM events WHERE run_id = ? AND epoch = ? AND first <= ?), 0)) ORDER BY epoch, first"
    )
    found: list[tuple[Token, Event]] = []
    for epoch, chunk in tx.each(sql, run, after.epoch, run, after.epoch, after.n + 1):
        if len(found) >= limit:
            break
        found += [(Token(epoch, event.n), event) for event in _EVENTS.decode(chunk) if (epoch, event.n) > after]
    return found[:limit]


def stats(tx: Transaction) -> dict[str, Any]:
    (rejected,) = tx.all("SELECT COUNT(*) FROM rejected")
    return {"rejected_events": rejected[0], "bytes": tx.dialect.size(tx)}
