"""What the router knows at one moment: the fleet, what runs, what is predicted, and what of it holds until the next look."""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from skep.model.node import LiveNode
from skep.router.breaker import Breaker
from skep.router.fit import has
from skep.router.fleet import Fleet, Floats, Ints, Mask
from skep.router.hold import Queue
from skep.router.look import Costs, Failed, Look, Policy, lateness
from skep.router.policies import POLICIES, least_loaded
from skep.router.predictor import Prediction, Predictor, sound
from skep.router.running import Running
from skep.router.settings import RouterSettings
from skep.router.wanted import Choice, Kind, Wanted

AFFINITIES: Final = 100_000
"""Affinity keys remembered; those not used for the longest time are forgotten first."""
SHORTLIST: Final = 256
"""Busy nodes looked at more closely, whether to wait for them."""


class View:
    """See above."""

    def __init__(
        self,
        settings: RouterSettings,
        predictor: Predictor,
        breaker: Breaker,
        policies: Mapping[str, Policy],
        chance: np.random.Generator | None,
        failed: Failed | None,
    ) -> None:
        self.settings = settings
        self.fleet = Fleet()
        self.running = Running()
        self.failures: dict[str, int] = {}
        self._predictor = predictor
        self._breaker = breaker
        self._policies = {**POLICIES, **policies}
        self._chance = chance or np.random.default_rng(0)
        self._failed = failed
        self._homes: OrderedDict[str, str] = OrderedDict()
        self._served: Floats = np.zeros(0)
        self._turn = 0
        self._version = -1
        self._tiers: dict[tuple[str, ...], list[Mask]] = {}
        # Until the next look:
        self.looked_at = 0
        self._predictions: dict[Kind, Prediction | None] = {}
        self._usable: dict[tuple[object, ...], Mask] = {}
        self._queues: dict[int, Queue] = {}
        self._granted: list[tuple[Ints, Ints, Floats]] = []
        """Rows, how many tasks on each, and how long each of them takes there."""
        self._ahead: dict[int, list[float]] = {}
        """The same by row, for the queues."""
        self._soonest: Floats | None = None

    def sync(self, nodes: Sequence[LiveNode]) -> None:
        """See `Router.sync`."""
        before = self.fleet.ids
        self.fleet.sync(nodes)
        if self._version != self.fleet.version:
            self._version = self.fleet.version
            at = self.fleet.at
            for gone in set(before) - at.keys():
                self._breaker.forget(gone)
            self.running.place(at)
            served = dict(zip(before, self._served, strict=True))
            least = min(served.values(), default=0.0)
            self._served = np.array([served.get(name, least) for name in self.fleet.ids], np.float64)
            self._tiers.clear()
        self.looked_at = 0
        self._predictions.clear()
        self._usable.clear()
        self._queues.clear()
        self._granted.clear()
        self._ahead.clear()
        self._soonest = None

    # -- which nodes

    def able(self, wanted: Wanted) -> Mask:
        """Nodes that could ever run it."""
        return self.fleet.able(wanted.requirement, wanted.swarm, wanted.region)

    def usable(self, wanted: Wanted, able: Mask, now_ms: int) -> Mask:
        """Of those the ones that take new work and are not shut off, whether they have room or not. Where that leaves none, all
        of them: a fleet that is shut off as a whole would never do anything again."""
        key = wanted.requirement, wanted.swarm, wanted.region, wanted.kind.type
        found = self._usable.get(key)
        if found is None:
            there = able & self.fleet.open
            found = there.copy()
            for node in self._breaker.barred(wanted.kind.type, now_ms):
                if node in self.fleet.at:
                    found[self.fleet.at[node]] = False
            if not found.any():
                found = there
            self._usable[key] = found
        return found

    def why_barred(self, node: str, type_: str) -> str:
        """Why the node gets no tasks of this type now."""
        circuit = self._breaker.circuits().get((node, type_))
        return circuit.why if circuit is not None and circuit.why else "it is tried with one task"

    def untested(self, wanted: Wanted, now_ms: int) -> list[int]:
        """Rows of nodes with room that are to be tried with one task of this type."""
        barred = self._breaker.barred(wanted.kind.type, now_ms)
        if not barred:
            return []
        good, room = self.able(wanted) & self.fleet.open, self.fleet.space(wanted.requirement.takes()).room
        rows = [self.fleet.at[node] for node, shut in barred.items() if not shut and node in self.fleet.at]
        return [row for row in rows if good[row] and room[row] > 0]

    def rows(self, wanted: Wanted, usable: Mask) -> Ints:
        """The usable nodes that have room for it now."""
        return np.flatnonzero(usable & (self.fleet.space(wanted.requirement.takes()).room > 0))

    def busy(self, wanted: Wanted, usable: Mask, free: Ints, now_ms: int) -> Ints | None:
        """Nodes without room that may be done with it sooner than one of those that have some. None: it does not wait, not
        even for those that come to have no room by what is placed now."""
        known = self.predict(wanted.kind) if self.settings.hold else None
        if known is None:
            return None
        full = usable & (self.fleet.space(wanted.requirement.takes()).room <= 0)
        if not full.any():
            return free[:0]
        done = self._soonest_s(now_ms) + known.median_s
        better = done < float(known.median_s[free].max()) - self.settings.least_gain_s
        if wanted.cost_sensitive and self.fleet.priced:
            money = self.fleet.price * known.median_s
            better |= (money < float(money[free].max())) & (done < np.inf)
        found = np.flatnonzero(full & better)
        if len(found) > SHORTLIST:
            found = found[np.argpartition(done[found], SHORTLIST)[:SHORTLIST]]
        return found

    def _soonest_s(self, now_ms: int) -> Floats:
        """In how many seconds the first of the attempts on each node ends, at the earliest."""
        if self._soonest is None:
            self._soonest = np.maximum(self.running.ends_s() - now_ms / 1000, 0.0)
            for rows, _, runs_s in self._granted:
                self._soonest[rows] = np.minimum(self._soonest[rows], runs_s)
        return self._soonest

    def tiers(self, wanted: Wanted) -> list[Mask]:
        """The preferred nodes, the first choice first."""
        words = wanted.prefer or self.settings.prefer.get(wanted.kind.type, ())
        if not words:
            return []
        tiers = self._tiers.get(words)
        if tiers is None:
            infos = self.fleet.infos
            masks = (
                np.fromiter((info.id == word or has(info, word) for info in infos), np.bool_, len(infos)) for word in words
            )
            tiers = self._tiers[words] = list(masks)
        return tiers

    # -- what they would cost

    def look(self, wanted: Wanted, count: int, rows: Ints) -> Look:
        fleet = self.fleet
        whole = len(rows) == len(fleet)
        at: slice | Ints = slice(None) if whole else rows
        space = fleet.space(wanted.requirement.takes())
        known = self.predict(wanted.kind)
        median_s = known.median_s[at] if known is not None else None
        transfer_s = self._transfer_s(wanted)
        return Look(
            wanted=wanted,
            count=count,
            fleet=fleet,
            rows=np.arange(len(fleet)) if whole else rows,
            room=space.room[at],
            load=space.load[at],
            growth=space.growth[at],
            median_s=median_s,
            run_s=median_s if known is None or known.hope is None or median_s is None else median_s * known.hope[at],
            spread=known.spread[at] if known is not None else None,
            success=known.success[at] if known is not None and known.success is not None else None,
            transfer_s=transfer_s[at] if transfer_s is not None else None,
            home=self.home(wanted),
            turn=self._turn,
            served=self._served[at],
            weights=self.settings.weights,
            chance=self._chance,
        )

    def policy(self, wanted: Wanted) -> str:
        """The name of the task's policy, else of the only swarm that it can go to, else of the fleet."""
        if wanted.policy or not self.settings.swarms:
            return wanted.policy or self.settings.policy
        swarms = {wanted.swarm} if wanted.swarm else self.fleet.swarms(self.able(wanted))
        return (
            self.settings.swarms.get(next(iter(swarms)), "") or self.settings.policy
            if len(swarms) == 1
            else self.settings.policy
        )

    def costs(self, look: Look) -> Costs:
        """By the policy of the task; by load, when that does not work."""
        name = self.policy(look.wanted)
        try:
            costs = self._policies[name](look)
            if costs.first.shape != (len(look),) or not costs.first.min() > -np.inf:  # a minimum with NaN is NaN
                raise ValueError("expected one cost for each node, found NaN or another number of them")
        except Exception as error:  # noqa: BLE001  it may be anybody's code, and work must go on
            if name not in self.failures and self._failed is not None:
                told = f"there is no policy {name!r}" if name not in self._policies else f"{type(error).__name__}: {error}"
                self._failed(name, told)
            self.failures[name] = self.failures.get(name, 0) + 1
            costs = least_loaded(look)
        if (late := lateness(look)) is not None:
            costs.terms["deadline"] = late
            costs.first = costs.first + late
        return costs

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

    # -- what is predicted

    def predict(self, kind: Kind) -> Prediction | None:
        known = self._predictions
        if kind not in known:
            known[kind] = sound(self._predictor.predict(kind, self.fleet), self.fleet)
        return known[kind]

    def expected(self, kind: Kind, node: str) -> tuple[float, float]:
        """Median in seconds and spread of what was predicted in this pass: 0 when unknown, -1 when nobody asked."""
        if kind not in self._predictions:
            return -1.0, 0.0
        known, at = self._predictions[kind], self.fleet.at.get(node)
        return (0.0, 0.0) if known is None or at is None else (float(known.median_s[at]), float(known.spread[at]))

    def forget(self, kind: Kind) -> None:
        """More is known of it now."""
        self._predictions.pop(kind, None)

    def queue(self, row: int, now_ms: int) -> Queue:
        """When the busy slots of a node will be free; shared by all that is placed in this pass."""
        queue = self._queues.get(row)
        if queue is None:
            queue = self._queues[row] = []
            for attempt in self.running.on(self.fleet.ids[row], max(self.fleet.leases[row], 1)):
                if attempt.median_s < 0:
                    self.predict(attempt.kind)
                    attempt.median_s, attempt.spread = self.expected(attempt.kind, attempt.node)
                left_s = attempt.left_s(now_ms)
                if left_s < math.inf:
                    queue.append(left_s)
            heapq.heapify(queue)
        for rows, counts, runs_s in self._granted:
            for at, count, run_s in zip(rows.tolist(), counts.tolist(), runs_s.tolist(), strict=True):
                self._ahead.setdefault(at, []).extend([run_s] * count)
        self._granted.clear()
        for run_s in self._ahead.pop(row, ()):
            heapq.heappush(queue, run_s)
        return queue

    # -- what was chosen

    def take(self, wanted: Wanted, rows: Ints, counts: Ints, queued: Ints | int = 0) -> None:
        """So many tasks go to each of these nodes; some of them stand in the nodes' queues already."""
        self.fleet.take(rows, wanted.requirement.takes(), counts)
        self._served[rows] += counts / self.fleet.weight[rows]
        self._turn = int(rows[-1]) + 1
        known = self._predictions.get(wanted.kind)
        if known is not None:
            runs_s = known.median_s[rows]
            self._granted.append((rows, counts - queued, runs_s))
            if self._soonest is not None:
                self._soonest[rows] = np.minimum(self._soonest[rows], runs_s)

    def home(self, wanted: Wanted) -> int:
        """The row of the node where the tasks of its affinity key went; -1: none."""
        return self.fleet.at.get(self._homes.get(wanted.affinity, ""), -1) if wanted.affinity else -1

    def settle_home(self, key: str, chosen: Sequence[Choice]) -> None:
        """Remembers where the tasks of a key go; a node that is gone is replaced."""
        node = next((choice.node for choice in chosen if choice.node), "")
        if node and self._homes.get(key) not in self.fleet.at:
            self._homes[key] = node
        if key in self._homes:
            self._homes.move_to_end(key)
        if len(self._homes) > AFFINITIES:
            self._homes.popitem(last=False)
