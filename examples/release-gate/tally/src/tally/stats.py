"""The arithmetic: counts, percentiles and histogram bins."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Summary:
    count: int
    low: float
    high: float
    mean: float
    percentiles: dict[float, float]


@dataclass(frozen=True)
class Bin:
    """How many values lie in [low, high); the last bin includes its high end."""

    low: float
    high: float
    count: int


def count(values: Iterable[str]) -> list[tuple[str, int]]:
    """Distinct values with how often they occur, most frequent first, then by name."""
    return sorted(Counter(values).items(), key=lambda pair: (-pair[1], pair[0]))


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The value below which `percent` (0 to 100) of sorted values lie, interpolated linearly."""
    if not ordered:
        raise ValueError("no values")
    if not 0 <= percent <= 100:
        raise ValueError(f"a percentile is between 0 and 100, not {percent:g}")
    position = (len(ordered) - 1) * percent / 100
    below = math.floor(position)
    above = math.ceil(position)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def summarise(values: Iterable[float], percents: Sequence[float] = (50, 90, 99)) -> Summary:
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values")
    percentiles = {percent: percentile(ordered, percent) for percent in percents}
    mean = math.fsum(ordered) / len(ordered)
    return Summary(len(ordered), ordered[0], ordered[-1], mean, percentiles)


def histogram(values: Sequence[float], bins: int = 10) -> list[Bin]:
    """Bins of equal width from the smallest value to the largest; one bin if all are equal."""
    if bins < 1:
        raise ValueError(f"a histogram needs at least one bin, not {bins}")
    if not values:
        return []
    low, high = min(values), max(values)
    if low == high:
        return [Bin(low, high, len(values))]
    width = (high - low) / bins
    filled = Counter(min(int((value - low) / width), bins - 1) for value in values)
    return [Bin(low + i * width, low + (i + 1) * width, filled[i]) for i in range(bins)]
