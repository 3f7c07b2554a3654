import pytest

from tally import Summary, count, summarise


def test_a_summary_needs_no_order() -> None:
    assert summarise([3, 1, 2], [50]) == Summary(3, 1, 3, 2, {50: 2})


def test_the_usual_percentiles_are_there_unasked() -> None:
    assert list(summarise([1, 2]).percentiles) == [50, 90, 99]


def test_the_mean_does_not_drift() -> None:
    assert summarise([0.1] * 100_000).mean == 0.1


@pytest.mark.parametrize("percents", [[50], []])
def test_of_nothing_there_is_no_summary(percents: list[float]) -> None:
    with pytest.raises(ValueError, match="no values"):
        summarise([], percents)


def test_counts_come_most_frequent_first_then_by_name() -> None:
    assert count("banana") == [("a", 3), ("n", 2), ("b", 1)]
    assert count("cab") == [("a", 1), ("b", 1), ("c", 1)]


def test_of_nothing_the_counts_are_empty() -> None:
    assert count([]) == []
