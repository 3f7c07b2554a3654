import pytest

from tally import Bin, Summary, render_counts, render_summary
from tally.chart import bar


@pytest.mark.parametrize(("part", "length"), [(0, 0), (1, 1), (500, 10), (1000, 20)])
def test_a_bar_is_in_proportion_and_never_hides_a_value(part: int, length: int) -> None:
    assert bar(part, whole=1000, width=20) == "#" * length


def test_counts_are_aligned() -> None:
    assert render_counts([("/cart", 10), ("/", 5)], width=4).splitlines() == [
        "/cart  10  ####",
        "    /   5  ##",
    ]


def test_no_counts_make_no_text() -> None:
    assert render_counts([]) == ""


def test_a_summary_lists_its_percentiles_above_the_histogram() -> None:
    summary = Summary(count=3, low=1, high=12.5, mean=6, percentiles={50: 4.5, 99.9: 12})
    assert render_summary(summary, [Bin(1, 7, 2), Bin(7, 12.5, 1)], width=4).splitlines() == [
        "count           3",
        "min             1",
        "p50           4.5",
        "p99.9          12",
        "max          12.5",
        "mean            6",
        "",
        "1  2  ####",
        "7  1  ##",
    ]


def test_an_empty_bin_leaves_no_trailing_space() -> None:
    text = render_summary(Summary(1, 0, 1, 0, {}), [Bin(0, 1, 0), Bin(1, 2, 1)])
    assert all(line == line.rstrip() for line in text.splitlines())
