"""Speed of one process: an embedded engine with its node."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from skep.hub.runs import Runs
from skep.model.node import NodeInfo
from skep.model.spec import WorkflowSpec
from skep.testing.lab.figures import Figure, workflow
from skep.wiring import Embedded

FIGURES: dict[str, list[Figure]] = {
    "throughput": [Figure("independent no-op tasks, submit to recorded, one process", "/s", 12_000, 20_000, True)],
    "latency": [
        Figure("one no-op task, submit to result, idle, p50", "ms", 1.0, 0.5),
        Figure("one no-op task, submit to result, idle, p99", "ms", 6, 3),
    ],
    "chain": [Figure("chain of 40 tasks", "ms", 20, 10)],
    "fan": [Figure("1 → 1,000 → 1", "ms", 150, 80)],
    "large": [
        Figure("one run of 100,000 tasks: time", "s", 12, 6),
        Figure("one run of 100,000 tasks: peak memory", "MB", 600, 300),
    ],
    "start": [Figure("`skep run` of a one-task file, start to exit", "s", 1.2, 0.8)],
}


async def _timed(runs: Runs, spec: WorkflowSpec) -> float:
    began = time.perf_counter()
    await runs.wait(await runs.submit(spec))
    return time.perf_counter() - began


async def throughput(runs: Runs) -> list[float]:
    await _timed(runs, workflow([()] * 100))
    count = 10_000
    return [count / await _timed(runs, workflow([()] * count))]


async def latency(runs: Runs) -> list[float]:
    spec = workflow([()])
    times = []
    for _ in range(350):
        times.append(await _timed(runs, spec) * 1000)
        await asyncio.sleep(0)
    times = sorted(times[50:])
    return [times[len(times) // 2], times[len(times) * 99 // 100]]


async def chain(runs: Runs) -> list[float]:
    spec = workflow([(f"t{at - 1}",) if at else () for at in range(40)])
    times = [await _timed(runs, spec) * 1000 for _ in range(8)]
    return [statistics.median(times[3:])]


async def fan(runs: Runs) -> list[float]:
    middle = tuple(f"t{at}" for at in range(1, 1_001))
    spec = workflow([(), *[("t0",)] * 1_000, middle])
    times = [await _timed(runs, spec) * 1000 for _ in range(4)]
    return [statistics.median(times[1:])]


async def large(runs: Runs) -> list[float]:
    began = time.perf_counter()
    await runs.wait(await runs.submit(workflow([()] * 100_000)))
    elapsed = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return [elapsed, peak / (1024 if sys.platform == "linux" else 1024 * 1024)]


BENCHES: dict[str, Callable[[Runs], Coroutine[Any, Any, list[float]]]] = {
    "throughput": throughput,
    "latency": latency,
    "chain": chain,
    "fan": fan,
    "large": large,
}


async def _embedded(name: str, data: Path) -> list[float]:
    info = NodeInfo("local", slots=256, cpu_milli=1_000 * (os.cpu_count() or 1), memory=8 << 30)
    async with Embedded([info], data=data) as embedded:
        return await BENCHES[name](embedded.hub.runs)


def _start(folder: Path) -> list[float]:
    file = folder / "one.yaml"
    file.write_text('name: one\ntasks: {hello: {run: "true"}}\n')
    command = [sys.executable, "-m", "skep", "run", str(file), "--data", str(folder / "data"), "--json"]
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return [time.perf_counter() - began]


def once(name: str, folder: Path) -> list[float]:
    """One run, in a process of its own."""
    if name == "start":
        return _start(folder)
    command = [sys.executable, "-m", __name__, name, str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [float(value) for value in json.loads(done.stdout)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures one thing once.")
    parser.add_argument("name", choices=list(BENCHES))
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    sys.setswitchinterval(0.0005)
    print(json.dumps(asyncio.run(_embedded(args.name, args.folder / "data"))))


if __name__ == "__main__":
    main()
