"""The predictor that learns from every end, with a few steps of work each; see `skep.router.evidence` for how."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from skep.router.evidence import (
    PACE_VAR,
    SUIT_VAR,
    KindEvidence,
    NodeEvidence,
    Pair,
    count,
    forget,
    observe,
)
from skep.router.fleet import Fleet
from skep.router.predictor import Prediction
from skep.router.wanted import Kind

KINDS: Final = 20_000
"""Kinds kept; the ones that were not seen for the longest time are forgotten first."""
TYPES: Final = 64
"""Types told apart; the rest are one."""
NOISE: Final = 0.02
"""Variance of the durations of equal tasks, until it is known."""
CURIOSITY: Final = 1.0
"""By how many standard deviations of what is not known of a node it is hoped to be faster: so it is tried."""
GUESS_VAR: Final = 0.25
"""Variance of what authors say."""
UNKNOWN_VAR: Final = 4.0
"""Variance of kinds of which nothing is known."""
SETTLED_VAR: Final = 0.02
"""Below this variance a node's pace counts as known, so that it can have changed."""
TELLING_VAR: Final = 0.15
"""Ends that are predicted with a smaller variance than this tell whether a node has changed."""
MOST_OFF: Final = 1.5
"""By how much an end may be off, as a logarithm, when it is judged whether something changed: one outlier says nothing."""
MOVED: Final = 0.01
"""A change of a node's pace that is worth looking at other nodes again."""
STEPS, FEW_STEPS, MOST_STEPS = 48, 6, 512
"""Pairs that are looked at again for each end: when it was a surprise, and when not. What is not used is kept for later, up to
the last number."""


VERSION: Final = 1
KIND_FIELDS: Final = ("prior", "prior_var", "noise", "ends", "bias", "size_mean", "size_var", "size_cov")
SETTLING: Final = 4
"""Rounds over all nodes after a restart."""


class _Lane:
    """One type of task, by node."""

    def __init__(self, nodes: int) -> None:
        self.pace = np.ones(nodes)
        """Factor of the time on each node."""
        self.var = np.full(nodes, PACE_VAR + SUIT_VAR)
        """Variance of its logarithm."""
        self.hope = np.full(nodes, math.exp(-CURIOSITY * math.sqrt(PACE_VAR + SUIT_VAR)))
        self.success = np.ones(nodes)
        self.tried = np.zeros(nodes)
        self.kinds = 0
        self.mean = 0.0
        self.squares = 0.0
        self.noise = NOISE

    def grow(self, more: int) -> None:
        new = _Lane(more)
        for name in ("pace", "var", "hope", "success", "tried"):
            setattr(self, name, np.concatenate((getattr(self, name), getattr(new, name))))

    @property
    def kind_var(self) -> float:
        """Variance of the means of its kinds."""
        return (1.0 + self.squares) / max(self.kinds, 1)


class LearnedPredictor:
    """See above. `state` and `restore` keep it over a restart."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[str, str, str], KindEvidence] = {}
        self._lanes: dict[tuple[str, str], _Lane] = {}
        self._at: dict[str, int] = {}
        self._nodes: list[NodeEvidence] = []
        self._room = 0
        """Length of the arrays."""
        self._rows: tuple[Fleet | None, int, Any] = (None, -1, None)
        self._failed = False
        self._steps = 0
        self._next = 0

    def predict(self, kind: Kind, fleet: Fleet) -> Prediction | None:
        level = self._kinds.get(kind[:3])
        lane = self._lanes.get((kind.type, kind.executor)) or self._lanes.get(("", kind.executor))
        if level is None:
            level = self._guess(kind, lane)
            if level is None:
                return None
        rows = self._places(fleet)
        lane = lane or self._lane(kind)
        mean, var = level.mean()
        base = math.exp(min(mean + level.by_size(kind.size), 40.0))
        median_s, variance = lane.pace[rows] * base, lane.var[rows] + (var + level.noise)
        for name, pair in level.pairs.items():
            at = fleet.at.get(name)
            if at is not None:
                off, off_var = pair.off(mean, var)
                median_s[at] *= math.exp(off)
                variance[at] = level.noise + off_var
        return Prediction(median_s, np.sqrt(variance), lane.success[rows] if self._failed else None, lane.hope[rows])

    def learn(self, kind: Kind, node: str, ran_s: float, ok: bool) -> None:
        at, lane = self._place(node), self._lane(kind)
        lane.tried[at] = tried = min(lane.tried[at] + 1, 50)
        lane.success[at] = max(lane.success[at] + (ok - lane.success[at]) / (tried + 5), 0.01)
        self._failed = self._failed or not ok
        if not ok or not 0 <= ran_s < math.inf:
            return
        log_s = math.log(max(ran_s, 1e-3))
        evidence = self._nodes[at]
        level = self._kinds.pop(kind[:3], None) or self._guess(kind, lane) or KindEvidence(kind.type, log_s, UNKNOWN_VAR, NOISE)
        self._kinds[kind[:3]] = level
        if len(self._kinds) > KINDS:
            self._forget(next(iter(self._kinds)))
        by_size = level.by_size(kind.size)
        known, var = level.mean()
        off = log_s - (known + by_size + evidence.pace + evidence.suit(kind.type)[0])
        expected = level.noise + var + evidence.pace_var + SUIT_VAR
        observe(level, evidence, log_s - by_size)
        level.learn_size(kind.size, off + by_size)
        self._learn_type(lane, level, known, level.ends == 1)
        surprise = off * off > 2 * expected or evidence.pace_var > 0.01
        if level.ends > 1:
            self._mind_change(level, evidence, min(max(off, -MOST_OFF), MOST_OFF), expected, log_s - by_size)
        self._steps = min(self._steps + (STEPS if surprise else FEW_STEPS), MOST_STEPS)
        self._work(at)

    def _mind_change(self, level: KindEvidence, node: NodeEvidence, off: float, expected: float, log_s: float) -> None:
        """When a node, or a kind, is off again and again in the same direction, it is not what it was."""
        if expected < TELLING_VAR:
            node.bias += (off - node.bias) / 6
        level.bias += (off - level.bias) / 5
        newest = level.pairs[node.name]
        if level.bias**2 > 6 * max(expected, 0.05):
            for pair in list(level.pairs.values()):
                if pair is not newest:
                    forget(pair)
            newest.mean, newest.ends, level.bias, node.bias = log_s, 1.0, 0.0, 0.0
            level.prior_var = UNKNOWN_VAR
            count(newest)
        elif expected < TELLING_VAR and node.pace_var < SETTLED_VAR and node.bias**2 > 0.16:
            node.doubt()
            observe(level, node, log_s)

    def _work(self, at: int) -> None:
        """Settles the node, then others in turn, as far as steps are left."""
        for _ in range(4):
            node = self._nodes[at]
            if len(node.pairs) > self._steps:
                return
            before = node.pace
            node.settle()
            self._steps -= max(len(node.pairs), 4)
            if abs(node.pace - before) > MOVED:  # what was said of others by it is no longer so
                self._steps = min(self._steps + 3 * len(node.pairs), MOST_STEPS)
            self._show(at)
            self._next = (self._next + 1) % len(self._nodes)
            at = self._next

    def _show(self, at: int) -> None:
        """Puts what is known of a node into the arrays."""
        node = self._nodes[at]
        for (type_, _), lane in self._lanes.items():
            suit, suit_var = node.suit(type_)
            var = node.pace_var + suit_var
            lane.pace[at] = math.exp(min(max(node.pace + suit, -40.0), 40.0))
            lane.var[at] = var
            lane.hope[at] = math.exp(-CURIOSITY * math.sqrt(var))

    def _learn_type(self, lane: _Lane, level: KindEvidence, before: float, new: bool) -> None:
        mean, _ = level.mean()
        if new:
            lane.kinds += 1
            gap = mean - lane.mean
            rate = 1 / min(lane.kinds, 100)
            lane.mean += rate * gap
            lane.squares += gap * gap * (1 - rate) if lane.kinds > 1 else 0.0
            if lane.kinds > 100:
                lane.squares *= 0.99
        else:
            lane.mean += (mean - before) / min(max(lane.kinds, 1), 100)
        lane.noise += 0.02 * (level.noise - lane.noise)

    def _guess(self, kind: Kind, lane: _Lane | None) -> KindEvidence | None:
        """Of a kind that never ran: what its author expects, else what its type takes."""
        noise = lane.noise if lane is not None else NOISE
        if kind.estimate_ms > 0:
            return KindEvidence(kind.type, math.log(kind.estimate_ms / 1000), GUESS_VAR, noise)
        if lane is not None and lane.kinds:
            return KindEvidence(kind.type, lane.mean, max(lane.kind_var, 0.01), noise)
        return None

    def _forget(self, key: tuple[str, str, str]) -> None:
        level = self._kinds.pop(key)
        for pair in list(level.pairs.values()):
            pair.node.give_up(pair)

    def _lane(self, kind: Kind) -> _Lane:
        key = kind.type, kind.executor
        if key not in self._lanes:
            if len(self._lanes) >= TYPES:
                key = "", ""
            if key not in self._lanes:
                self._lanes[key] = _Lane(self._room)
                for at in range(len(self._nodes)):
                    self._show(at)
        return self._lanes[key]

    def _place(self, node: str) -> int:
        at = self._at.get(node)
        if at is None:
            at = self._at[node] = len(self._nodes)
            self._nodes.append(NodeEvidence(node))
            if at >= self._room:
                more = max(16, self._room)
                self._room += more
                for lane in self._lanes.values():
                    lane.grow(more)
        return at

    def _places(self, fleet: Fleet) -> Any:
        """Where the fleet's nodes stand in the arrays: a slice, where they stand in the same order."""
        known, version, rows = self._rows
        if known is not fleet or version != fleet.version:
            found = [self._place(name) for name in fleet.ids]
            rows = slice(0, len(found)) if found == list(range(len(found))) else np.array(found, np.int64)
            self._rows = (fleet, fleet.version, rows)
        return rows

    # -- kept over a restart

    def state(self) -> dict[str, Any]:
        """All that was learned, as plain data (JSON, MessagePack): for `restore`."""
        keys = {id(level): at for at, level in enumerate(self._kinds.values())}
        return {
            "version": VERSION,
            "kinds": [[*key, *(getattr(level, name) for name in KIND_FIELDS)] for key, level in self._kinds.items()],
            "nodes": [[node.name, node.base, node.base_weight] for node in self._nodes],
            "pairs": [
                [keys[id(pair.kind)], at, pair.ends, pair.mean]
                for at, node in enumerate(self._nodes)
                for pair in node.pairs.values()
            ],
            "types": [
                [*key, lane.kinds, lane.mean, lane.squares, lane.noise, lane.success.tolist(), lane.tried.tolist()]
                for key, lane in self._lanes.items()
            ],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """What `state` gave, in place of all that is known. Raises ValueError when it was made by another version."""
        if state.get("version") != VERSION:
            raise ValueError(f"expected predictions of version {VERSION}, found {state.get('version')!r}")
        fresh = LearnedPredictor()
        for name, base, base_weight in state["nodes"]:
            node = fresh._nodes[fresh._place(name)]
            node.base, node.base_weight = base, base_weight
        levels: list[KindEvidence] = []
        for name, type_, executor, *values in state["kinds"]:
            level = KindEvidence(type_, 0.0, 1.0, NOISE)
            for field, value in zip(KIND_FIELDS, values, strict=True):
                setattr(level, field, value)
            levels.append(level)
            fresh._kinds[name, type_, executor] = level
        for kind, at, ends, mean in state["pairs"]:
            level, node = levels[kind], fresh._nodes[at]
            pair = level.pairs[node.name] = node.pairs[id(level)] = Pair(level, node)
            pair.ends, pair.mean = ends, mean
            count(pair)
        for type_, executor, kinds, mean, squares, noise, success, tried in state["types"]:
            lane = fresh._lanes[type_, executor] = _Lane(fresh._room)
            lane.kinds, lane.mean, lane.squares, lane.noise = kinds, mean, squares, noise
            lane.success[: len(success)], lane.tried[: len(tried)] = success[: fresh._room], tried[: fresh._room]
            fresh._failed = fresh._failed or min(success, default=1.0) < 1
        for _ in range(SETTLING):
            for at, node in enumerate(fresh._nodes):
                node.settle()
                fresh._show(at)
        self.__dict__.update(fresh.__dict__)
