"""The placement settings of a fleet: recorded, validated, and in force on every server at once."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import pytest

from skep.errors import SpecError
from skep.hub.placement import FLAG, Placement
from skep.testing.stage import workflow
from skep.testing.timed import TimedStage


@pytest.fixture
async def stage() -> AsyncIterator[TimedStage]:
    async with TimedStage() as made:
        yield made


def noun(stage: TimedStage) -> Placement:
    return Placement(stage.engine, stage.record, stage.routing, stage.place, lambda: {"nearest"})


async def test_settings_are_recorded_and_hold_after_a_restart(stage: TimedStage) -> None:
    await noun(stage).set({"prefer": {"testing": ["b", "a"]}, "weights": {"load": 0.5}})
    after = stage.after_a_crash()
    async with after:
        there = noun(after)
        await there.open()
        assert there.get()["prefer"] == {"testing": ["b", "a"]}
        assert there.get()["weights"]["load"] == 0.5
        assert after.routing.settings == stage.routing.settings
        await there.reset()
        assert there.get() == noun(TimedStage()).get()
        assert FLAG not in await stage.record.flags()


async def test_what_is_wrong_changes_nothing(stage: TimedStage) -> None:
    placement = noun(stage)
    await placement.set({"policy": "nearest"})
    with pytest.raises(SpecError, match=r"weights\.load"):
        await placement.set({"policy": "fastest", "weights": {"load": -1}})
    assert placement.get()["policy"] == "nearest"


async def test_what_a_later_version_recorded_is_told_of_and_left(stage: TimedStage, caplog: pytest.LogCaptureFixture) -> None:
    placement = noun(stage)
    await placement.set({"policy": "fastest"})
    await stage.record.set_flag(FLAG, '{"planets": 9}')
    with caplog.at_level(logging.WARNING):
        await placement.open()
        await placement.open()
    assert len(caplog.records) == 1
    assert placement.get()["policy"] == "fastest"


async def test_the_other_servers_hear_of_it(stage: TimedStage) -> None:
    stirred: list[str] = []
    stage.engine.listen("placement", lambda: stirred.append("placement"))
    await noun(stage).set({"policy": "fastest"})
    assert stirred == ["placement"]


async def test_tasks_go_to_the_preferred_node_of_their_type_and_fall_through(stage: TimedStage) -> None:
    a, b = await stage.node("a", slots=2), await stage.node("b", slots=2)
    await noun(stage).set({"prefer": {"testing": ["b", "a"]}})
    tests = {f"t{at}": {"run": "true", "type": "testing"} for at in range(3)}
    await stage.submit(tests)
    await stage.pass_(stage.load, stage.place)
    await b.turn()
    await a.turn()
    assert (sorted(b.started), a.started) == (["t0", "t1"], ["t2"])
    await stage.go()
    await stage.engine.drain(["b"])
    await stage.submit({"later": {"run": "true", "type": "testing"}})
    await stage.go()
    assert a.started == ["t2", "later"]


async def test_a_workflow_with_an_unknown_policy_is_refused_with_those_that_there_are(stage: TimedStage) -> None:
    tasks = {"a": {"run": "true"}, "b": {"run": "true", "placement": {"policy": "neerest"}}}
    with pytest.raises(SpecError) as caught:
        await stage.hub.runs.submit(workflow(tasks))
    (problem,) = caught.value.problems
    assert problem.path == "tasks.b.placement.policy"
    assert "there are hybrid, " in problem.message
    stage.hub.runs.own_policies = lambda: {"neerest"}
    assert await stage.hub.runs.submit(workflow(tasks))
