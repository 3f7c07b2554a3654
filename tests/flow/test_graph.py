"""The graph: order, the cycle that is named, ranks and the critical path, against brute force."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from skep.flow import graph

Needs = list[tuple[int, ...]]


@st.composite
def acyclic(draw: st.DrawFn, most: int = 8) -> Needs:
    """What each task needs, tasks in any order."""
    size = draw(st.integers(0, most))
    names = draw(st.permutations(range(size)))
    needs: Needs = [()] * size
    for at, task in enumerate(names):
        needs[task] = tuple(draw(st.lists(st.sampled_from(names[:at]), unique=True))) if at else ()
    return needs


@st.composite
def any_graph(draw: st.DrawFn) -> Needs:
    size = draw(st.integers(1, 7))
    return [tuple(draw(st.lists(st.integers(0, size - 1), unique=True, max_size=3))) for _ in range(size)]


def paths(needs: Needs, task: int) -> Iterator[list[int]]:
    """Every chain that ends with the task."""
    if not needs[task]:
        yield [task]
    for up in needs[task]:
        yield from ([*path, task] for path in paths(needs, up))


def reaches(needs: Needs, task: int, seen: frozenset[int] = frozenset()) -> set[int]:
    """All that the task needs, however far."""
    found: set[int] = set()
    for up in needs[task]:
        if up not in seen:
            found |= {up} | reaches(needs, up, seen | {up})
    return found


def total(path: Sequence[int], durations: Sequence[int]) -> int:
    return sum(durations[task] for task in path)


@given(acyclic())
def test_every_task_comes_after_what_it_needs(needs: Needs) -> None:
    ordered = graph.order(needs, graph.successors_of(needs))
    assert sorted(ordered) == list(range(len(needs)))
    at = {task: position for position, task in enumerate(ordered)}
    assert all(at[up] < at[task] for task in at for up in needs[task])


@given(acyclic())
def test_successors_are_needs_turned_round(needs: Needs) -> None:
    successors = graph.successors_of(needs)
    assert {(up, task) for task, row in enumerate(needs) for up in row} == {
        (task, after) for task, row in enumerate(successors) for after in row
    }
    assert all(list(row) == sorted(row) for row in successors)


@given(any_graph())
def test_a_cycle_is_found_if_there_is_one_and_is_one(needs: Needs) -> None:
    ordered = graph.order(needs, graph.successors_of(needs))
    circular = any(task in reaches(needs, task) for task in range(len(needs)))
    assert (len(ordered) < len(needs)) == circular
    if circular:
        loop = graph.cycle(needs, ordered)
        assert loop[0] == loop[-1]
        assert len(set(loop)) == len(loop) - 1
        assert all(then in needs[task] for task, then in pairwise(loop))


@given(acyclic(), st.data())
def test_ranks_and_the_critical_path_are_the_longest_there_are(needs: Needs, data: st.DataObject) -> None:
    size = len(needs)
    durations = data.draw(st.lists(st.integers(0, 50), min_size=size, max_size=size))
    successors = graph.successors_of(needs)
    ordered = graph.order(needs, successors)
    every = [path for task in range(size) for path in paths(needs, task)]
    ranks = graph.longest_after_ms(successors, ordered, durations)
    assert ranks == [max(total(path[path.index(task) :], durations) for path in every if task in path) for task in range(size)]
    found = graph.critical_path(needs, ordered, durations)
    assert total(found, durations) == max((total(path, durations) for path in every), default=0)
    assert all(up in needs[task] for up, task in pairwise(found))


def test_an_empty_graph_has_no_critical_path() -> None:
    assert graph.critical_path([], [], []) == []
