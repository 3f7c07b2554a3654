"""What is kept of definitions and runs: enough, and not without bound."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from skep.flow.plan import Plan, compile_plan
from skep.testing.stage import Stage, workflow
from skep.upkeep import catalog
from skep.upkeep.catalog import compiled


def plan(name: str, tasks: int) -> Plan:
    return compile_plan(workflow({f"{name}{at}": {"run": "true"} for at in range(tasks)}))


async def test_plans_are_kept_by_how_many_tasks_they_have(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "PLAN_TASKS", 10)
    first, second, third, large = plan("a", 4), plan("b", 4), plan("c", 4), plan("d", 20)
    kept = stage.catalog
    for one in (first, second, second, first):  # again is the same one
        kept.keep_plan(one)
    kept.keep_plan(third)
    assert [kept.kept_plan(one.digest) for one in (first, second, third)] == [first, None, third]
    kept.keep_plan(large)
    assert [kept.kept_plan(one.digest) for one in (first, third, large)] == [None, None, large]
    kept.keep_plan(second)
    assert [kept.kept_plan(one.digest) for one in (large, second)] == [None, second]


async def test_runs_are_kept_by_how_large_their_inputs_are(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "INPUT_BYTES", 100)
    text = {"x": "y" * 60}
    runs = [await stage.submit({"a": {"run": "true"}}, text, inputs={"x": ""}) for _ in range(2)]
    known = [await stage.catalog.run(run) for run in runs]
    assert [stage.catalog.known(run) for run in runs] == [None, known[1]]
    again = await stage.catalog.run(runs[0])
    assert again is not None
    assert again.inputs == text


async def test_there_is_one_object_for_a_run(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for two that ask while its workflow is being compiled."""
    monkeypatch.setattr(catalog, "LARGE", 0)
    run = await stage.submit({"a": {"run": "true"}})
    row = await stage.record.run(run)
    monkeypatch.setattr(stage.catalog, "_plans", type(stage.catalog._plans)())
    one, other = await asyncio.gather(stage.catalog.take(row), stage.catalog.take(row))
    assert one is other


async def test_a_large_workflow_is_compiled_like_a_small_one(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = workflow({"a": {"run": "true"}, "b": {"run": "true", "needs": ["a"]}})
    small = await compiled(spec)
    monkeypatch.setattr(catalog, "LARGE", 1)
    large = await compiled(spec)
    assert (large.digest, large.needs) == (small.digest, small.needs)
    assert msgspec.structs.asdict(large.shape) == msgspec.structs.asdict(small.shape)
