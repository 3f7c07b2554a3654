"""Random workflows, a person who steers them at random, and kills at random moments.

`SKEP_DRILL=full` makes it longer; `SKEP_SEED` takes another course.
"""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from skep.node.detached import listed
from skep.testing.chaos.effects import Line, read
from skep.testing.chaos.graphs import Graphs
from skep.testing.up import Up
from tests.recovery import oracle
from tests.recovery.person import Person

FULL = os.environ.get("SKEP_DRILL") == "full"
SEEDS = [int(os.environ["SKEP_SEED"])] if "SKEP_SEED" in os.environ else list(range(1, 6)) if FULL else [7]
KILLS, RUNS = (25, 400) if FULL else (3, 24)
LIMIT_S = 180.0 if FULL else 60.0


def kill_nodes(up: Up, chance: random.Random) -> None:
    """One of them, or all."""
    there = listed(up.home)
    for node in chance.sample(there, chance.randint(1, len(there))) if there else ():
        try:
            os.kill(node.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it has just ended by itself


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_is_killed(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    ledger = tmp_path / "ledger"
    with Up(tmp_path / "home", "--node", "a:cpu;slots=6;cpu=8", "--node", "b:cpu;slots=4;cpu=8") as up:
        up.start()
        graphs = [Graphs(random.Random(seed * 100 + at), ledger) for at in range(2)]
        people = [Person(up.home, made, random.Random(f"{seed}-{at}"), f"p{at}", RUNS // 2) for at, made in enumerate(graphs)]
        for person in people:
            person.start()
        done: list[tuple[int, set[tuple[str, str]]]] = []
        try:
            for _ in range(KILLS):
                time.sleep(chance.uniform(0.1, 1.5))  # not a wait for anything: the moment of the kill is to be any
                what = chance.choice(("server", "server", "server", "nodes", "both", "still"))
                if what == "still":
                    up.signal(signal.SIGSTOP)
                    time.sleep(chance.uniform(0.1, 1.5))  # nor for this
                    up.signal(signal.SIGCONT)
                if what in ("nodes", "both"):
                    kill_nodes(up, chance)
                if what in ("server", "both"):
                    up.kill()
                    done.append((len(read(ledger)), oracle.finished(up.home)))
                    up.start()
        finally:
            for person in people:
                person.stop()
        for person in people:
            assert not person.faults, person.faults
        accepted = [run for person in people for run in person.accepted]
        finish(up, accepted)
        lines = read(ledger)
        oracle.check_record(up.home)
        oracle.check_histories(up.home)
        oracle.check_locks(lines)
        oracle.check_commands(up.home)
        retried = {run for person in people for run in person.retried}
        oracle.check_counts(lines, retried)
        for at, finished in done:
            again = {(line.run, line.name) for line in lines[at:] if line.what == "start" and line.run not in retried}
            assert not again & finished, f"what was recorded as finished began again: {again & finished}"
        check_cancelled(people, lines, retried)
        check_decided(up, people, retried)
        check_nothing_leaks(up)


def finish(up: Up, accepted: list[str]) -> None:
    """Lets go what waits for people, and waits for all ends."""
    client = up.client
    end = time.monotonic() + LIMIT_S
    left = set(accepted)
    while left:
        for run in tuple(left):
            summary = client.runs.get(run)
            if summary.finished_ms:
                left.discard(run)
            elif summary.paused:
                client.runs.resume(run)
        for wait in client.tasks.waits(kind="event"):
            client.events.send("go", wait.key or "", id=f"go-{wait.key}")
        if left and time.monotonic() > end:
            view = client.runs.view(min(left))
            tasks = [(task.name, task.state, task.reason) for task in view.tasks]
            about = f"{view.id} is {view.state}: {tasks}\n{client.queue.stats()}\n{client.nodes.list()}\n{up.said()}"
            raise AssertionError(f"{len(left)} runs have not ended; {about}")
        time.sleep(0.1)


def check_cancelled(people: list[Person], lines: list[Line], retried: set[str]) -> None:
    """Once a run is said to be cancelled nothing of it begins."""
    since = {run: at for person in people for run, at in person.cancelled.items() if run not in retried}
    for line in lines:
        if line.what == "start" and line.at_ns and line.run in since:
            assert line.at_ns < since[line.run], f"{line} began after its run was cancelled"


def check_decided(up: Up, people: list[Person], retried: set[str]) -> None:
    """A decision that was taken counts, unless the run was cancelled first."""
    for person in people:
        for run, decisions in person.decided.items():
            if run in retried:
                continue
            tasks = {task.name: task for task in up.client.runs.view(run).tasks}
            for task, _, approve, by in decisions:
                state = tasks[task].state
                assert state in ("succeeded" if approve else "failed", "cancelled"), (run, task, state, approve)
                if state == "succeeded":
                    assert tasks[task].output["by"] == by


def check_nothing_leaks(up: Up) -> None:
    def all_free() -> bool:
        stats = up.client.queue.stats()
        busy = (stats.ready, stats.running, stats.delayed, stats.parked, stats.waiting, stats.live_tasks)
        nodes = up.client.nodes.list()
        whole = all((n.slots_free, n.cpu_free, n.memory_free) == (n.slots, n.cpu, n.memory) and not n.running for n in nodes)
        return not any(busy) and len(nodes) == 2 and whole and stats.slots_free == stats.slots == 10

    up.until(all_free, "all that was taken is given back")
