"""Speed of the router alone: decisions on a large fleet, and on a small one.

The fleet is heterogeneous and has learned what ten kinds of tasks take; half of the tasks ask for cpu and memory beside their
slot. A batch is 1,000 tasks of ten kinds. What is measured of a batch is a whole pass: `sync` with what the engine says of
every node, of which one in ten has changed since, as after a pass in which so many were given work, and `route`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from itertools import cycle
from pathlib import Path
from typing import Final

import numpy as np

from skep.model.node import LiveNode, NodeInfo, Requirement
from skep.router.router import Router
from skep.router.wanted import Kind, Wanted
from skep.testing.lab.figures import Figure

FIGURES: dict[str, list[Figure]] = {
    "route": [
        Figure("router: one decision, 1,000 nodes, hybrid, p50", "ms", 0.3, 0.1),
        Figure("router: one decision, 1,000 nodes, hybrid, p99", "ms", 1, 0.3),
        Figure("router: decisions in batches, 1,000 nodes", "/s", 50_000, 300_000, True),
        Figure("router: decisions in batches, 10,000 nodes", "/s", 20_000, 100_000, True),
        Figure("router: a batch of 1,000 equal tasks, 10 nodes", "ms", 1, 0.5),
    ]
}
BATCH: Final = 1_000
KINDS: Final = tuple(Kind(f"bench/t{at}", f"type-{at % 3}", "run") for at in range(10))
PLAIN, LARGE = Requirement("run"), Requirement("run", (), 500, 64 << 20)
WANTED: Final = tuple(Wanted((PLAIN, LARGE)[at % 2], kind) for at, kind in enumerate(KINDS))


def fleet(count: int, slots: int = 8) -> list[LiveNode]:
    """Nodes of four sizes of price, all free."""
    infos = (
        NodeInfo(f"n{at:05}", slots=slots, cpu_milli=8_000, memory=16 << 30, cost_per_hour=price)
        for at, price in zip(range(count), cycle((0.1, 0.4, 1.6, 6.4)), strict=False)
    )
    return [LiveNode(info, _free(info), 0, draining=False) for info in infos]


def _free(info: NodeInfo) -> dict[str, int]:
    return {"slots": info.slots, "cpu": info.cpu_milli, "memory": info.memory, "vram": info.vram}


def taught(nodes: list[LiveNode]) -> Router:
    """A router that has seen about two tasks end on each node; speeds are 1 to 4."""
    chance = np.random.default_rng(1)
    router = Router()
    router.sync(nodes)
    for lease in range(min(2 * len(nodes), 5_000)):
        at = int(chance.integers(len(nodes)))
        kind = KINDS[lease % len(KINDS)]
        ran_ms = int(1_000 * (1 + lease % 10) / (1 + at % 4) * np.exp(chance.normal(0, 0.1)))
        router.ended(lease, nodes[at].info.id, kind, "succeeded", ran_ms, 0)
    return router


def decision_ms(count: int = 1_000) -> list[float]:
    """p50 and p99 of one decision."""
    nodes = fleet(count)
    router = taught(nodes)
    router.sync(nodes)
    times: list[float] = []
    for turn in range(1_100):
        began = time.perf_counter()
        router.route([WANTED[turn % len(WANTED)]], 0)
        times.append((time.perf_counter() - began) * 1_000)
    times = sorted(times[100:])
    return [times[len(times) // 2], times[len(times) * 99 // 100]]


def batches_per_s(count: int) -> float:
    """Tasks placed in a second."""
    nodes = fleet(count)
    router = taught(nodes)
    router.sync(nodes)
    batch = [wanted for wanted in WANTED for _ in range(BATCH // len(WANTED))]
    rates: list[float] = []
    for turn in range(20):
        nodes = [node._replace(free=_free(node.info)) if at % 10 == turn % 10 else node for at, node in enumerate(nodes)]
        began = time.perf_counter()
        router.sync(nodes)
        choices = router.route(batch, 0)
        rates.append(len(choices) / (time.perf_counter() - began))
    return statistics.median(rates)


def equal_ms(count: int = 10) -> float:
    """One pass with a thousand equal tasks of some milliseconds on a small fleet."""
    nodes = fleet(count, slots=256)
    router = taught(nodes)
    times: list[float] = []
    for _ in range(50):
        began = time.perf_counter()
        router.sync(nodes)
        router.route([WANTED[0]] * BATCH, 0)
        times.append((time.perf_counter() - began) * 1_000)
    return statistics.median(times)


def once(name: str, folder: Path) -> list[float]:
    """One run, in a process of its own."""
    done = subprocess.run([sys.executable, "-m", __name__, name], cwd=folder, check=True, capture_output=True, text=True)
    return [float(value) for value in json.loads(done.stdout)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures the router once.")
    parser.add_argument("name", choices=list(FIGURES))
    parser.parse_args()
    print(json.dumps([*decision_ms(), batches_per_s(1_000), batches_per_s(10_000), equal_ms()]))


if __name__ == "__main__":
    main()
