"""Speed of `skep up`: a server, its node with worker processes, and a client on the socket."""

from __future__ import annotations

import os
import sqlite3
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import psutil

from skep.model.state import RunState
from skep.testing.lab.figures import Figure, workflow
from skep.testing.up import Up
from skep.wiring import RECORD_FILE

FIGURES: Final[dict[str, list[Figure]]] = {
    "up": [Figure("no-op tasks with local worker processes, submit to recorded", "/s", 8_000, 14_000, True)],
    "up-latency": [
        Figure("one task, submit over the socket to result, idle, p50", "ms", 2, 1),
        Figure("one task, submit over the socket to result, idle, p99", "ms", 8, 4),
    ],
    "up-open": [Figure("`skep up` with 100,000 unfinished tasks to first task placed", "s", 10, 5)],
    "up-list": [Figure("a page of `runs` with 1,000,000 runs in the record", "ms", 100, 20)],
    "up-start": [
        Figure("`skep up`, start to first task done", "s", 1.5, 0.9),
        Figure("idle memory of the server process", "MB", 100, 75),
    ],
}
MILLION: Final = 1_000_000
NODE: Final = ("--node", f"local:cpu;slots=256;cpu={os.cpu_count() or 1}")


def throughput(folder: Path, _: Path) -> list[float]:
    count = 20_000
    with Up(folder / "home", *NODE) as up:
        up.start()
        for size in (500, count):
            began = time.perf_counter()
            run = up.client.runs.submit(workflow([()] * size))
            up.client.runs.wait(run.id)
            elapsed = time.perf_counter() - began
    return [count / elapsed]


def latency(folder: Path, _: Path) -> list[float]:
    spec = workflow([()])
    times = []
    with Up(folder / "home", *NODE) as up:
        up.start()
        for _turn in range(350):
            began = time.perf_counter()
            ended = up.client.runs.submit(spec, wait_s=10)
            times.append((time.perf_counter() - began) * 1000)
            assert ended.state == RunState.SUCCEEDED.label
    times = sorted(times[50:])
    return [times[len(times) // 2], times[len(times) * 99 // 100]]


def opening(folder: Path, _: Path) -> list[float]:
    """Ten runs of 10,000 tasks, all of them loaded and none begun, when the server is killed."""
    spec = workflow([()] * 10_000)
    with Up(folder / "home", *NODE) as up:
        up.start()
        up.client.queue.pause()
        for _turn in range(10):
            up.client.runs.submit(spec)
        up.until(lambda: up.client.queue.stats().ready == 100_000, "all tasks are ready", 120)
        up.until(lambda: not up.client.insight.status().backlog, "all of it is recorded")
        up.kill()
        record = sqlite3.connect(folder / "home" / RECORD_FILE)
        record.execute("DELETE FROM flags")
        record.commit()
        record.close()
        began = time.perf_counter()
        up.start()
        up.until(_begun(up), "the first task is placed", 120)
        return [time.perf_counter() - began]


def _begun(up: Up) -> Callable[[], bool]:
    return lambda: bool(up.client.queue.stats().ready < 100_000 and up.client.nodes.list() and _moving(up))


def _moving(up: Up) -> bool:
    stats = up.client.queue.stats()
    return stats.running > 0 or 0 < stats.live_tasks < 100_000


def listing(folder: Path, shared: Path) -> list[float]:
    home = shared / "million"
    if not (home / RECORD_FILE).exists():
        fill(home, MILLION)
    with Up(home, "--no-node") as up:
        up.start()
        cursor = None
        times = []
        for _turn in range(20):
            began = time.perf_counter()
            page = up.client.runs.list(limit=50, cursor=cursor)
            times.append((time.perf_counter() - began) * 1000)
            cursor = page.next
    return [statistics.median(times)]


def fill(home: Path, count: int) -> None:
    """A record with so many ended runs, made of one that really ran."""
    with Up(home, *NODE) as up:
        up.start()
        run = up.client.runs.submit(workflow([()]), wait_s=10)
    record = sqlite3.connect(home / RECORD_FILE)
    columns = [name for _, name, *_ in record.execute("PRAGMA table_info(runs)") if name != "seq"]
    values = {
        "id": "printf('%08x-0000-7000-8000-%012x', n, n)",
        "accepted_ms": "accepted_ms - n * 60000",
        "finished_ms": "finished_ms - n * 60000",
        "workflow": "'flow-' || (n % 50)",
        "state": "3 + (n % 10 = 0)",
    }
    chosen = ", ".join(values.get(name, name) for name in columns)
    record.execute(
        f"WITH RECURSIVE many (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM many WHERE n < {count})"
        f" INSERT INTO runs ({', '.join(columns)}) SELECT {chosen} FROM many, runs WHERE runs.id = ?",
        (run.id,),
    )
    record.commit()
    record.close()


def start(folder: Path, _: Path) -> list[float]:
    with Up(folder / "home", *NODE) as up:
        began = time.perf_counter()
        up.start()
        ended = up.client.runs.submit(workflow([()]), wait_s=10)
        elapsed = time.perf_counter() - began
        assert ended.state == RunState.SUCCEEDED.label
        assert up.process is not None
        memory = psutil.Process(up.process.pid).memory_full_info().pss
    return [elapsed, memory / 2**20]


BENCHES: Final[dict[str, Callable[[Path, Path], list[float]]]] = {
    "up": throughput,
    "up-latency": latency,
    "up-open": opening,
    "up-list": listing,
    "up-start": start,
}


def once(name: str, folder: Path, shared: Path) -> list[float]:
    """One run."""
    return BENCHES[name](folder, shared)
