"""The router: which node runs which task. Pure: nodes, predictions, chance and the time are handed in, names of nodes come out."""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from itertools import groupby
from typing import Final

import numpy as np

from skep.model.node import LiveNode
from skep.router.fit import has
from skep.router.fleet import Fleet, Floats, Ints, Mask
from skep.router.learned import LearnedPredictor
from skep.router.look import Costs, Failed, Look, Policy
from skep.router.policies import POLICIES, least_loaded
from skep.router.predictor import Prediction, Predictor, usable
from skep.router.running import Running
from skep.router.settings import RouterSettings
from skep.router.spread import spread
from skep.router.wanted import Choice, Kind, Wanted

AFFINITIES: Final = 100_000
"""Affinity keys remembered; those not used for the longest time are forgotten first."""
LOOKED_AT: Final = 2_000
"""Tasks that one pass may find a busy node for; the others are placed on what is free."""
UNABLE, UNHEALTHY, FULL = Choice("", "unable"), Choice("", "unhealthy"), Choice("", "full")


class Router:
    """Keeps the fleet, what runs on it as far as it was told, and what was learned of it."""

    def __init__(
        self,
        settings: RouterSettings | None = None,
        *,
        predictor: Predictor | None = None,
        policies: Mapping[str, Policy] | None = None,
        chance: np.random.Generator | None = None,
        failed: Failed | None = None,
    ) -> None:
        self.settings = settings or RouterSettings()
        self.predictor: Predictor = predictor if predictor is not None else LearnedPredictor()
        self.fleet = Fleet()
        self._policies = {**POLICIES, **(policies or {})}
        self._chance = chance or np.random.default_rng(0)
        self._failed = failed
        self.failures: dict[str, int] = {}
        """Policy → how often it did not work, and the least loaded node was taken instead."""
        self._running = Running()
        self._homes: OrderedDict[str, str] = OrderedDict()
        self._served: Floats = np.zeros(0)
        self._turn = 0
        self._version = -1
        self._prefers: dict[tuple[str, ...], list[Mask]] = {}
        self._pass = _Pass()

    def sync(self, nodes: Sequence[LiveNode]) -> None:
        """What the engine says of its nodes now. Called before `route`; what is then chosen is taken off what is free."""
        before = self.fleet.at
        self.fleet.sync(nodes)
        if self._version != self.fleet.version:
            self._version = self.fleet.version
            for gone in before.keys() - self.fleet.at.keys():
                self._running.leave(gone)
            served = dict(zip(before, self._served, strict=True))
            least = min(served.values(), default=0.0)
            self._served = np.array([served.get(name, least) for name in self.fleet.ids], np.float64)
            self._prefers.clear()
        self._pass = _Pass()

    def route(self, tasks: Sequence[Wanted], now_ms: int) -> list[Choice]:
        """A choice for each, in the order in which they are offered: the first are served first."""
        chosen: list[Choice] = []
        for wanted, group in groupby(tasks):
            chosen += self._group(wanted, len(list(group)), now_ms)
        return chosen

    # -- what runs

    def began(self, lease: Hashable, node: str, kind: Kind, now_ms: int) -> None:
        """An attempt was granted to a node. `lease` names it until it ends, such as (run, task)."""
        self._running.began(lease, node, kind, now_ms)

    def ended(self, lease: Hashable, node: str, kind: Kind, result: str, ran_ms: int, now_ms: int) -> None:
        """It is over: `succeeded`, `failed`, `cancelled`, `snoozed`, `parked` or `lost`. Harmless when repeated, or unknown."""
        self._running.ended(lease)
        if result in ("succeeded", "failed"):
            self.predictor.learn(kind, node, ran_ms / 1000, result == "succeeded")
            self._pass.predictions.pop(kind, None)

    # -- one group of equal tasks

    def _group(self, wanted: Wanted, count: int, now_ms: int) -> list[Choice]:
        fleet = self.fleet
        able = fleet.able(wanted.requirement, wanted.swarm, wanted.region)
        if not able.any():
            return [UNABLE] * count
        takes = wanted.requirement.takes()
        usable_now = able & fleet.open
        look = self._look(wanted, count, usable_now, takes)
        chosen: list[Choice] = []
        if wanted.affinity and look.home < 0 and count > 1:
            chosen = self._group(wanted, 1, now_ms)  # where the first goes, the others go
            more = self._group(wanted, count - 1, now_ms) if chosen[0].node else [chosen[0]] * (count - 1)
            return chosen + more
        costs = self._costs(look)
        for tier in self._tiers(wanted):
            given = spread(costs.first, costs.step, np.where(tier, look.room, 0), count - len(chosen))
            chosen += self._grant(look, given, takes)
            if len(chosen) == count:
                break
            if chosen:
                look.room = np.where(usable_now, fleet.fits(takes), 0)
        if len(chosen) < count:
            chosen += self._rest(look, costs, count - len(chosen), takes, now_ms)
        if wanted.affinity:
            self._remember(wanted.affinity, chosen)
        return chosen

    def _rest(self, look: Look, costs: Costs, count: int, takes: tuple[tuple[str, int], ...], now_ms: int) -> list[Choice]:
        if not look.room.any():
            return [FULL] * count
        given = spread(costs.first, costs.step, look.room, count)
        if costs.wait and self.settings.hold and look.run_s is not None:
            waiting = self._waiting(look, costs, given)
            if len(waiting):
                return self._hold(look, costs, count, given, waiting, takes, now_ms)
        chosen = self._grant(look, given, takes)
        return chosen + [FULL] * (count - len(chosen))

    def _look(self, wanted: Wanted, count: int, usable_now: Mask, takes: tuple[tuple[str, int], ...]) -> Look:
        fleet = self.fleet
        load, growth = fleet.load(takes)
        known = self._predict(wanted.kind)
        home = self._homes.get(wanted.affinity) if wanted.affinity else None
        return Look(
            wanted=wanted,
            count=count,
            fleet=fleet,
            usable=usable_now,
            room=np.where(usable_now, fleet.fits(takes), 0),
            load=load,
            growth=growth,
            run_s=None if known is None else known.median_s if known.hope is None else known.median_s * known.hope,
            spread=known.spread if known else None,
            success=known.success if known else None,
            transfer_s=self._transfer_s(wanted),
            home=fleet.at.get(home, -1) if home else -1,
            turn=self._turn,
            served=self._served,
            weights=self.settings.weights,
            chance=self._chance,
        )

    def _costs(self, look: Look) -> Costs:
        name = look.wanted.policy or self.settings.policy
        try:
            policy = self._policies[name]
            costs = policy(look)
            if len(costs.first) != len(look.fleet) or np.isnan(costs.first).any():
                raise ValueError("found a cost that is no number, or not one cost for each node")
            return costs
        except Exception as error:  # noqa: BLE001 - it may be anybody's code, and work must go on
            if name not in self.failures and self._failed is not None:
                told = f"there is no policy {name!r}" if isinstance(error, KeyError) else f"{type(error).__name__}: {error}"
                self._failed(name, told)
            self.failures[name] = self.failures.get(name, 0) + 1
            return least_loaded(look)

    def _grant(self, look: Look, given: Ints, takes: tuple[tuple[str, int], ...]) -> list[Choice]:
        fleet, chosen = self.fleet, list[Choice]()
        for at in np.flatnonzero(given).tolist():
            some = int(given[at])
            chosen += [self._took(look, at, some, takes)] * some
        return chosen

    def _took(self, look: Look, at: int, some: int, takes: tuple[tuple[str, int], ...]) -> Choice:
        self.fleet.take(at, takes, some)
        self._served[at] += some / self.fleet.weight[at]
        self._turn = at + 1
        if look.run_s is not None:
            self._pass.granted.setdefault(at, []).extend([float(look.run_s[at])] * some)
        return Choice(self.fleet.ids[at])

    # -- waiting for a busy node

    def _waiting(self, look: Look, costs: Costs, given: Ints) -> Ints:
        """Nodes that will have no room left, but would be better than the worst that is about to be taken, were they free."""
        dearest = float((costs.first + costs.step * np.maximum(given - 1, 0)).max(where=given > 0, initial=-np.inf))
        assert look.run_s is not None
        longest = float(look.run_s.max(where=given > 0, initial=0.0))
        better = look.usable & (look.room <= given) & (costs.first < dearest)
        better &= look.run_s + self.settings.least_gain_s < longest
        return np.flatnonzero(better)

    def _hold(
        self,
        look: Look,
        costs: Costs,
        count: int,
        given: Ints,
        waiting: Ints,
        takes: tuple[tuple[str, int], ...],
        now_ms: int,
    ) -> list[Choice]:
        """List scheduling: each task in turn to the node where it costs least, which may be one that is busy for now."""
        assert look.run_s is not None
        assert look.spread is not None
        first, run_s, room = costs.first, look.run_s, look.room
        step = costs.step
        doubt = self.settings.doubt
        queues: dict[int, list[float]] = {}
        places: list[tuple[float, int]] = []
        free = 0
        for at in np.flatnonzero(given).tolist():
            places.append((float(first[at]), at))
            free += int(given[at])
        taken: dict[int, int] = {}

        def later(at: int) -> None:
            queue = queues.get(at)
            if queue is None:
                queue = queues[at] = self._queue(at, now_ms)
            if queue:
                margin = doubt * float(look.spread[at]) * (queue[0] + float(run_s[at])) + self.settings.least_gain_s  # type: ignore[index]
                places.append((float(first[at]) + costs.wait * (queue[0] + margin), ~at))

        for at in waiting.tolist():
            if not room[at]:
                later(at)
        heapq.heapify(places)
        chosen: list[Choice] = []
        waits = set(waiting.tolist())
        while places and len(chosen) < count and free:
            cost, at = places[0]
            if at >= 0:
                heapq.heappop(places)
                free -= 1
                chosen.append(self._took(look, at, 1, takes))
                taken[at] = taken.get(at, 0) + 1
                if taken[at] < int(room[at]):
                    grow = float(step[at]) if isinstance(step, np.ndarray) else step
                    heapq.heappush(places, (cost + grow, at))
                elif at in waits:
                    before = len(places)
                    later(at)
                    if len(places) > before:
                        heapq.heapify(places)
                continue
            at = ~at
            heapq.heappop(places)
            queue = queues[at]
            wait = queue[0]
            heapq.heapreplace(queue, wait + float(run_s[at]))
            chosen.append(Choice("", "held", self.fleet.ids[at], wait))
            self._pass.held += 1
            before = len(places)
            later(at)
            heapq.heapify(places)
            if self._pass.held > LOOKED_AT:
                break
        if len(chosen) < count:
            look.room = np.where(look.usable, self.fleet.fits(takes), 0)
            rest = (
                spread(first, step, look.room, count - len(chosen))
                if self._pass.held > LOOKED_AT
                else np.zeros(len(first), np.int64)
            )
            chosen += self._grant(look, rest, takes)
        return chosen + [FULL] * (count - len(chosen))

    def _queue(self, at: int, now_ms: int) -> list[float]:
        """When its busy slots will be free, in seconds from now, the next one first (a heap). Shared by all of a pass."""
        queue = self._pass.queues.get(at)
        if queue is None:
            fleet = self.fleet
            queue = self._pass.queues[at] = []
            for attempt in self._running.on(fleet.ids[at], max(fleet.leases[at], 1)):
                if attempt.median_s < 0:
                    known = self._predict(attempt.kind)
                    attempt.median_s = float(known.median_s[at]) if known else 0.0
                    attempt.spread = float(known.spread[at]) if known else 0.0
                left = attempt.left_s(now_ms)
                if left < math.inf:
                    queue.append(left)
            heapq.heapify(queue)
        for run in self._pass.granted.pop(at, ()):
            heapq.heappush(queue, run)
        return queue

    # -- what is known

    def _predict(self, kind: Kind) -> Prediction | None:
        known = self._pass.predictions
        if kind not in known:
            known[kind] = usable(self.predictor.predict(kind, self.fleet), self.fleet)
        return known[kind]

    def _transfer_s(self, wanted: Wanted) -> Floats | None:
        if not wanted.near:
            return None
        there = np.zeros(len(self.fleet))
        for node, size in wanted.near:
            at = self.fleet.at.get(node)
            if at is not None:
                there[at] += max(size, 0)
        transfer: Floats = (there.max() - there) / self.settings.bytes_per_s
        return transfer

    def _tiers(self, wanted: Wanted) -> list[Mask]:
        words = wanted.prefer or self.settings.prefer.get(wanted.kind.type, ())
        if not words:
            return []
        tiers = self._prefers.get(words)
        if tiers is None:
            infos = self.fleet.infos
            tiers = self._prefers[words] = [
                np.fromiter((info.id == word or has(info, word) for info in infos), np.bool_, len(infos)) for word in words
            ]
        return tiers

    def _remember(self, key: str, chosen: Sequence[Choice]) -> None:
        home = next((choice.node for choice in chosen if choice.node), "")
        if home:
            self._homes.setdefault(key, home)
            self._homes.move_to_end(key)
            if len(self._homes) > AFFINITIES:
                self._homes.popitem(last=False)


class _Pass:
    """What holds until the nodes are looked at again."""

    __slots__ = ("granted", "held", "predictions", "queues")

    def __init__(self) -> None:
        self.predictions: dict[Kind, Prediction | None] = {}
        self.queues: dict[int, list[float]] = {}
        self.granted: dict[int, list[float]] = {}
        """What was granted to a node since its queue was looked at: predicted times to run."""
        self.held = 0
