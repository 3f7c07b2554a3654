"""How long tasks take: the seam that every predictor stands behind."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from skep.router.fleet import Fleet, Floats
from skep.router.wanted import Kind


class Prediction(NamedTuple):
    """Of one kind of task on each node; item i belongs to node i of the fleet."""

    median_s: Floats
    spread: Floats
    """Standard deviation of the logarithm of the time, of which 0.1 is about 10 %: noise and ignorance together."""
    success: Floats | None = None
    """Share of attempts that succeed there, above 0; None: nothing is known to have failed."""
    hope: Floats | None = None
    """Factor, at most 1, by which each node may be faster for all that is known: nodes that are hardly known are tried."""

    def quantile(self, z: float) -> Floats:
        """The time that is not exceeded with the probability of `z` standard deviations: 0 half of the time, 1.28 in nine of
        ten cases."""
        found: Floats = self.median_s * np.exp(z * self.spread)
        return found


class Predictor(Protocol):
    """Predicts from what it learned. Nothing is trained while a task waits: `learn` is cheap, `predict` too."""

    def predict(self, kind: Kind, fleet: Fleet) -> Prediction | None:
        """None: nothing is known. Times that are not above 0, or no numbers, count as unknown."""
        ...

    def learn(self, kind: Kind, node: str, ran_s: float, ok: bool) -> None:
        """An attempt is over. Of one that failed only that counts, not how long it took."""
        ...


def sound(prediction: Prediction | None, fleet: Fleet) -> Prediction | None:
    """The prediction, as far as it makes sense. Where it does not, the node counts as an ordinary one, of which little is
    known."""
    if prediction is None or len(prediction.median_s) != len(fleet):
        return None
    median_s, spread, success, hope = prediction
    if not (median_s.min(initial=1.0) > 0 and median_s.max(initial=1.0) < np.inf):
        good = np.isfinite(median_s) & (median_s > 0)
        if not good.any():
            return None
        median_s = np.where(good, median_s, np.median(median_s[good]))
        spread = np.where(good, spread, 1.0)
    if not (spread.min(initial=0.0) >= 0 and spread.max(initial=0.0) < np.inf):
        spread = np.where(np.isfinite(spread) & (spread >= 0), spread, 1.0)
    if success is not None and not (success.min(initial=1.0) > 0 and success.max(initial=0.0) <= 1):
        success = np.where(np.isfinite(success), np.clip(success, 0.01, 1.0), 1.0)
    if hope is not None and not (hope.min(initial=1.0) > 0 and hope.max(initial=1.0) <= 1):
        hope = None
    return Prediction(median_s, spread, success, hope)
