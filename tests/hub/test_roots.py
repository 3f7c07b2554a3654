"""What tasks wait for, followed to the tasks that wait for no other."""

from __future__ import annotations

import time
from typing import Any

from skep.flow.plan import compile_plan
from skep.hub.roots import Graph
from skep.model.run import RestoredTask
from skep.model.state import TaskState
from skep.record.protocol import Expansion
from skep.testing.stage import workflow

W, P, S, L = TaskState.WAITING, TaskState.PARKED, TaskState.SUCCEEDED, TaskState.RUNNING


def graph(tasks: dict[str, Any], states: dict[int, int] | None = None, expansions: list[Expansion] | None = None) -> Graph:
    plan = compile_plan(workflow({name: {"run": "true"} | task for name, task in tasks.items()}))
    known = [RestoredTask(task, state, 0) for task, state in (states or {}).items()]
    size = max([len(plan.names), *(e.first + e.count for e in expansions or ())])
    return Graph(plan, expansions or [], known, size)


def test_a_diamond_has_one_root_and_the_shortest_way_to_it() -> None:
    found = graph({"a": {}, "b": {"needs": ["a"]}, "c": {"needs": ["a"]}, "d": {"needs": ["b", "c"]}}, {0: L})
    paths = found.paths(3)
    assert paths == {3: -1, 1: 3, 2: 3, 0: 1}
    assert found.roots_of(3, paths) == [0]
    assert found.roots() == ([0], 3)
    assert found.behind([0]) == 3
    assert found.behind([1]) == 1


def test_what_has_ended_is_waited_for_no_more() -> None:
    found = graph({"a": {}, "b": {}, "c": {"needs": ["a", "b"]}}, {0: S})
    assert found.waits_for(2) == [1]
    assert found.roots() == ([1], 1)


def test_children_of_maps_with_and_without_a_window() -> None:
    tasks = {
        "m": {"map": "range(3)"},
        "e": {"map": "[]"},
        "n": {"map": "range(4)", "max_parallel": 2},
        "z": {"needs": ["m", "n"]},
    }
    found = graph(tasks, {0: P, 1: S, 2: P, 7: S, 8: L}, [Expansion(0, 4, 3), Expansion(1, 7, 0), Expansion(2, 7, 4)])
    assert [found.parent(task) for task in (3, 4, 6, 7, 10)] == [-1, 0, 0, 2, 2]
    assert found.waits_for(0) == [4, 5, 6]
    assert found.waits_for(2) == [8, 9], "7 has ended; 10 is behind the window"
    assert found.waits_for(10) == [8, 9]
    assert found.waits_for(9) == []
    assert found.roots() == ([4, 5, 6, 8, 9], 2)
    assert found.behind([8]) == 2


def test_a_parked_child_waits_for_nobody_of_its_run() -> None:
    found = graph({"m": {"map": "range(1)"}}, {0: P, 1: P}, [Expansion(0, 1, 1)])
    assert found.roots() == ([1], 0)


def test_children_of_an_expansion_that_is_no_more_are_left_out() -> None:
    found = graph({"m": {"map": "range(2)"}}, {0: P}, [Expansion(0, 3, 2)])
    assert found.roots() == ([3, 4], 0)


def test_a_long_chain_and_a_large_map_take_no_time() -> None:
    size = 20_000
    found = graph({f"t{at}": {"needs": [f"t{at - 1}"]} if at else {} for at in range(size)})
    begun = time.perf_counter()
    assert found.roots_of(size - 1, found.paths(size - 1)) == [0]
    mapped = graph({"m": {"map": "range(100000)", "max_parallel": 5}}, {0: P}, [Expansion(0, 1, 100_000)])
    assert mapped.roots() == ([1, 2, 3, 4, 5], 99_995)
    assert time.perf_counter() - begun < 5
