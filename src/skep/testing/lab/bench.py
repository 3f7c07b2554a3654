"""`make bench`: speed and size on this machine, against the floors and aims that the project set itself.

Each figure is the median of five runs in processes of their own, on a real file with `synchronous=FULL`; the measured time of a
commit stands beside, because much of it is the disk's. Nothing here is a test: nothing fails when a machine is slow.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from skep.testing.lab import embedded, fleet, router, server
from skep.testing.lab.figures import Figure

RUNS = 5
FIGURES: dict[str, list[Figure]] = {**embedded.FIGURES, **server.FIGURES, **fleet.FIGURES, **router.FIGURES}


def _once(name: str, folder: Path, shared: Path) -> list[float]:
    """One run. `shared`: a folder that all runs of this bench have in common."""
    if name in embedded.FIGURES:
        return embedded.once(name, folder)
    if name in router.FIGURES:
        return router.once(name, folder)
    return fleet.once(name, folder) if name in fleet.FIGURES else server.once(name, folder, shared)


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
    parser.add_argument("--data", type=Path, help="where to write (default: a temporary folder beside the working directory)")
    args = parser.parse_args()
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
                    found.setdefault(name, []).append(_once(name, Path(own), Path(folder)))
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
