"""`kill -9` of the server in the middle of work: nothing that was accepted is lost, nothing that is recorded happens again.

The oracle is a ledger that the tasks keep outside of Skep, the client's list of what was accepted, and what the record said at
each kill. `SKEP_DRILL=full` (see `make soak`) makes it 5,000 tasks and 20 kills.
"""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path

import msgspec

from skep.errors import SkepError
from skep.ids import new_id
from skep.model.authoring import build_workflow
from skep.model.spec import WorkflowSpec
from skep.model.state import TaskState
from skep.testing.chaos.graphs import WORK
from skep.testing.up import Up
from skep.wiring import RECORD_FILE

FULL = os.environ.get("SKEP_DRILL") == "full"
TASKS, KILLS = (5_000, 20) if FULL else (400, 4)
LONG = 4


def many(ledger: Path) -> WorkflowSpec:
    """A map of short tasks between two single ones, each of which reads what came before."""
    row = {"ledger": str(ledger), "name": "item-${{ item.at }}", "ms": "${{ item.ms }}"}
    return build_workflow(
        {
            "name": "many",
            "inputs": {"items": []},
            "tasks": {
                "first": {"python": f"{WORK}:touch", "with": {"ledger": str(ledger), "name": "first", "ms": 1}},
                "each": {"python": f"{WORK}:touch", "with": row, "map": "${{ inputs.items }}", "needs": ["first"]},
                "last": {
                    "python": f"{WORK}:touch",
                    "with": {"ledger": str(ledger), "name": "last-${{ len(tasks.each.output) }}", "ms": 1},
                },
            },
        }
    )


def long(ledger: Path, release: Path) -> WorkflowSpec:
    row = {"ledger": str(ledger), "release": str(release), "name": "long-${{ item }}"}
    tasks = {"each": {"python": f"{WORK}:linger", "with": row, "map": list(range(LONG))}}
    return build_workflow({"name": "long", "tasks": tasks})


def recorded_as_finished(home: Path) -> set[tuple[str, int]]:
    with sqlite3.connect(f"file:{home / RECORD_FILE}?mode=ro", uri=True) as record:
        rows = record.execute("SELECT run_id, idx FROM tasks WHERE state = ?", (int(TaskState.SUCCEEDED),)).fetchall()
    record.close()
    return {(run, index) for run, index in rows}


def outcomes(home: Path) -> Counter[tuple[str, int]]:
    """How often the record's events say of each task that it ended."""
    told: Counter[tuple[str, int]] = Counter()
    record = sqlite3.connect(f"file:{home / RECORD_FILE}?mode=ro", uri=True)
    for run, chunk in record.execute("SELECT run_id, events FROM events"):
        for event in msgspec.json.decode(chunk):
            if event["kind"] in ("succeeded", "failed", "cancelled", "skipped"):
                told.update((run, task) for task in event.get("tasks") or [event["task"]])
    record.close()
    return told


def starts(ledger: Path) -> list[str]:
    """Names of the tasks that started, in that order."""
    if not ledger.exists():
        return []
    return [line.split()[1] for line in ledger.read_text().splitlines() if line.startswith("start ")]


def test_nothing_is_lost_or_done_again(up: Up, tmp_path: Path) -> None:
    chance = random.Random(20)
    ledger, release = tmp_path / "ledger", tmp_path / "release"
    up.start()
    longs = up.client.runs.submit(long(ledger, release)).id
    up.until(lambda: len(starts(ledger)) == LONG, "the long tasks run")
    items = [{"at": at, "ms": chance.randrange(2, 30)} for at in range(TASKS)]
    run = up.client.runs.submit(many(ledger), {"items": items}).id
    accepted = {longs, run}
    for _ in range(KILLS):
        time.sleep(chance.uniform(0.05, 0.6))  # not a wait for anything: the moment of the kill is to be any
        up.kill()
        finished = recorded_as_finished(up.home)
        before = len(starts(ledger))
        up.start()
        again = Counter(starts(ledger)[before:])
        view = up.client.runs.tasks(run, state=["succeeded"], limit=10_000)
        names = {(run, task.index): task.name for task in view.tasks}
        done = {names[at] for at in finished if at in names}
        told = {f"item-{name[5:-1]}" for name in done if name.startswith("each[")}
        assert not told & again.keys(), "what was recorded as finished began again"
        accepted.add(up.client.runs.submit(many(ledger), {"items": []}).id)
    release.touch()
    for one in accepted:
        assert up.client.runs.wait(one, 300 if FULL else 60).state == "succeeded"
    counted = outcomes(up.home)
    assert set(counted.values()) == {1}, "one outcome per task"
    began = Counter(starts(ledger))
    assert all(began[f"long-{at}"] == 1 for at in range(LONG)), "what ran was adopted, and not repeated"
    assert all(began[f"item-{at}"] >= 1 for at in range(TASKS))
    history = up.client.runs.view(longs).tasks
    assert [task.attempts for task in history if task.name.startswith("each[")] == [1] * LONG


def _grown(some: set[str], goal: int) -> bool:
    return len(some) >= goal


def test_submissions_that_got_no_answer_are_sent_again(up: Up, tmp_path: Path) -> None:
    """The client makes the id: whoever hears nothing sends it again, and there is one run."""
    ledger = tmp_path / "ledger"
    spec = many(ledger)
    up.start()
    acknowledged: set[str] = set()
    stop = threading.Event()

    def submit() -> None:
        client = type(up.client)(up.home)
        while not stop.is_set():
            run = new_id(time.time_ns() // 1_000_000)
            while run not in acknowledged and not stop.is_set():
                try:
                    acknowledged.add(client.runs.submit(spec, {"items": []}, run_id=run).id)
                except SkepError:
                    time.sleep(0.01)
        client.close()

    threads = [threading.Thread(target=submit) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(KILLS // 2):
            goal = len(acknowledged) + 20
            up.until(partial(_grown, acknowledged, goal), "runs are accepted")
            up.kill()
            up.start()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    for run in acknowledged:
        assert up.client.runs.wait(run, 60).state == "succeeded"
