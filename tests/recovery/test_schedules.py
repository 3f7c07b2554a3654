"""Schedules and kills: each time starts one run, also one that passed while no server was there."""

from __future__ import annotations

import random
import sqlite3
import time
from functools import partial
from pathlib import Path

from skep.model.authoring import build_workflow
from skep.testing.up import Up
from skep.wiring import RECORD_FILE

EVERY_MS = 1_000
KILLS = 3


def fired(up: Up) -> list[str]:
    """Runs of the schedule, in the order in which they were accepted."""
    record = sqlite3.connect(f"file:{up.home / RECORD_FILE}?mode=ro", uri=True)
    found = [run for (run,) in record.execute("SELECT id FROM runs WHERE schedule = 'tick' ORDER BY accepted_ms, seq")]
    record.close()
    return found


def test_each_time_fires_once(up: Up, tmp_path: Path) -> None:
    chance = random.Random(5)
    up.start()
    spec = build_workflow({"name": "tick", "tasks": {"a": {"run": f"echo $SKEP_RUN >> {tmp_path / 'ledger'}"}}})
    options = {"every": f"{EVERY_MS}ms", "spec": spec, "overlap": "allow", "catch_up": "all"}
    start_ms = up.client.schedules.put("tick", options).start_ms or 0
    for times in range(1, KILLS + 1):
        up.until(partial(_more_than, up, times), "it fires")
        up.kill()
        time.sleep(chance.uniform(0, 1.5))  # not a wait for anything: times may pass meanwhile
        up.start()
    up.client.schedules.pause("tick")

    def one_for_each() -> bool:
        """What was under way when it was paused may still come."""
        last_ms = up.client.schedules.get("tick").fired_ms or 0
        return len(fired(up)) == (last_ms - start_ms) // EVERY_MS

    up.until(one_for_each, "there is one run for each time")
    for run in fired(up):
        assert up.client.runs.wait(run, 30).state == "succeeded"
    assert one_for_each()
    ledger = (tmp_path / "ledger").read_text().split()
    assert set(ledger) == set(fired(up))


def _more_than(up: Up, count: int) -> bool:
    return len(fired(up)) > count
