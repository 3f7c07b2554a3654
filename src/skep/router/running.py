"""What runs where, as far as the router was told, and how long it will still take."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Final

import numpy as np

from skep.router.fleet import Floats
from skep.router.wanted import Kind

MOST: Final = 500_000
"""Attempts kept; beyond it the oldest are forgotten."""


class Attempt:
    """One attempt that runs."""

    __slots__ = ("began_ms", "kind", "median_s", "node", "spread")

    def __init__(self, node: str, kind: Kind, began_ms: int, median_s: float, spread: float) -> None:
        self.node = node
        self.kind = kind
        self.began_ms = began_ms
        self.median_s = median_s
        """Predicted; 0: nothing is known; -1: nobody asked yet."""
        self.spread = spread

    @property
    def end_s(self) -> float:
        """When it ends at the earliest, as far as is known, on the clock of `began_ms`."""
        return math.inf if not self.median_s else self.began_ms / 1000 + max(self.median_s, 0.0)

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
        self._at: Mapping[str, int] = {}
        self._ends_s: Floats = np.zeros(0)
        self._changed: set[str] = set()

    def __len__(self) -> int:
        return len(self._leases)

    def place(self, at: Mapping[str, int]) -> None:
        """The nodes stand in these places now; what ran on others is forgotten."""
        self._at = at
        for gone in self._nodes.keys() - at.keys():
            for lease in list(self._nodes[gone]):
                self.ended(lease)
        self._ends_s = np.full(len(at), np.inf)
        self._changed = set(self._nodes)

    def began(self, lease: Hashable, attempt: Attempt) -> None:
        self.ended(lease)
        if len(self._leases) >= MOST:
            self.ended(next(iter(self._leases)))
        self._leases[lease] = attempt
        self._nodes.setdefault(attempt.node, {})[lease] = attempt
        self._changed.add(attempt.node)

    def ended(self, lease: Hashable) -> Attempt | None:
        """Forgets it; harmless when it is not known."""
        attempt = self._leases.pop(lease, None)
        if attempt is not None:
            there = self._nodes[attempt.node]
            there.pop(lease, None)
            self._changed.add(attempt.node)
            if not there:
                del self._nodes[attempt.node]
        return attempt

    def on(self, node: str, most: int) -> list[Attempt]:
        """The attempts on a node. Of which there are at most so many: older ones are surplus, of which nobody told that they
        ended, and are forgotten once they are many."""
        there = self._nodes.get(node)
        if not there:
            return []
        attempts = list(there.values())
        if len(attempts) > most:
            for lease in list(there)[: max(len(attempts) - 2 * most - 8, 0)]:
                self.ended(lease)
            attempts = attempts[len(attempts) - most :]
        return attempts

    def ends_s(self) -> Floats:
        """For each node when the first of its attempts ends at the earliest, on the clock of `began_ms`; infinite: unknown."""
        for node in self._changed:
            at = self._at.get(node)
            if at is not None:
                self._ends_s[at] = min((attempt.end_s for attempt in self._nodes.get(node, {}).values()), default=math.inf)
        self._changed.clear()
        return self._ends_s


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
    end_s = median_s * math.exp(min(math.log1p(2 * math.exp(power)) / steep, 700.0))
    return max(end_s - ran_s, ran_s - median_s)
