"""What an engine that was opened anew must know of runs that were loaded before."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from skep.model.run import RestoredTask
from skep.model.state import TaskState
from skep.record.dialect import Transaction
from skep.record.protocol import Expansion, RestoredRun

RUNS: Final = 500
"""Runs in one statement."""


def restore(tx: Transaction, runs: Sequence[str]) -> dict[str, RestoredRun]:
    """See `Record.restore`."""
    found: defaultdict[str, RestoredRun] = defaultdict(lambda: RestoredRun([], []))
    for start in range(0, len(runs), RUNS):
        _some(tx, runs[start : start + RUNS], found)
    return dict(found)


def _some(tx: Transaction, runs: Sequence[str], found: defaultdict[str, RestoredRun]) -> None:
    some = f"IN ({', '.join('?' * len(runs))})"
    tries = {(run, task): counts for run, task, *counts in tx.all(_TRIES.format(some=some), *runs)}
    for run, task, state, attempts, met, due_ms in tx.all(_TASKS.format(some=some), *runs):
        failures, lost, running = tries.get((run, task), (0, 0, 0))
        if running and state == TaskState.READY:
            state = TaskState.RUNNING  # an engine before said ready, for want of its node; which may still come
        restored = RestoredTask(task, state, attempts, failures, lost, bool(met), due_ms)
        found[run].tasks.append(restored)
    sql = f"SELECT run_id, parent, first, count FROM expansions WHERE run_id {some} ORDER BY run_id, first"
    for run, *expansion in tx.all(sql, *runs):
        found[run].expansions.append(Expansion(*expansion))


# What stands behind a task's output in its row is looked at only where there is none.
_TASKS: Final = (
    "SELECT run_id, idx, state, COALESCE(attempts, 0), CASE WHEN state = 8 AND reason = 'when' THEN 1 ELSE 0 END,"
    " CASE WHEN state = 1 THEN COALESCE(due_ms, 0) ELSE 0 END FROM tasks WHERE run_id {some} ORDER BY run_id, idx"
)
# Of tasks that go on: how often they failed and were lost since their reset, and whether the last attempt is still out.
# One that was replaced without a word was lost with its node.
_TRIES: Final = (
    "SELECT t.run_id, t.idx, SUM(CASE WHEN a.state = 'failed' THEN 1 ELSE 0 END),"
    " SUM(CASE WHEN a.state = 'lost' OR (a.state = 'running' AND a.attempt < t.attempts) THEN 1 ELSE 0 END),"
    " SUM(CASE WHEN a.state = 'running' AND a.attempt = t.attempts THEN 1 ELSE 0 END)"
    " FROM tasks t JOIN attempts a ON a.run_id = t.run_id AND a.idx = t.idx WHERE t.run_id {some} AND t.state < 5"
    " AND t.state > 0 AND a.attempt > COALESCE(t.since, 0) AND a.state IN ('failed', 'lost', 'running')"
    " GROUP BY t.run_id, t.idx"
)
