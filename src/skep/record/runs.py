"""Engines, accepted runs and their commands."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from skep.errors import NotFoundError, RefusedError, WrongStateError
from skep.model.state import RunState, TaskState
from skep.record.dialect import Bulk, Row, Transaction, Trouble
from skep.record.labels import add_labels
from skep.record.protocol import Accepted, Command, EngineRow, NewRun, RunRow
from skep.record.read import RUN_COLUMNS, run_row
from skep.record.schema import RANK, UNFINISHED

# -- engines


def engine(tx: Transaction, engine: str) -> EngineRow | None:
    row = tx.one("SELECT epoch, mark, process, embedded FROM engines WHERE id = ?", engine)
    if row is None:
        return None
    epoch, mark, process, embedded = row
    return EngineRow(id=engine, epoch=epoch, mark=mark, process=process, embedded=bool(embedded))


def open_engine(tx: Transaction, row: EngineRow, after_epoch: int) -> bool:
    if after_epoch == 0:
        sql = "INSERT INTO engines (epoch, mark, process, embedded, id) VALUES (?, 0, ?, ?, ?) ON CONFLICT (id) DO NOTHING"
        return tx.run(sql, row.epoch, row.process, int(row.embedded), row.id) == 1
    sql = "UPDATE engines SET epoch = ?, mark = 0, process = ?, embedded = ? WHERE id = ? AND epoch = ?"
    return tx.run(sql, row.epoch, row.process, int(row.embedded), row.id, after_epoch) == 1


def embedded_engines(tx: Transaction) -> list[str]:
    return [id for (id,) in tx.all("SELECT id FROM engines WHERE embedded = 1 ORDER BY id")]


_CANCEL_ALL: Final = (
    "WITH RECURSIVE every (idx) AS (SELECT 0 UNION ALL SELECT idx + 1 FROM every WHERE idx + 1 < ?)"
    " INSERT INTO tasks (run_id, idx, state, reason, finished_ms)"
    f" SELECT CAST(? AS TEXT), idx, {int(TaskState.CANCELLED)}, 'abandoned', CAST(? AS BIGINT) FROM every WHERE idx < ?"
    " ON CONFLICT (run_id, idx) DO UPDATE"
    " SET state = excluded.state, reason = excluded.reason, finished_ms = excluded.finished_ms"
    f" WHERE tasks.state < {int(TaskState.SUCCEEDED)}"
)


def abandon(tx: Transaction, name: str, now_ms: int) -> int:
    row = engine(tx, name)
    if row is None:
        return 0
    if not row.embedded:
        raise WrongStateError(f"engine {name} is not embedded: its runs go on when it is opened again")
    with tx.savepoint():
        unfinished = tx.all(f"SELECT id, task_count FROM runs WHERE engine = ? AND {UNFINISHED}", name)
        for id, count in unfinished:
            tx.tell(_CANCEL_ALL, count, id, now_ms, count)
            sql = "UPDATE attempts SET state = 'cancelled', finished_ms = ? WHERE run_id = ? AND state IN ('running', 'parked')"
            tx.tell(sql, now_ms, id)
            tx.tell("DELETE FROM waits WHERE run_id = ?", id)
            sql = "UPDATE runs SET state = ?, reason = 'abandoned', finished_ms = ? WHERE id = ?"
            tx.tell(sql, int(RunState.FAILED), now_ms, id)
        tx.tell("DELETE FROM events WHERE run_id = ?", name)
        tx.tell("DELETE FROM nodes WHERE engine = ?", name)
        tx.tell("DELETE FROM engines WHERE id = ?", name)
    return len(unfinished)


# -- accepting


def accept(tx: Transaction, runs: Sequence[NewRun]) -> list[Accepted | Exception]:
    tx.lock("definitions", shared=True)
    refused = {place: refusal for place, run in enumerate(runs) if (refusal := _refusal(run))}
    answers = iter(_accept_some(tx, [run for place, run in enumerate(runs) if place not in refused]))
    return [refused.get(place) or next(answers) for place in range(len(runs))]


def _refusal(run: NewRun) -> RefusedError | None:
    """What is wrong with it before anything is asked."""
    parent, _ = run.parent or ("", -1)
    texts = (run.id, run.namespace, run.workflow, run.schedule, run.base, parent, *run.labels, *run.labels.values())
    if any("\0" in text for text in texts) or "\0" in (run.idempotency_key or "") + (run.unique or ""):
        return RefusedError(f"run {run.id!r}: a name, label or key of it holds a NUL character")
    return None


def _accept_some(tx: Transaction, runs: Sequence[NewRun]) -> list[Accepted | Exception]:
    """All at once; when that fails for what one of them holds, each alone."""
    if not runs:
        return []
    try:
        with tx.savepoint():
            return _accept(tx, runs)
    except Exception as error:
        if tx.dialect.trouble(error) is not Trouble.DATA:
            raise
        if len(runs) > 1:
            return [answer for run in runs for answer in _accept_some(tx, [run])]
        return [RefusedError(f"run {runs[0].id!r} cannot be stored: {error}")]


def body_digest(run: NewRun) -> str:
    """What makes a request the same one under one idempotency key; the id and the time may differ."""
    body = [run.workflow, run.digest, run.inputs, run.namespace, run.priority, sorted(run.labels.items()), run.timeout_ms]
    if run.unique is not None:
        body.append(run.unique)
    return hashlib.sha256(msgspec.json.encode(body)).hexdigest()


TRIES: Final = 5
"""How often a run is stored whose unique key others take and leave."""
_COLUMNS: Final = (
    "id, engine, workflow, digest, inputs, namespace, priority, labels, timeout_ms, idempotency_key, body_digest, accepted_ms,"
    " due_ms, parent_run, parent_task, depth, schedule, base, unique_key"
)
_RUNS: Final = Bulk(
    f"WITH news ({_COLUMNS}) AS (",
    "text text text text bytes text int bytes int text text int int text int int text text text",
    f") INSERT INTO runs ({_COLUMNS}) SELECT {_COLUMNS} FROM news"
    " WHERE NOT EXISTS (SELECT 1 FROM pruned WHERE run_id = news.id) ON CONFLICT DO NOTHING RETURNING id, idempotency_key, seq",
)
_DEFINITIONS: Final = Bulk("INSERT INTO definitions (digest, body)", "text bytes", "ON CONFLICT (digest) DO NOTHING")


def _accept(tx: Transaction, runs: Sequence[NewRun]) -> list[Accepted | Exception]:
    new: dict[int, NewRun] = {}
    answers: dict[int, Accepted | Exception] = {}
    left = dict(enumerate(runs))
    for _ in range(TRIES):
        left = _store(tx, left, new, answers)
        if not left:
            break
    for at, run in left.items():
        answers[at] = RefusedError(f"run {run.id}: other runs with its unique key began and ended meanwhile; submit it again")
    tx.many(_DEFINITIONS, list({run.digest: run.definition for run in new.values()}.items()))
    add_labels(tx, [(seq, run.accepted_ms, run.labels) for seq, run in new.items()])
    return [answers[at] for at in range(len(runs))]


def _store(
    tx: Transaction, runs: Mapping[int, NewRun], new: dict[int, NewRun], answers: dict[int, Accepted | Exception]
) -> dict[int, NewRun]:
    """Stores runs, and answers for them; gives those whose unique key was taken a moment ago and is free now."""
    bodies = [body_digest(run) for run in runs.values()]
    rows = [_row(run, body) for run, body in zip(runs.values(), bodies, strict=True)]
    stored = {(id, key): seq for id, key, seq in tx.back(_RUNS, rows)}
    left: dict[int, NewRun] = {}
    for (at, run), body in zip(runs.items(), bodies, strict=True):
        seq = stored.pop((run.id, run.idempotency_key), None)
        if seq is not None:
            new[seq] = run
            answers[at] = Accepted(run.id, True)
        elif known := _known(tx, run, body):
            answers[at] = known
        else:
            left[at] = run
    return left


def _row(run: NewRun, body: str) -> Row:
    parent, task = run.parent or ("", -1)
    return (
        *(run.id, run.engine, run.workflow, run.digest, run.inputs, run.namespace, run.priority),
        *(msgspec.json.encode(run.labels), run.timeout_ms, run.idempotency_key, body, run.accepted_ms),
        *(run.due_ms, parent, task, run.depth, run.schedule, run.base, run.unique),
    )


def _known(tx: Transaction, run: NewRun, body: str) -> Accepted | Exception | None:
    """The run that was there before, under the same key or the same id, or goes on with the same unique key."""
    key = run.idempotency_key
    if key is not None:
        sql = "SELECT id, body_digest FROM runs WHERE namespace = ? AND idempotency_key = ?"
        if known := tx.one(sql, run.namespace, key):
            if known[1] != body:
                return RefusedError(f"idempotency key {key!r} belongs to run {known[0]} with another body; use a new key")
            return Accepted(str(known[0]), False)
    if tx.one("SELECT 1 FROM pruned WHERE run_id = ?", run.id):
        return RefusedError(f"run {run.id} was deleted a moment ago; use a new id")
    if known := tx.one("SELECT digest FROM runs WHERE id = ?", run.id):
        if known[0] != run.digest:
            return RefusedError(f"run {run.id} is known with another definition; use a new id")
        return Accepted(run.id, False)
    if run.unique is not None and (known := _holder(tx, run.namespace, run.unique)):
        if known[1] != run.engine:
            return RefusedError(f"run {known[0]} has the unique key {run.unique!r} and goes on elsewhere; nothing was started")
        return Accepted(str(known[0]), False)
    return None


def _holder(tx: Transaction, namespace: str, unique: str) -> Row | None:
    """Id and engine of the run that goes on with a unique key."""
    return tx.one(f"SELECT id, engine FROM runs WHERE namespace = ? AND unique_key = ? AND {UNFINISHED}", namespace, unique)


# -- commands


def command(tx: Transaction, run: str, verb: str, data: bytes, at_ms: int, after: int | None = None) -> Command:
    with tx.savepoint():
        made, state = numbered(tx, run, verb, data, at_ms)
        if after is not None and made.number != after + 1:
            raise WrongStateError(f"run {run} was told something else a moment ago: look at it, and then say so again")
        if verb == "retry" and state.ended:
            _check_unique(tx, run)
            # Unfinished and unloaded again, or no server would ever come upon the command.
            # Its time limit counted from when it was accepted, and is over or means nothing any more; what it was told before
            # its end and was not done by then came too late.
            sql = (
                "UPDATE runs SET state = ?, reason = '', loaded = 0, finished_ms = 0, timeout_ms = 0, applied = ? WHERE id = ?"
            )
            tx.tell(sql, int(RunState.QUEUED), made.number - 1, run)
        elif verb == "cancel":
            # Due at once: it is loaded only to be ended, or it would be cancelled on the day that it was to begin.
            tx.tell("UPDATE runs SET due_ms = ? WHERE id = ? AND due_ms > ?", at_ms, run, at_ms)
    return made


def _check_unique(tx: Transaction, run: str) -> None:
    """Raises WrongStateError when another run has its unique key by now."""
    row = tx.one("SELECT namespace, unique_key FROM runs WHERE id = ?", run)
    if row and row[1] is not None and (other := _holder(tx, row[0], row[1])):
        raise WrongStateError(f"run {run} has the unique key {row[1]!r}, with which run {other[0]} goes on: wait for its end")


def numbered(tx: Transaction, run: str, verb: str, data: bytes, at_ms: int) -> tuple[Command, RunState]:
    """Stores a command under the run's next number; and the state of the run. Raises NotFoundError."""
    row = tx.one("UPDATE runs SET command = command + 1 WHERE id = ? RETURNING command, state", run)
    if row is None:
        raise NotFoundError(f"there is no run {run}")
    number, state = row
    sql = "INSERT INTO commands (run_id, number, verb, data, at_ms) VALUES (?, ?, ?, ?, ?)"
    tx.tell(sql, run, number, verb, data, at_ms)
    return Command(run=run, number=number, verb=verb, data=data, at_ms=at_ms), RunState(state)


def commands(tx: Transaction, engine: str, after: Mapping[str, int]) -> list[Command]:
    """Decisions are found by the waits that they decide: these are over when they had their effect."""
    rows = tx.all(
        "SELECT c.run_id, c.number, c.verb, c.data, c.at_ms FROM runs r JOIN commands c ON c.run_id = r.id"
        f" WHERE r.engine = ? AND r.{UNFINISHED} AND r.command > r.applied AND c.number > r.applied AND c.verb <> 'decide'"
        " UNION ALL SELECT c.run_id, c.number, c.verb, c.data, c.at_ms FROM waits w JOIN runs r ON r.id = w.run_id"
        " JOIN commands c ON c.run_id = w.run_id AND c.number = w.decided"
        f" WHERE w.decided > 0 AND r.engine = ? AND r.{UNFINISHED} ORDER BY 1, 2",
        engine,
        engine,
    )
    return [
        Command(run=run, number=number, verb=verb, data=data, at_ms=at_ms)
        for run, number, verb, data, at_ms in rows
        if number > after.get(run, 0)
    ]


def unloaded(tx: Transaction, engine: str, epoch: int, limit: int, now_ms: int) -> list[RunRow]:
    sql = (
        f"SELECT {RUN_COLUMNS} FROM runs WHERE engine = ? AND {UNFINISHED} AND loaded < ? AND due_ms <= ?"
        f" ORDER BY {RANK}, accepted_ms, id LIMIT ?"
    )
    return [run_row(row) for row in tx.all(sql, engine, epoch, now_ms, limit)]


def next_due_ms(tx: Transaction, engine: str, now_ms: int) -> int:
    sql = f"SELECT MIN(due_ms) FROM runs WHERE engine = ? AND {UNFINISHED} AND due_ms > 0 AND due_ms > ?"
    row = tx.one(sql, engine, now_ms)
    return int(row[0] or 0) if row else 0


def unfinished(tx: Transaction, engine: str) -> int:
    row = tx.one(f"SELECT COUNT(*) FROM runs WHERE engine = ? AND {UNFINISHED}", engine)
    return int(row[0]) if row else 0
