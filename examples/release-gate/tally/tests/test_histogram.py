import itertools
import random

import pytest

from tally import Bin, histogram


def test_a_value_on_an_edge_falls_into_the_upper_bin() -> None:
    assert histogram([0, 1, 2, 4], bins=2) == [Bin(0, 2, 2), Bin(2, 4, 2)]


def test_the_largest_value_falls_into_the_last_bin() -> None:
    assert histogram([0, 10], bins=5)[-1] == Bin(8, 10, 1)


def test_equal_values_share_one_bin() -> None:
    assert histogram([7, 7, 7]) == [Bin(7, 7, 3)]


def test_of_nothing_it_is_empty() -> None:
    assert histogram([]) == []


def test_it_needs_a_bin() -> None:
    with pytest.raises(ValueError, match="at least one bin, not 0"):
        histogram([1, 2], bins=0)


@pytest.mark.parametrize("bins", [1, 3, 10, 250])
def test_every_value_is_in_one_bin_and_bins_touch(bins: int) -> None:
    source = random.Random(bins)
    values = [source.lognormvariate(3, 1) for _ in range(20_000)]
    filled = histogram(values, bins)
    assert len(filled) == bins
    assert sum(bin.count for bin in filled) == len(values)
    assert (filled[0].low, filled[-1].high) == pytest.approx((min(values), max(values)))
    for left, right in itertools.pairwise(filled):
        assert left.high == pytest.approx(right.low)
