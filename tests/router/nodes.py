"""Nodes and tasks for the tests of the router."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from skep.model.node import LiveNode, NodeInfo, Requirement
from skep.router.fleet import Fleet
from skep.router.predictor import Prediction
from skep.router.wanted import Kind, Wanted

RUN = Requirement("run")


def live(name: str, *, free: int | None = None, draining: bool = False, **info: Any) -> LiveNode:
    """A node; `free` slots, or all of them."""
    made = NodeInfo(name, **({"slots": 4, "cpu_milli": 4_000, "memory": 1_000, "vram": 1_000} | info))
    slots = made.slots if free is None else free
    units = {"slots": slots, "cpu": made.cpu_milli, "memory": made.memory, "vram": made.vram}
    return LiveNode(made, units, made.slots - slots, draining)


def some(count: int, **info: Any) -> list[LiveNode]:
    """Equal nodes n00, n01, …"""
    return [live(f"n{at:02}", **info) for at in range(count)]


def wanted(name: str = "w/t", requirement: Requirement = RUN, **more: Any) -> Wanted:
    return Wanted(requirement, Kind(name, "", "run"), **more)


class Known:
    """A predictor that was told how long every task takes on each node, in seconds."""

    def __init__(self, seconds: Mapping[str, float | Sequence[float]], spread: float = 0.0) -> None:
        self.seconds = dict(seconds)
        self.spread = spread

    def predict(self, kind: Kind, fleet: Fleet) -> Prediction | None:
        seconds = self.seconds.get(kind.name)
        if seconds is None:
            return None
        median_s = np.broadcast_to(np.array(seconds, np.float64), (len(fleet),)).copy()
        return Prediction(median_s, np.full(len(fleet), self.spread))

    def learn(self, kind: Kind, node: str, ran_s: float, ok: bool) -> None:
        """It knew."""
