"""Conflicts of tasks that may write the same at once: the rules one by one, and against an oracle that looks at every pair."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skep.errors import SpecError
from skep.flow import conflicts as module
from skep.flow import graph
from skep.flow.conflicts import conflicts
from skep.flow.plan import compile_plan
from skep.model.authoring import build_workflow
from skep.model.spec import LockSpec, TaskSpec

BASE: dict[str, Any] = {"name": "w", "conflicts": "warn", "inputs": {"x": 1, "y": 2, "many": [1, 2]}}


def found(**tasks: dict[str, Any]) -> set[frozenset[str]]:
    """The names of those in conflict."""
    rows = {name: {"run": "true", **task} for name, task in tasks.items()}
    plan = compile_plan(build_workflow(BASE | {"tasks": rows}))
    named = {problem.path.split(".")[1]: problem.message for problem in plan.warnings}
    return {frozenset({path, *(name for name in rows if f"'{name}'" in text)}) for path, text in named.items()}


BOTH = {frozenset({"a", "b"})}
SELF = {frozenset({"a"})}


@pytest.mark.parametrize(
    ("one", "other", "conflict"),
    [
        ("out", "out", True),
        ("out", "out/", True),
        ("out", "./out", True),
        ("out", "out/log/a", True),
        ("out/log/../a", "out/a", True),
        ("db:main", "db:main", True),
        ("/tmp/a", "/tmp", True),
        ("/", "/tmp", True),
        ("//tmp", "/tmp", True),
        ("/../tmp", "/tmp", True),
        (".", "out", True),
        ("a/..", "out", True),
        ("../x", "../x/y", True),
        ("out", "output", False),
        ("out", "/out", False),
        (".", "/out", False),
        (".", "../out", False),
        ("..", "/", False),
        ("out", "Out", False),
        ("${{ inputs.x }}", "${{inputs.x}}", True),
        ("out", "out/${{ inputs.x }}", True),
        ("out/${{ inputs.x }}", "out/${{ inputs.x }}/log", True),
        ("out/${{ inputs.x }}", "out/${{ inputs.y }}", False),
        ("out/${{ inputs.x / 2 }}", "out/${{ inputs.x / 2 }}", True),
        ("out/${{ inputs.x }}/..", "out", True),
        ("${{ inputs.x }}/a", ".", False),
        ("$${{ inputs.x }}", "${{ inputs.x }}", False),
    ],
)
def test_what_is_the_same(one: str, other: str, conflict: bool) -> None:
    expected = BOTH if conflict else set()
    assert found(a={"writes": one}, b={"writes": [other]}) == expected
    assert found(a={"writes": other}, b={"writes": one}) == expected


def test_an_order_is_no_conflict() -> None:
    out = {"writes": "out"}
    assert found(a=out, b={**out, "needs": "a"}) == set()
    assert found(a=out, m={"needs": "a"}, b={**out, "needs": "m"}) == set()
    assert found(b={**out, "needs": "m"}, m={"needs": "a"}, a=out) == set()
    assert found(a=out, b=out, c={**out, "needs": ["a", "b"]}) == BOTH
    assert found(a={**out, "on_failure": {"run": "b"}}, b=out) == set()
    assert found(a=out, b={"run": "echo ${{ tasks.a.output }}", **out}) == set()


def test_a_lock_is_no_conflict() -> None:
    assert found(a={"writes": "out", "locks": "l"}, b={"writes": "out", "locks": ["k", "l"]}) == set()
    assert found(a={"writes": "out", "locks": "l"}, b={"writes": "out"}) == BOTH
    assert found(a={"writes": "out", "locks": "l"}, b={"writes": "out", "locks": "k"}) == BOTH
    shared = {"name": "l", "shared": True}
    assert found(a={"writes": "out", "locks": "l"}, b={"writes": "out", "locks": [shared]}) == BOTH
    same = {"writes": "out", "locks": "${{ inputs.x }}"}
    assert found(a=same, b=same) == set()
    assert found(a=same, b={"writes": "out", "locks": "${{ inputs.y }}"}) == BOTH


def test_a_map_may_be_in_conflict_with_itself() -> None:
    mapped: dict[str, Any] = {"map": [1, 2], "writes": "out"}
    assert found(a=mapped) == SELF
    assert found(a={**mapped, "max_parallel": 2}) == SELF
    assert found(a={**mapped, "max_parallel": 1}) == set()
    assert found(a={**mapped, "locks": "l"}) == set()
    assert found(a={**mapped, "locks": "${{ item }}"}) == SELF
    assert found(a={**mapped, "writes": "out/${{ item }}"}) == set()
    assert found(a={**mapped, "writes": "out/${{ index }}"}) == set()
    assert found(a={**mapped, "writes": ["out/${{ item }}", "out"]}) == SELF
    assert found(a={**mapped, "writes": "out/${{ inputs.x }}"}) == SELF


def test_two_maps_are_compared_item_by_item() -> None:
    def both(one: Any, other: Any, **more: Any) -> set[frozenset[str]]:
        row = {"writes": "out/${{ item }}", **more}
        return found(a={**row, "map": one}, b={**row, "map": other})

    assert both("inputs.many", "inputs.many") == BOTH
    assert both([1, 2], [1, 2]) == BOTH
    assert both([1, 2], [3, 4]) == set()
    assert both([1, 2], [1, 2], locks="${{ item }}") == set()
    below = {"map": [1, 2], "writes": "out/${{ item }}/log"}
    assert found(a={"map": [1, 2], "writes": "out/${{ item }}"}, b=below) == BOTH
    assert found(a={"writes": "out"}, b=below) == BOTH
    assert found(a={"writes": "out/1"}, b=below) == set()


def test_a_conflict_is_refused_told_or_allowed() -> None:
    data = {"name": "w", "tasks": {"a": {"run": "x", "writes": "out"}, "b": {"run": "x", "writes": "out/b"}}}
    text = "'b' and 'a' may write 'out/b' at the same time; let one of them need the other, or give both of them"
    with pytest.raises(SpecError, match=r"^tasks\.b\.writes: ") as caught:
        compile_plan(build_workflow(data))
    assert text in str(caught.value)
    (warning,) = compile_plan(build_workflow(data | {"conflicts": "warn"})).warnings
    assert warning.message.startswith(text)
    assert compile_plan(build_workflow(data | {"conflicts": "allow"})).warnings == []


def test_a_child_tells_of_its_own() -> None:
    inner = {"conflicts": "warn", "tasks": {"a": {"run": "x", "map": [1], "writes": "out"}}}
    plan = compile_plan(build_workflow({"name": "w", "tasks": {"c": {"uses": {"workflow": inner}}}}))
    (warning,) = plan.warnings
    assert warning.path == "tasks.c.uses.workflow.tasks.a.writes"


def test_a_wrong_expression_in_writes_is_refused() -> None:
    with pytest.raises(SpecError, match="there is no input 'z'"):
        compile_plan(build_workflow(BASE | {"tasks": {"a": {"run": "x", "writes": "${{ inputs.z }}"}}}))
    with pytest.raises(SpecError, match="`item` and `index` are only for a task with `map`"):
        compile_plan(build_workflow(BASE | {"tasks": {"a": {"run": "x", "writes": "${{ item }}"}}}))


def test_many_conflicts_are_cut() -> None:
    rows = {f"t{n}": {"run": "x", "writes": "out"} for n in range(50)}
    with pytest.raises(SpecError) as caught:
        compile_plan(build_workflow({"name": "w", "tasks": rows}))
    assert len(caught.value.problems) == 101
    assert caught.value.problems[-1].message == "and more conflicts"


# -- against an oracle

PATHS = st.sampled_from([(), ("a",), ("b",), ("a", "b"), ("a", "c"), ("a", "b", "c")])
Row = tuple[list[tuple[str, ...]], list[str], list[int], bool, bool]


@st.composite
def graphs(draw: st.DrawFn) -> list[Row]:
    """Paths, locks, needs, whether it is a map, and whether one at a time, of each task."""
    rows: list[Row] = []
    for at in range(draw(st.integers(1, 12))):
        needs = draw(st.lists(st.integers(0, at - 1), unique=True, max_size=3)) if at else []
        paths, locks = draw(st.lists(PATHS, max_size=2)), draw(st.lists(st.sampled_from("kl"), max_size=1))
        rows.append((paths, locks, needs, draw(st.booleans()), draw(st.booleans())))
    return rows


def oracle(rows: Sequence[Row]) -> set[frozenset[int]]:
    waits: list[set[int]] = []
    for _, _, needs, _, _ in rows:
        waits.append(set(needs).union(*(waits[up] for up in needs)))
    wrong = {
        frozenset({a, b})
        for (a, one), (b, other) in combinations(enumerate(rows), 2)
        if a not in waits[b] and not set(one[1]) & set(other[1])
        if any(p[: len(q)] == q or q[: len(p)] == p for p in one[0] for q in other[0])
    }
    return wrong | {
        frozenset({a}) for a, (paths, locks, _, mapped, single) in enumerate(rows) if paths and mapped and not (single or locks)
    }


@given(rows=graphs(), block=st.sampled_from([1, 2, 3, 8_192]), shuffled=st.randoms(use_true_random=False))
@settings(max_examples=400, deadline=None)
def test_it_finds_what_a_look_at_every_pair_finds(rows: list[Row], block: int, shuffled: Any) -> None:
    places = list(range(len(rows)))
    shuffled.shuffle(places)  # tasks need not stand in an order
    tasks: list[TaskSpec] = [TaskSpec(name="", executor="run", call="")] * len(rows)
    needs: list[tuple[int, ...]] = [()] * len(rows)
    for at, (paths, locks, ups, mapped, single) in enumerate(rows):
        needs[places[at]] = tuple(places[up] for up in ups)
        tasks[places[at]] = TaskSpec(
            name=f"t{at}",
            executor="run",
            call="x",
            writes=tuple("/".join(path) or "." for path in paths),
            locks=tuple(LockSpec(lock) for lock in locks),
            map=[at] if mapped else None,
            max_parallel=int(single),
        )
    ordered = graph.order(needs, graph.successors_of(needs))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", block)
        told = list(conflicts(tasks, needs, ordered))
    back = {place: at for at, place in enumerate(places)}
    pairs = [frozenset({back[conflict.task], back[conflict.other]}) for conflict in told]
    assert set(pairs) == oracle(rows)
    assert len([pair for pair in pairs if len(pair) == 2]) == len({pair for pair in pairs if len(pair) == 2})
