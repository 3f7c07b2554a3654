"""`make bench`: speed and size on this machine, against the floors and aims that the project set itself.

Each figure is the median of five runs in processes of their own, on a real file with `synchronous=FULL`; the measured time of a
commit stands beside, because much of it is the disk's. Nothing here is a test: nothing fails when a machine is slow.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple

from skep.hub.runs import Runs
from skep.model.node import NodeInfo
from skep.model.spec import TaskSpec, WorkflowSpec
from skep.wiring import Embedded

RUNS = 5
NOOP = f"{__name__}:noop"


async def noop() -> None:
    """The task that does nothing."""


class Figure(NamedTuple):
    """One row of the table."""

    name: str
    unit: str
    floor: float
    aim: float
    more_is_better: bool = False


FIGURES = {
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


def workflow(needs: list[tuple[str, ...]], call: str = NOOP) -> WorkflowSpec:
    """No-op tasks t0, t1, …, each needing what its row names."""
    tasks = tuple(TaskSpec(name=f"t{at}", executor="python", call=call, needs=row) for at, row in enumerate(needs))
    return WorkflowSpec(name="bench", tasks=tasks)


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


def _once(name: str, folder: Path) -> list[float]:
    """One run, in a process of its own."""
    if name == "start":
        return _start(folder)
    command = [sys.executable, "-m", __spec__.name if __spec__ else __name__, "--one", name, "--data", str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [float(value) for value in json.loads(done.stdout)]


def commit_ms(folder: Path) -> float:
    """Median time of a small SQLite commit with `synchronous=FULL` in the folder, in ms."""
    connection = sqlite3.connect(folder / "commit.sqlite", isolation_level=None)
    for statement in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", "CREATE TABLE t (a INTEGER, b TEXT)"):
        connection.execute(statement)
    times = []
    for at in range(200):
        began = time.perf_counter()
        connection.execute("INSERT INTO t VALUES (?, ?)", (at, "x" * 200))
        times.append((time.perf_counter() - began) * 1000)
    connection.close()
    return statistics.median(times)


def machine(folder: Path) -> str:
    """This machine in one line."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0] if names else model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores ({model}), {memory:.0f} GiB, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, one small commit {commit_ms(folder):.2f} ms"
    )


def main() -> None:
    """Prints the table; `--json FILE` keeps the figures."""
    parser = argparse.ArgumentParser(description="Measures speed and size on this machine.")
    parser.add_argument("names", nargs="*", help=f"only these of {', '.join(FIGURES)} (default: all)")
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--json", type=Path, help="keep the figures in this file")
    parser.add_argument("--write", type=Path, help="put the table into this Markdown file, between its bench marks")
    parser.add_argument("--one", choices=list(BENCHES), help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help="where to write (default: a temporary folder beside the working directory)")
    args = parser.parse_args()
    if args.one:
        sys.setswitchinterval(0.0005)
        print(json.dumps(asyncio.run(_embedded(args.one, args.data / "data"))))
        return
    if unknown := set(args.names) - FIGURES.keys():
        parser.error(f"there is no {', '.join(sorted(unknown))}; expected some of {', '.join(FIGURES)}")
    found: dict[str, list[list[float]]] = {}
    names = args.names or list(FIGURES)
    where = args.data or Path.cwd()
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=where) as folder:
        described = machine(Path(folder))
        print(described, flush=True)
        for turn in range(args.runs):
            for name in names:
                print(f"\r{turn + 1}/{args.runs} {name:<12}", end="", file=sys.stderr, flush=True)
                with tempfile.TemporaryDirectory(dir=folder) as own:
                    found.setdefault(name, []).append(_once(name, Path(own)))
        print("\r" + " " * 30 + "\r", end="", file=sys.stderr)
    report: list[dict[str, Any]] = []
    rows = [f"Measured on {described}.", "", "| what | measured | floor | aim |", "|---|---|---|---|"]
    print(f"\n{'what (median of ' + str(args.runs) + ')':<60} {'measured':>12} {'floor':>10} {'aim':>10}")
    for name in names:
        for at, figure in enumerate(FIGURES[name]):
            values = [run[at] for run in found[name]]
            value = statistics.median(values)
            better = value >= figure.floor if figure.more_is_better else value <= figure.floor
            best = value >= figure.aim if figure.more_is_better else value <= figure.aim
            verdict = "aim reached" if best else "floor reached" if better else "below the floor"
            digits = 0 if figure.more_is_better or value >= 100 else 2
            print(
                f"{figure.name:<60} {value:>9,.{digits}f} {figure.unit:<2} {figure.floor:>10,g} {figure.aim:>10,g}  {verdict}"
                f"  ({min(values):,.{digits}f} to {max(values):,.{digits}f})"
            )
            shown = f"{value:,.{digits}f}{'' if figure.unit == '/s' else ' '}{figure.unit}"
            rows.append(f"| {figure.name} | {shown} | {figure.floor:,g} | {figure.aim:,g} |")
            report.append({"name": figure.name, "unit": figure.unit, "median": value, "values": values})
    if args.write:
        before, _, rest = args.write.read_text().partition("<!-- bench -->\n")
        after = rest.partition("<!-- /bench -->")[2]
        args.write.write_text(before + "<!-- bench -->\n" + "\n".join(rows) + "\n<!-- /bench -->" + after)
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
