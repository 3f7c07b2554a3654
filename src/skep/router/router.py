"""The router: which node runs which task. Pure: nodes, predictions and the time are handed in, names of nodes come out."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import groupby

import numpy as np

from skep.model.node import LiveNode
from skep.router.fleet import Fleet
from skep.router.wanted import Choice, Kind, Wanted


class Router:
    """Keeps the fleet, what runs on it as far as it was told, and what was learned of it."""

    def __init__(self) -> None:
        self.fleet = Fleet()

    def sync(self, nodes: Sequence[LiveNode]) -> None:
        """What the engine says of its nodes now. Called before `route`; what is then chosen is taken off what is free."""
        self.fleet.sync(nodes)

    def route(self, tasks: Sequence[Wanted], now_ms: int) -> list[Choice]:
        """A choice for each, in the order in which they are offered: the first are served first."""
        chosen: list[Choice] = []
        for wanted, group in groupby(tasks):
            chosen += self._group(wanted, len(list(group)))
        return chosen

    def _group(self, wanted: Wanted, count: int) -> list[Choice]:
        fleet, takes = self.fleet, wanted.requirement.takes()
        able = fleet.able(wanted.requirement)
        if not able.any():
            return [Choice("", "unable")] * count
        fits = np.where(able & fleet.open, fleet.fits(takes), 0)
        found: list[Choice] = []
        for at in np.argsort(-fits, kind="stable"):
            some = min(int(fits[at]), count - len(found))
            fleet.take(int(at), takes, some)
            found += [Choice(fleet.ids[at])] * some
        return found + [Choice("", "full")] * (count - len(found))

    # -- what runs

    def began(self, lease: Hashable, node: str, kind: Kind, now_ms: int) -> None:
        """An attempt was granted to a node. `lease` names it until it ends, such as (run, task)."""

    def ended(self, lease: Hashable, node: str, kind: Kind, result: str, ran_ms: int, now_ms: int) -> None:
        """It is over: `succeeded`, `failed`, `cancelled`, `snoozed`, `parked` or `lost`. Harmless when repeated, or unknown."""
