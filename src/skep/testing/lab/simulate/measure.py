"""What came of it: times, use, cost and fairness of one simulation."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import msgspec

from skep.testing.lab.simulate.fleetfile import SimulatedNode
from skep.testing.lab.simulate.work import kind_key

HOUR_MS = 3_600_000


class Measured(msgspec.Struct, frozen=True):
    """Times in ms. A run's *flow time* is from its arrival to its end."""

    makespan_ms: int
    """From the first arrival to the last end."""
    flow_mean_ms: float
    flow_p50_ms: int
    flow_p95_ms: int
    utilisation: float
    """Busy slots over all slots, from the first arrival to the last end; a lost node's absence counts as idle."""
    balance: float
    """Time for which the least used node was busy, over that of the most used one of its kind; of the worst kind."""
    cost: float
    """Price per hour of each node, for the time for which it was busy (by slots, where it has several)."""
    fairness: float
    """Jain's index over the runs' slowdowns (flow time over the shortest time possible alone): 1 when all are slowed alike."""
    runs: int
    failed: int
    """Runs that failed, because a task was lost with its node three times."""
    attempts: int
    lost: int
    """Attempts that were lost with their node."""


def measure(
    nodes: Sequence[SimulatedNode],
    busy_ms: Sequence[int],
    flows: Sequence[tuple[int, int, int]],
    *,
    failed: int = 0,
    attempts: int = 0,
    lost: int = 0,
) -> Measured:
    """`busy_ms`: of each node, added up over its slots. `flows`: of each run its arrival, its end and its shortest time."""
    first, last = min(at for at, _, _ in flows), max(end for _, end, _ in flows)
    times = sorted(end - at for at, end, _ in flows)
    makespan = last - first
    slots = sum(node.info.slots for node in nodes)
    return Measured(
        makespan_ms=makespan,
        flow_mean_ms=sum(times) / len(times),
        flow_p50_ms=percentile(times, 50),
        flow_p95_ms=percentile(times, 95),
        utilisation=sum(busy_ms) / (slots * makespan) if makespan else 0.0,
        balance=_balance(nodes, busy_ms),
        cost=sum(node.info.cost_per_hour * ms / node.info.slots for node, ms in zip(nodes, busy_ms, strict=True)) / HOUR_MS,
        fairness=jain([(end - at) / max(least, 1) for at, end, least in flows]),
        runs=len(flows),
        failed=failed,
        attempts=attempts,
        lost=lost,
    )


def percentile(ordered: Sequence[int], percent: int) -> int:
    """The smallest value that so many percent do not exceed."""
    return ordered[max(ceil(len(ordered) * percent / 100), 1) - 1]


def jain(values: Sequence[float]) -> float:
    """Jain's fairness index: 1 when all are equal, 1/n when one has everything."""
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 1.0


def _balance(nodes: Sequence[SimulatedNode], busy_ms: Sequence[int]) -> float:
    kinds: dict[object, list[int]] = {}
    for node, ms in zip(nodes, busy_ms, strict=True):
        kinds.setdefault(kind_key(node), []).append(ms)
    return min((min(each) / max(each) for each in kinds.values() if max(each)), default=1.0)
