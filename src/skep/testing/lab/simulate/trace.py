"""What happens to a fleet: which run arrives when and how long its tasks really take, and which nodes are lost.

All of it follows from the seed alone, so that every policy meets the same.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from skep.testing.lab.simulate.fleetfile import BACK_AFTER_MS, Arrivals, FleetFile
from skep.testing.lab.simulate.work import Durations, Work

ALONE: Final = Arrivals("at-once")


class Arriving(NamedTuple):
    """One run."""

    number: int
    at_ms: int
    work: Work
    seed: int
    noise: float

    @property
    def id(self) -> str:
        """Its id, which sorts by arrival as those of real runs do."""
        return f"run-{self.number:07}"

    def true_ms(self) -> Durations:
        """How long each step really takes, at speed 1."""
        if not self.noise:
            return self.work.step_ms
        chance = np.random.default_rng((self.seed, self.number))
        noisy: Durations = self.work.step_ms * chance.uniform(1 - self.noise, 1 + self.noise, self.work.size)
        return noisy


class Loss(NamedTuple):
    """A node is gone at a moment, and back later."""

    at_ms: int
    node: str
    back_ms: int
    """0: never."""


class Trace(NamedTuple):
    """Everything that happens."""

    runs: Sequence[Arriving]
    losses: Sequence[Loss]


def trace_of(works: Sequence[Work], fleet: FleetFile, arrivals: Arrivals, *, seed: int, noise: float, work_ms: float) -> Trace:
    """The runs of the workflows, in turn. `work_ms`: how long the fleet needs for one of each at least."""
    chance = random.Random(f"arrivals {seed}")
    count = arrivals.runs or len(works)
    runs, at = [], 0.0
    for number in range(count):
        runs.append(Arriving(number, round(at), works[number % len(works)], seed, noise))
        if arrivals.process == "every":
            at += arrivals.interval_ms
        elif arrivals.process == "poisson":
            at += chance.expovariate(1 / arrivals.interval_ms)
    within_ms = max(float(runs[-1].at_ms), work_ms * count / len(works), 1.0)
    return Trace(runs, losses_of(fleet, seed=seed, within_ms=within_ms))


def losses_of(fleet: FleetFile, *, seed: int, within_ms: float) -> list[Loss]:
    """The nodes that are lost in so long a time; those that fail by chance may do so in ten times of it."""
    said, chance = fleet.failures, random.Random(f"failures {seed}")
    found = []
    for node in chance.sample(fleet.nodes, said.lost):
        at = round(chance.uniform(0, within_ms))
        found.append(Loss(at, node.info.id, at + said.back_after_ms if said.back_after_ms else 0))
    if said.between_ms:
        back_after_ms = said.back_after_ms or BACK_AFTER_MS
        for node in fleet.nodes:
            at = round(chance.expovariate(1 / said.between_ms))
            while at < 10 * within_ms:
                found.append(Loss(at, node.info.id, at + back_after_ms))
                at += back_after_ms + round(chance.expovariate(1 / said.between_ms))
    return sorted(found)
