"""What runs where, as far as the router was told, and how long it will still take."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Final

from skep.router.wanted import Kind

MOST: Final = 500_000
"""Attempts kept; beyond it the oldest are forgotten."""


class Attempt:
    """One attempt that runs."""

    __slots__ = ("began_ms", "kind", "median_s", "node", "spread")

    def __init__(self, node: str, kind: Kind, began_ms: int) -> None:
        self.node = node
        self.kind = kind
        self.began_ms = began_ms
        self.median_s = -1.0
        """Predicted; 0: nothing is known; -1: nobody asked yet."""
        self.spread = 0.0

    def left_s(self, now_ms: int) -> float:
        """How long it will still take, given how long it runs already; infinite when nothing is known."""
        if self.median_s <= 0:
            return math.inf
        return left_s(self.median_s, self.spread, max(now_ms - self.began_ms, 0) / 1000)


class Running:
    """By lease and by node."""

    def __init__(self) -> None:
        self._leases: dict[Hashable, Attempt] = {}
        self._nodes: dict[str, dict[Hashable, Attempt]] = {}

    def __len__(self) -> int:
        return len(self._leases)

    def began(self, lease: Hashable, node: str, kind: Kind, now_ms: int) -> None:
        old = self._leases.pop(lease, None)
        if old is not None:
            self._nodes[old.node].pop(lease, None)
        elif len(self._leases) >= MOST:
            self.ended(next(iter(self._leases)))
        attempt = self._leases[lease] = Attempt(node, kind, now_ms)
        self._nodes.setdefault(node, {})[lease] = attempt

    def ended(self, lease: Hashable) -> Attempt | None:
        """Forgets it; harmless when it is not known."""
        attempt = self._leases.pop(lease, None)
        if attempt is not None:
            there = self._nodes[attempt.node]
            there.pop(lease, None)
            if not there:
                del self._nodes[attempt.node]
        return attempt

    def on(self, node: str, most: int) -> list[Attempt]:
        """The attempts on a node, of which there are at most so many: older ones are surplus, and forgotten once there are
        twice as many as there can be."""
        there = self._nodes.get(node)
        if not there:
            return []
        attempts = list(there.values())
        if len(attempts) > most:
            for lease in list(there)[: max(len(attempts) - 2 * most - 8, 0)]:
                self.ended(lease)
            attempts = attempts[len(attempts) - most :]
        return attempts

    def leave(self, node: str) -> None:
        """The node is gone, and all that ran there."""
        for lease in list(self._nodes.get(node, ())):
            self.ended(lease)


def left_s(median_s: float, spread: float, ran_s: float) -> float:
    """The median of the time still to come for what has run `ran_s`, of durations around `median_s` whose logarithm has the
    standard deviation `spread` (a log-logistic distribution, which is nearly a log-normal one and has this in closed form).

    Once it runs longer than its median, at least as long again as it is late by: a prediction that was missed is believed
    less and less.
    """
    if ran_s <= 0:
        return median_s
    steep = math.pi / math.sqrt(3) / max(spread, 0.01)
    power = min(steep * math.log(ran_s / median_s), 700.0)
    end_s = median_s * math.exp(math.log1p(2 * math.exp(power)) / steep)
    return max(end_s - ran_s, ran_s - median_s)
