"""The predictor that knows: perfect predictions, to tell what the router makes of predictions from how good they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from skep.router.fleet import Fleet, Floats
from skep.router.predictor import Prediction
from skep.router.wanted import Kind
from skep.testing.lab.simulate.fleetfile import SimulatedNode

LEAST_S: Final = 1e-6
"""A predictor's 0 means that it does not know."""


class Oracle:
    """Knows the true duration of each kind, and the true speed of each node."""

    def __init__(self, nodes: Sequence[SimulatedNode]) -> None:
        self._nodes = {node.info.id: node for node in nodes}
        self._ms: dict[str, float] = {}
        self._speeds: dict[str, Floats] = {}
        self._version = -1

    def tell(self, kind: Kind, ms: float) -> None:
        """How long tasks of this kind take at speed 1."""
        self._ms[kind.name] = ms

    def forget(self, kind: Kind) -> None:
        """The task is over."""
        self._ms.pop(kind.name, None)

    def predict(self, kind: Kind, fleet: Fleet) -> Prediction | None:
        ms = self._ms.get(kind.name)
        if ms is None:
            return None
        if self._version != fleet.version:
            self._version = fleet.version
            self._speeds.clear()
        speeds = self._speeds.get(kind.type)
        if speeds is None:
            speeds = self._speeds[kind.type] = np.array([self._nodes[name].speed(kind.type) for name in fleet.ids])
        return Prediction(np.maximum(ms / 1000 / speeds, LEAST_S), np.zeros(len(speeds)))

    def learn(self, kind: Kind, node: str, ran_s: float, ok: bool) -> None:
        """It knew."""
