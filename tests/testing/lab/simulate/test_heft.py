"""HEFT, against the example of the paper that introduced it."""

from __future__ import annotations

import pytest

from skep.testing.lab.simulate.heft import NOBODY, Heft

# Topcuoglu, Hariri and Wu (2002), figure 2 and table 3: ten tasks, three processors.
DURATIONS = (
    (14, 16, 9),
    (13, 19, 18),
    (11, 13, 19),
    (13, 8, 17),
    (12, 13, 10),
    (13, 16, 9),
    (7, 15, 11),
    (5, 11, 14),
    (18, 12, 20),
    (21, 7, 16),
)
SENDS = {
    (0, 1): 18, (0, 2): 12, (0, 3): 9, (0, 4): 11, (0, 5): 14, (1, 7): 19, (1, 8): 16, (2, 6): 23,
    (3, 7): 27, (3, 8): 23, (4, 8): 13, (5, 7): 15, (6, 9): 17, (7, 9): 11, (8, 9): 13,
}  # fmt: skip
NEEDS = [[up for up, task in SENDS if task == at] for at in range(10)]


def test_the_published_example_ends_after_80() -> None:
    plan = Heft(3).plan(NEEDS, DURATIONS, sends=SENDS)
    assert max(one.end for one in plan) == 80
    assert plan[0] == (2, 0, 9)
    assert plan[9] == (1, 73, 80)


def test_a_gap_is_filled_when_it_is_large_enough() -> None:
    heft = Heft(1)
    heft.plan([[]], [(5,)], from_=10)
    assert heft.plan([[]], [(10,)])[0] == (0, 0, 10)
    assert heft.plan([[]], [(1,)])[0] == (0, 15, 16)


def test_who_needs_no_processor_takes_none() -> None:
    plan = Heft(1).plan([[], [0], [1]], [(3,), (), (4,)], alone={1: 5.0})
    assert plan == [(0, 0, 3), (NOBODY, 3, 8), (0, 8, 12)]


def test_a_task_that_can_run_nowhere_is_told() -> None:
    with pytest.raises(ValueError, match="no processor can run task 0"):
        Heft(2).plan([[]], [(None, None)])
