"""What must hold of a record and of the ledger, whatever was killed meanwhile."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from skep.model.state import RunState, TaskState
from skep.testing.chaos.effects import Line, lost_counts, read, shared_locks
from skep.wiring import RECORD_FILE

ENDS = frozenset({"succeeded", "failed", "cancelled", "skipped"})
COMMIT_MS = 1_500
"""Between the moment that a command is given as its time, and the one in which it is applied."""


@contextmanager
def opened(home: Path) -> Iterator[sqlite3.Connection]:
    record = sqlite3.connect(f"file:{home / RECORD_FILE}?mode=ro", uri=True)
    try:
        yield record
    finally:
        record.close()


def finished(home: Path) -> set[tuple[str, str]]:
    """Run and name of every task that is recorded as succeeded; without those of runs that were retried."""
    with opened(home) as record:
        names = _names(record)
        rows = record.execute(
            "SELECT run_id, idx FROM tasks WHERE state = ?"
            " AND run_id NOT IN (SELECT run_id FROM commands WHERE verb = 'retry')",
            (int(TaskState.SUCCEEDED),),
        ).fetchall()
    return {(run, names[run].get(index, "")) for run, index in rows}


def _names(record: sqlite3.Connection) -> dict[str, dict[int, str]]:
    """Of the tasks of each run, by index."""
    found: dict[str, dict[int, str]] = {}
    for run, body in record.execute("SELECT r.id, d.body FROM runs r JOIN definitions d ON d.digest = r.digest"):
        tasks = msgspec.json.decode(body)["tasks"]
        found[run] = dict(enumerate(task["name"] for task in tasks))
    for run, parent, first, count in record.execute("SELECT run_id, parent, first, count FROM expansions"):
        found[run].update({first + at: f"{found[run][parent]}[{at}]" for at in range(count)})
    return found


def histories(home: Path) -> dict[str, list[dict[str, Any]]]:
    """The events of each run in their order."""
    found: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    with opened(home) as record:
        for run, chunk in record.execute("SELECT run_id, events FROM events ORDER BY run_id, epoch, first"):
            found[run] += msgspec.json.decode(chunk)
    return found


def check_record(home: Path) -> None:
    """Its rows agree with each other; all runs have ended."""
    with opened(home) as record:

        def none(what: str, sql: str) -> None:
            rows = record.execute(sql).fetchmany(5)
            assert not rows, f"{what}: {rows}"

        none("runs that have not ended", "SELECT id, state, reason FROM runs WHERE state < 3")
        none("unfinished tasks of ended runs", "SELECT run_id, idx, state, reason FROM tasks WHERE state < 5")
        none("attempts without an end", "SELECT * FROM attempts WHERE state IN ('running', 'parked')")
        none(
            "ended attempts that no token names",
            "SELECT * FROM attempts WHERE state = 'succeeded' AND node <> '' AND (token_n IS NULL OR first_n IS NULL)",
        )
        none("waits of nobody", "SELECT * FROM waits")
        none("rejected events", "SELECT * FROM rejected")
        none(
            "tasks whose last attempt says otherwise",
            "SELECT t.run_id, t.idx, t.state, a.state FROM tasks t JOIN attempts a"
            " ON a.run_id = t.run_id AND a.idx = t.idx AND a.attempt = t.attempts"
            " AND a.attempt > COALESCE(t.since, 0) WHERE (t.state = 5) <> (a.state = 'succeeded')",
        )
        none("runs that count more tasks than they have", "SELECT id FROM runs WHERE started_ms = 0 AND state = 3")
        none("commands beyond the last", "SELECT id FROM runs WHERE applied > command")


def check_histories(home: Path) -> None:
    """One outcome for a task until it is reset; nothing is granted in a run that is being cancelled or has ended."""
    for run, events in histories(home).items():
        ended: set[int] = set()
        over = cancelling = False
        for event in events:
            kind = event["kind"]
            tasks = event.get("tasks") or [event.get("task", -1)]
            if kind in ENDS:
                assert not over, f"run {run} has ended, and then {event}"
                again = ended & set(tasks)
                assert not again, f"run {run}: another outcome: {event}"
                ended |= set(tasks)
            elif kind == "reset":
                ended -= set(tasks)
                over = cancelling = False
            elif kind == "ended":
                assert not over, f"run {run} has ended twice: {event}"
                over = True
            elif kind == "cancelling":
                cancelling = True
            elif kind in ("granted", "retrying", "snoozed", "ready") and run in event.get("run", run):
                assert not over, f"run {run} has ended, and then {event}"
                assert not (ended & set(tasks)), f"run {run}: a task that has ended goes on: {event}"
                assert not (cancelling and kind == "granted"), f"run {run} is being cancelled, and then {event}"


def check_locks(lines: list[Line]) -> None:
    """From its first to its last sign of life in it nobody else had the lock."""
    assert not list(shared_locks(lines))


def check_counts(lines: list[Line], retried: set[str]) -> None:
    """No attempt of a task that counts by checkpoint begins below what was saved."""
    assert not list(lost_counts(line for line in lines if line.run not in retried))


def check_commands(home: Path) -> None:
    """A run that was told to be cancelled ended so, or had ended before, or was about to."""
    stories = histories(home)
    with opened(home) as record:
        cancels = record.execute(
            "SELECT c.run_id, c.at_ms, r.state, r.reason, c.number, r.applied FROM commands c JOIN runs r ON r.id = c.run_id"
            " WHERE c.verb = 'cancel' AND c.run_id NOT IN (SELECT run_id FROM commands WHERE verb = 'retry')"
        ).fetchall()
    for run, at_ms, state, reason, number, applied in cancels:
        story = stories[run]
        reasons = [event.get("reason") for event in story if event["kind"] == "cancelling"]
        if state == RunState.CANCELLED or "task_failed" in reasons or "timeout" in reasons:
            continue
        end_ms = next(event["at_ms"] for event in reversed(story) if event["kind"] == "ended")
        told = f"run {run} was cancelled (command {number}, applied {applied})"
        assert end_ms <= at_ms + COMMIT_MS, f"{told} and ended {end_ms - at_ms} ms later as {state} {reason}"


def held(ledger: Path) -> bool:
    """Whether somebody has, or had, a lock."""
    return any(line.what == "held" for line in read(ledger))
