import random
import statistics

import pytest

from tally import percentile


@pytest.mark.parametrize(
    ("percent", "expected"), [(0, 10), (25, 17.5), (50, 25), (90, 37), (100, 40)]
)
def test_between_two_values_it_interpolates(percent: float, expected: float) -> None:
    assert percentile([10, 20, 30, 40], percent) == pytest.approx(expected)


@pytest.mark.parametrize("percent", [0, 33.3, 100])
def test_of_one_value_it_is_that_value(percent: float) -> None:
    assert percentile([4.2], percent) == 4.2


@pytest.mark.parametrize("percent", [-1, 100.1, float("nan")])
def test_outside_0_to_100_it_is_refused(percent: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 100"):
        percentile([1, 2], percent)


def test_of_nothing_it_is_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


@pytest.mark.parametrize("size", [2, 99, 1000])
def test_it_agrees_with_the_standard_library(size: int) -> None:
    source = random.Random(size)
    values = sorted(source.gauss(100, 30) for _ in range(size))
    expected = statistics.quantiles(values, n=100, method="inclusive")
    assert [percentile(values, percent) for percent in range(1, 100)] == pytest.approx(expected)
