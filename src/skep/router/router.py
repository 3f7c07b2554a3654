"""The router: which node runs which task. Pure: nodes, predictions, chance and time are handed in, names of nodes come out."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from itertools import groupby

import numpy as np

from skep.model.node import LiveNode
from skep.router.breaker import Breaker
from skep.router.explain import Explanation, explain
from skep.router.fleet import Ints
from skep.router.hold import contenders, schedule
from skep.router.learned import LearnedPredictor
from skep.router.look import Costs, Failed, Look, Policy
from skep.router.predictor import Predictor
from skep.router.running import Attempt
from skep.router.settings import RouterSettings
from skep.router.spread import spread
from skep.router.view import View
from skep.router.wanted import Choice, Kind, Wanted

LOOKED_AT = 2_000
"""Tasks for which one pass looks whether a busy node would be better; those behind them are placed on what is free."""
EXPLAINED = 20
"""Candidates, and nodes ruled out, that an explanation names."""

_UNABLE, _UNHEALTHY, _FULL = Choice("", "unable"), Choice("", "unhealthy"), Choice("", "full")


class Router:
    """Keeps the fleet, what runs on it as far as it was told, and what was learned of it.

    `policies`: more of them, by name. `chance`: for policies that draw lots. `failed` is told once of each policy that does not
    work; the least loaded node is taken instead, and `failures` counts how often. `settings` may be replaced at any time.
    """

    def __init__(
        self,
        settings: RouterSettings | None = None,
        *,
        predictor: Predictor | None = None,
        breaker: Breaker | None = None,
        policies: Mapping[str, Policy] | None = None,
        chance: np.random.Generator | None = None,
        failed: Failed | None = None,
    ) -> None:
        self.predictor: Predictor = predictor if predictor is not None else LearnedPredictor()
        self.breaker = breaker if breaker is not None else Breaker()
        self._view = View(settings or RouterSettings(), self.predictor, self.breaker, policies or {}, chance, failed)
        self.fleet = self._view.fleet

    @property
    def settings(self) -> RouterSettings:
        return self._view.settings

    @settings.setter
    def settings(self, settings: RouterSettings) -> None:
        self._view.settings = settings

    @property
    def failures(self) -> dict[str, int]:
        """Policy → how often it did not work."""
        return self._view.failures

    def sync(self, nodes: Sequence[LiveNode]) -> None:
        """What the engine says of its nodes now. Called before `route`; what is then chosen is taken off what is free. It is
        cheap for nodes that are handed in as the same objects as the last time, which must not have changed."""
        self._view.sync(nodes)

    def route(self, tasks: Sequence[Wanted], now_ms: int) -> list[Choice]:
        """A choice for each, in the order in which they are offered: the first are served first."""
        chosen: list[Choice] = []
        for wanted, group in groupby(tasks):
            chosen += self._group(wanted, len(list(group)), now_ms)
        return chosen

    # -- what runs

    def began(self, lease: Hashable, node: str, kind: Kind, now_ms: int) -> None:
        """An attempt was granted to a node. `lease` names it until it ends, such as (run, task)."""
        view = self._view
        view.running.began(lease, Attempt(node, kind, now_ms, *view.expected(kind, node)))
        self.breaker.began(lease, node, kind.type, now_ms)

    def ended(self, lease: Hashable, node: str, kind: Kind, result: str, ran_ms: int, now_ms: int) -> None:
        """It is over: `succeeded`, `failed`, `cancelled`, `snoozed`, `parked` or `lost`. Harmless when repeated, or unknown."""
        attempt = self._view.running.ended(lease)
        ok = True if result == "succeeded" else False if result in ("failed", "lost") else None
        expected_s = max(attempt.median_s, 0.0) if attempt is not None else 0.0
        self.breaker.ended(lease, node, kind.type, ok, now_ms, ran_s=ran_ms / 1000, expected_s=expected_s)
        if result in ("succeeded", "failed"):
            self.predictor.learn(kind, node, ran_ms / 1000, result == "succeeded")
            self._view.forget(kind)

    # -- some equal tasks

    def _group(self, wanted: Wanted, count: int, now_ms: int) -> list[Choice]:
        view = self._view
        able = view.able(wanted)
        if not able.any():
            return [_UNABLE] * count
        if wanted.affinity and count > 1 and view.home(wanted) < 0:
            first = self._group(wanted, 1, now_ms)  # where it goes, the others go
            return first + (self._group(wanted, count - 1, now_ms) if first[0].node else first * (count - 1))
        usable = view.usable(wanted, able, now_ms)
        if not usable.any():
            return [_UNHEALTHY if (able & self.fleet.open).any() else _FULL] * count
        chosen = self._canaries(wanted, count, now_ms)
        for tier in view.tiers(wanted):
            if len(chosen) < count:
                chosen += self._place(wanted, count - len(chosen), view.rows(wanted, usable & tier), now_ms)
        if len(chosen) < count:
            rows = view.rows(wanted, usable)
            if len(rows):
                chosen += self._place(wanted, count - len(chosen), rows, now_ms, view.busy(wanted, usable, rows, now_ms))
        if wanted.affinity and chosen:
            view.settle_home(wanted.affinity, chosen)
        return chosen + [_FULL] * (count - len(chosen))

    def _canaries(self, wanted: Wanted, count: int, now_ms: int) -> list[Choice]:
        """One task each for nodes that are to show whether they work again."""
        chosen: list[Choice] = []
        for row in self._view.untested(wanted, now_ms)[:count]:
            self.breaker.try_on(self.fleet.ids[row], wanted.kind.type, now_ms)
            chosen += self._take(wanted, np.array([row]), np.ones(1, np.int64))
        return chosen

    def _place(self, wanted: Wanted, count: int, rows: Ints, now_ms: int, busy: Ints | None = None) -> list[Choice]:
        """Up to `count` tasks on nodes with room; fewer where there is no more. `busy`: nodes that may be waited for."""
        view = self._view
        look = view.look(wanted, count, rows if busy is None or not len(busy) else np.concatenate((rows, busy)))
        costs = view.costs(look)
        at, given = spread(costs.first, costs.step, look.room, count)
        if not len(at):
            return []
        if busy is not None and costs.wait and look.median_s is not None:
            waits = contenders(look, costs, at, given, view.settings)
            if len(waits):
                return self._hold(look, costs, at, given, waits, now_ms)
        return self._take(wanted, look.rows[at], given)

    def _hold(self, look: Look, costs: Costs, at: Ints, given: Ints, waits: Ints, now_ms: int) -> list[Choice]:
        view, wanted = self._view, look.wanted
        most = min(look.count, max(LOOKED_AT - view.looked_at, 0))
        ids = self.fleet.ids
        places, taken, lined_up = schedule(
            look, costs, at, given, waits, lambda row: view.queue(row, now_ms), view.settings, most
        )
        if taken:
            counts = np.fromiter(taken.values(), np.int64)
            queued = np.fromiter((lined_up.get(row, 0) for row in taken), np.int64)
            view.take(wanted, np.fromiter(taken, np.int64), counts, queued)
        view.looked_at += len(places)
        chosen = [Choice(ids[row]) if wait_s < 0 else Choice("", "held", ids[row], wait_s) for row, wait_s in places]
        left = look.count - len(chosen)
        if left and view.looked_at >= LOOKED_AT:
            chosen += self._place(wanted, left, view.rows(wanted, view.usable(wanted, view.able(wanted), now_ms)), now_ms)
        return chosen

    def _take(self, wanted: Wanted, rows: Ints, counts: Ints) -> list[Choice]:
        self._view.take(wanted, rows, counts)
        ids = self.fleet.ids
        if len(rows) == int(counts.sum()):
            return [Choice(ids[row]) for row in rows.tolist()]
        return [
            choice for row, count in zip(rows.tolist(), counts.tolist(), strict=True) for choice in [Choice(ids[row])] * count
        ]

    # -- in the open

    def explain(self, wanted: Wanted, now_ms: int, most: int = EXPLAINED) -> Explanation:
        """Where the task would go at this moment, and why; nothing is taken by it."""
        return explain(self._view, wanted, now_ms, most)
