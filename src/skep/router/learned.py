"""The predictor that learns from every end: the logarithm of a duration is what its kind takes, plus how slow the node is, plus
how slow it is for tasks of this type, plus a slope by size.

Each of these is an estimate with a variance (a Kalman filter without the correlations): what an end differs from its prediction
by is shared out among them by how little each is known. So a node's speed is learned over all kinds, and a kind's duration on
one node says what it takes on every other.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from skep.router.fleet import Fleet, Floats
from skep.router.predictor import Prediction
from skep.router.wanted import Kind

KINDS: Final = 20_000
"""Kinds kept; the ones that were not seen for the longest time are forgotten first."""
NODES: Final = 50_000
TYPES: Final = 64
"""Types told apart; the rest are one."""

_KIND_VAR, _GUESS_VAR, _TYPE_VAR = 4.0, 0.25, 1.0
"""Variance of a kind of which nothing, an author's estimate, or only the type is known."""
_NODE_VAR, _FIT_VAR = 0.25, 0.02
"""Variance of a node's speed, and of how much better or worse it is for one type than for others."""
_NOISE: Final = 0.02
"""Variance of the durations of equal tasks, until it is known."""
_LEAST_NOISE: Final = 1e-4
_FORGET_KIND, _FORGET_NODE = 1 / 400, 1 / 900
"""How fast old ends are forgotten, in units of the noise: after about 20, and 30, newer ones."""


class _Level:
    """What is known of one kind."""

    __slots__ = ("mean", "n", "noise", "size_mean", "size_var", "slope_cov", "var")

    def __init__(self, mean: float, var: float, noise: float) -> None:
        self.mean = mean
        self.var = var
        self.noise = noise
        self.n = 0
        self.size_mean = 0.0
        self.size_var = 0.0
        self.slope_cov = 0.0

    def at(self, size: int) -> float:
        """The logarithm of the time on an ordinary node."""
        if not size or not self.size_var:
            return self.mean
        return self.mean + self.slope * (math.log2(size) - self.size_mean)

    @property
    def slope(self) -> float:
        """By doubling of the size; careful while little is known."""
        return self.slope_cov / (self.size_var + 0.5)


class _Lane:
    """What is known of one type of task, by node."""

    __slots__ = ("fit", "fit_var", "mean", "n", "noise", "pace", "success", "tried", "var")

    def __init__(self, speed: Floats) -> None:
        self.fit = np.zeros(len(speed))
        self.fit_var = np.full(len(speed), _FIT_VAR)
        self.pace = np.exp(speed)
        self.success = np.ones(len(speed))
        self.tried = np.zeros(len(speed))
        self.n = 0
        self.mean = 0.0
        self.var = _TYPE_VAR
        self.noise = _NOISE

    def grow(self, speed: Floats) -> None:
        more = len(speed) - len(self.fit)
        self.fit = np.concatenate((self.fit, np.zeros(more)))
        self.fit_var = np.concatenate((self.fit_var, np.full(more, _FIT_VAR)))
        self.pace = np.concatenate((self.pace, np.exp(speed[-more:])))
        self.success = np.concatenate((self.success, np.ones(more)))
        self.tried = np.concatenate((self.tried, np.zeros(more)))


class LearnedPredictor:
    """See above. `state` and `restore` keep it over a restart."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[str, str, str], _Level] = {}
        self._lanes: dict[tuple[str, str], _Lane] = {}
        self._at: dict[str, int] = {}
        self._speed: Floats = np.zeros(0)
        self._speed_var: Floats = np.zeros(0)
        self._bias: Floats = np.zeros(0)
        """How much longer than predicted things took there lately."""
        self._rows: tuple[Fleet | None, int, Any] = (None, -1, None)
        self._failed = False

    def predict(self, kind: Kind, fleet: Fleet) -> Prediction | None:
        lane = self._lanes.get((kind.type, kind.executor)) or self._lanes.get(("", kind.executor))
        level = self._kinds.get(kind[:3]) or self._guess(kind, lane)
        if level is None:
            return None
        rows = self._places(fleet)
        if lane is None:
            lane = self._lane(kind)
        base = math.exp(min(level.at(kind.size), 40.0))
        var = self._speed_var[rows] + lane.fit_var[rows]
        var += level.var + level.noise
        success = lane.success[rows] if self._failed else None
        return Prediction(lane.pace[rows] * base, np.sqrt(var), success)

    def learn(self, kind: Kind, node: str, ran_s: float, ok: bool) -> None:
        at, lane = self._place(node), self._lane(kind)
        lane.tried[at] = tried = min(lane.tried[at] + 1, 50)
        lane.success[at] = max(lane.success[at] + (ok - lane.success[at]) / (tried + 5), 0.01)
        self._failed = self._failed or not ok
        if not ok or not (0 <= ran_s < math.inf):
            return
        key = kind[:3]
        level = self._kinds.pop(key, None) or self._guess(kind, lane) or _Level(math.log(max(ran_s, 1e-3)), _KIND_VAR, _NOISE)
        self._kinds[key] = level
        if len(self._kinds) > KINDS:
            del self._kinds[next(iter(self._kinds))]
        self._share_out(level, lane, at, kind.size, math.log(max(ran_s, 1e-3)))

    def _share_out(self, level: _Level, lane: _Lane, at: int, size: int, took: float) -> None:
        speed_var, fit_var = float(self._speed_var[at]), float(lane.fit_var[at])
        off = took - (level.at(size) + float(self._speed[at]) + float(lane.fit[at]))
        if level.n:
            bias = float(self._bias[at])
            bias += (off - bias) / 8
            self._bias[at] = bias
            if bias * bias > 4 * (level.noise + level.var + speed_var + fit_var):  # it is not what it was
                speed_var = max(speed_var, bias * bias)
        whole = level.var + speed_var + fit_var + level.noise
        for_kind, for_node, for_fit = level.var / whole, speed_var / whole, fit_var / whole
        left = off * level.noise / whole
        level.mean += for_kind * off
        level.var = level.var * (1 - for_kind) + level.noise * _FORGET_KIND
        self._speed[at] += for_node * off
        self._speed_var[at] = speed_var * (1 - for_node) + level.noise * _FORGET_NODE
        lane.fit[at] += for_fit * off
        lane.fit_var[at] = fit_var * (1 - for_fit) + level.noise * _FORGET_NODE
        level.n += 1
        weight = 1 / min(level.n + 3, 30)
        level.noise = max(level.noise + weight * (off * left - level.noise), _LEAST_NOISE)
        lane.noise += 0.02 * (level.noise - lane.noise)
        self._size(level, size, off)
        lane.n += 1
        weight = 1 / min(lane.n, 200)
        gap = level.mean - lane.mean
        lane.mean += weight * gap
        lane.var += weight * (gap * gap * (1 - weight) - lane.var) if lane.n > 1 else 0.0
        speed = float(self._speed[at])
        for other in self._lanes.values():
            other.pace[at] = math.exp(min(speed + float(other.fit[at]), 40.0))

    def _size(self, level: _Level, size: int, off: float) -> None:
        """The slope, by what sizes had to do with being off."""
        if not size:
            return
        weight = 1 / min(level.n, 50)
        gap = math.log2(size) - level.size_mean if level.n > 1 else 0.0
        level.size_mean = level.size_mean + weight * gap if level.n > 1 else math.log2(size)
        took = off + level.slope * gap
        level.slope_cov += weight * (gap * took * (1 - weight) - level.slope_cov)
        level.size_var += weight * (gap * gap * (1 - weight) - level.size_var)

    def _guess(self, kind: Kind, lane: _Lane | None) -> _Level | None:
        """Of a kind that never ran: what its author expects, else what its type takes."""
        noise = lane.noise if lane is not None else _NOISE
        if kind.estimate_ms > 0:
            return _Level(math.log(kind.estimate_ms / 1000), _GUESS_VAR, noise)
        if lane is not None and lane.n:
            return _Level(lane.mean, max(lane.var, _TYPE_VAR), noise)
        return None

    def _lane(self, kind: Kind) -> _Lane:
        key = kind.type, kind.executor
        lane = self._lanes.get(key)
        if lane is None:
            if len(self._lanes) >= TYPES:
                key = "", kind.executor if len(self._lanes) < 2 * TYPES else ""
                lane = self._lanes.get(key)
            if lane is None:
                lane = self._lanes[key] = _Lane(self._speed)
        return lane

    def _place(self, node: str) -> int:
        at = self._at.get(node)
        if at is None:
            at = self._at[node] = len(self._at)
            if at >= len(self._speed):
                more = max(16, len(self._speed))
                self._speed = np.concatenate((self._speed, np.zeros(more)))
                self._speed_var = np.concatenate((self._speed_var, np.full(more, _NODE_VAR)))
                self._bias = np.concatenate((self._bias, np.zeros(more)))
                for lane in self._lanes.values():
                    lane.grow(self._speed)
        return at

    def _places(self, fleet: Fleet) -> Any:
        """Where the fleet's nodes stand in the arrays: a slice, where they stand in the same order."""
        known, version, rows = self._rows
        if known is not fleet or version != fleet.version:
            found = [self._place(name) for name in fleet.ids]
            in_order = found == list(range(len(found)))
            rows = slice(0, len(found)) if in_order else np.array(found, np.int64)
            self._rows = (fleet, fleet.version, rows)
        return rows
