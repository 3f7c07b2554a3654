"""Place: order, locks, pause, what does not fit, and that nobody who needs no node waits for one."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from skep.model.state import TaskState
from skep.model.wait import Wait
from skep.testing.stage import HOLD, Failed, Stage, workflow
from skep.upkeep import place

RUN: dict[str, Any] = {"run": "true"}


async def test_the_urgent_comes_first_and_then_the_long(stage: Stage) -> None:
    node = await stage.node(slots=1)
    await stage.run(
        {
            "low": RUN | {"priority": "low"},
            "short": RUN,
            "long": RUN | {"estimated_duration": "5m"},
            "high": RUN | {"priority": 8},
            "head": RUN | {"estimated_duration": "1m"},
            "tail": RUN | {"needs": ["head"], "estimated_duration": "8m"},
        }
    )
    assert node.started == ["high", "head", "tail", "long", "short", "low"]


async def test_the_priority_of_a_run_decides_between_runs(stage: Stage) -> None:
    node = await stage.node(slots=1, script={"first": HOLD})
    await stage.submit({"first": RUN})
    await stage.go()
    await stage.submit({"normal": RUN})
    await stage.submit({"urgent": RUN}, priority=9)
    await stage.hub.runs.submit(workflow({"less": RUN}, priority=8), priority=3)
    await stage.go()
    await node.finish("first")
    await stage.go()
    assert node.started == ["first", "urgent", "normal", "less"]


async def test_waiting_makes_up_for_priority(stage: Stage) -> None:
    node = await stage.node(slots=1, script={"first": HOLD})
    await stage.submit({"first": RUN})
    await stage.go()
    await stage.submit({"old": RUN | {"priority": 4}})
    await stage.go()
    await stage.go(10 * 60_000)
    await stage.submit({"new": RUN | {"priority": 5}})
    await stage.go()
    await node.finish("first")
    await stage.go()
    assert node.started == ["first", "old", "new"]


async def test_tasks_go_only_where_they_can_run(stage: Stage) -> None:
    plain = await stage.node("plain", slots=10)
    gpu = await stage.node("gpu", slots=1, capabilities=("cpu", "gpu"))
    await stage.run({f"g{at}": RUN | {"requires": ["gpu"]} for at in range(3)} | {f"t{at}": RUN for at in range(4)})
    assert {name for name in gpu.started if name.startswith("g")} == {"g0", "g1", "g2"}
    assert not [name for name in plain.started if name.startswith("g")]


async def test_what_no_node_can_run_waits_until_one_joins(stage: Stage) -> None:
    await stage.node()
    run = await stage.submit({"a": RUN | {"requires": ["gpu"]}})
    await stage.go()
    assert list(stage.place.unplaced.values()) == [1]
    assert await stage.end(run) == ("running", None)
    await stage.node("gpu", capabilities=("gpu",))
    await stage.go()
    assert await stage.end(run) == ("succeeded", None)
    assert stage.place.unplaced == {}


# -- locks


async def test_an_exclusive_lock_lets_one_in_at_a_time_across_runs(stage: Stage) -> None:
    node = await stage.node(script={"a": HOLD, "b": HOLD})
    await stage.submit({"a": RUN | {"locks": ["repo"]}})
    await stage.submit({"b": RUN | {"locks": ["repo"]}})
    await stage.go()
    assert node.started == ["a"]
    await node.finish("a")
    await stage.go()
    assert node.started == ["a", "b"]


async def test_shared_holders_go_together_and_an_exclusive_waiter_stops_later_ones(stage: Stage) -> None:
    node = await stage.node(script=dict.fromkeys(("r1", "r2", "w", "r3"), HOLD))
    shared = RUN | {"locks": [{"name": "repo", "shared": True}]}
    for tasks in ({"r1": shared}, {"r2": shared}, {"w": RUN | {"locks": ["repo"]}}, {"r3": shared}):
        await stage.submit(tasks)
        await stage.go(1)
    assert node.started == ["r1", "r2"]
    await node.finish("r1")
    await stage.go()
    assert node.started == ["r1", "r2"]
    await node.finish("r2")
    await stage.go()
    assert node.started == ["r1", "r2", "w"]
    await node.finish("w")
    await stage.go()
    assert node.started == ["r1", "r2", "w", "r3"]


async def test_the_same_name_in_another_namespace_is_another_lock(stage: Stage) -> None:
    node = await stage.node(script={"a": HOLD})
    for namespace in ("one", "two"):
        await stage.submit({"a": RUN | {"locks": ["x"]}}, namespace=namespace)
    await stage.go()
    assert node.started == ["a", "a"]


async def test_tasks_that_wait_for_a_lock_do_not_hold_up_those_behind_them(stage: Stage) -> None:
    node = await stage.node(slots=1_000, script={"m[0]": HOLD})
    await stage.submit({"m": RUN | {"map": "range(500)", "locks": ["one"], "priority": 9}})
    await stage.submit({"free": RUN})
    await stage.pass_(stage.load, stage.place)
    await node.turn()
    assert "free" in node.started


# -- pause


async def test_a_paused_run_starts_nothing_until_it_is_resumed(stage: Stage) -> None:
    node = await stage.node(script={"a": HOLD})
    run = await stage.submit({"a": RUN, "b": RUN | {"needs": ["a"]}})
    other = await stage.submit({"c": RUN})
    await stage.go()
    await stage.hub.runs.pause(run)
    await node.finish("a")
    await stage.go()
    assert node.started == ["a", "c"]
    assert (await stage.record.run(run)).paused
    assert await stage.end(other) == ("succeeded", None)
    await stage.hub.runs.resume(run)
    await stage.go()
    assert node.started == ["a", "c", "b"]
    assert await stage.end(run) == ("succeeded", None)


# -- nobody who needs no node waits for one


@pytest.mark.parametrize("ahead", [10, 500])
async def test_a_failing_run_ends_soon_behind_a_full_node(stage: Stage, ahead: int) -> None:
    node = await stage.node(slots=2, script={"first": HOLD, "bad": HOLD})
    run = await stage.submit({"bad": RUN | {"priority": 10}} | {f"t{at}": RUN | {"priority": 1} for at in range(100)})
    await stage.submit({"first": RUN | {"priority": 10}} | {f"o{at}": RUN | {"priority": 9} for at in range(ahead)})
    await stage.go()
    assert sorted(node.held) == ["bad", "first"]
    node.script = dict.fromkeys((f"o{at}" for at in range(ahead)), HOLD) | {"first": HOLD}
    await node.finish("bad", Failed())  # the place that it gives back is taken at once by another run
    await stage.go()
    await stage.go(place.DEEP_MS)
    assert await stage.end(run) == ("failed", "task_failed")
    assert len(node.held) == 2


async def test_what_is_skipped_needs_no_node_at_all(stage: Stage) -> None:
    run = await stage.submit({"a": RUN | {"when": "false"}, "b": RUN | {"map": []}})
    await stage.go()
    assert await stage.end(run) == ("succeeded", None)


# -- namespaces


@pytest.mark.parametrize("nodes", [1, 2])
async def test_many_tasks_of_one_namespace_do_not_starve_another(stage: Stage, nodes: int) -> None:
    script = {"a": HOLD, "b": HOLD}
    fleet = [await stage.node(f"n{at}", slots=4 // nodes, script=script) for at in range(nodes)]
    for name, count in (("a", 20), ("b", 4)):
        for _ in range(count):
            await stage.submit({name: RUN}, namespace=name)
    await stage.go()
    held = Counter(name for node in fleet for name in node.started)
    assert held == {"a": 2, "b": 2}


async def test_namespaces_get_slots_by_weight(stage: Stage) -> None:
    stage.place.fair.weights = {"a": 3.0}
    node = await stage.node(slots=4, script={"a": HOLD, "b": HOLD})
    for name in "ab" * 8:
        await stage.submit({name: RUN}, namespace=name)
    await stage.go()
    assert Counter(node.started) == {"a": 3, "b": 1}


async def test_what_has_no_room_takes_no_turn(stage: Stage) -> None:
    node = await stage.node(slots=1, script={"a": HOLD, "b": HOLD, "first": HOLD})
    await stage.submit({"first": RUN}, namespace="b")
    await stage.go()
    await stage.submit({"gpu": RUN | {"requires": ["gpu"], "priority": 10}}, namespace="a")
    await stage.submit({"a": RUN | {"priority": 1}}, namespace="a")
    for _ in range(3):
        await stage.submit({"b": RUN}, namespace="b")
    await stage.go()
    await stage.go(10_000)
    await node.finish("first")
    await stage.go()
    assert node.started == ["first", "a"], "b had the slot for ten seconds"


async def test_the_urgent_comes_first_whatever_node_it_needs(stage: Stage) -> None:
    node = await stage.node(slots=1, capabilities=("cpu", "gpu"), script={"first": HOLD})
    await stage.submit({"first": RUN})
    await stage.go()
    await stage.submit({"plain": RUN})
    await stage.submit({"gpu": RUN | {"requires": ["gpu"], "priority": 9}})
    await stage.go()
    await node.finish("first")
    await stage.go()
    assert node.started == ["first", "gpu", "plain"]


# -- bounds


async def test_a_full_engine_leaves_runs_in_the_record_and_goes_on(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("runs", "tasks"):
        monkeypatch.setattr(f"skep.engine.memory.{module}.MAX_TASKS", 10)
    node = await stage.node(script={"a": HOLD})
    tasks: dict[str, Any] = {"a": RUN} | {f"t{at}": RUN | {"needs": ["a"]} for at in range(5)}
    first, second = await stage.submit(tasks), await stage.submit(tasks)
    await stage.go()
    assert stage.load.full
    assert (await stage.record.run(second)).state == 0
    await node.finish("a")
    await stage.go(1_000)
    assert await stage.end(first) == ("succeeded", None)
    await stage.go(1_000)
    assert not stage.load.full
    await node.finish("a")
    await stage.go(1_000)
    assert await stage.end(second) == ("succeeded", None)


async def test_a_map_that_only_does_not_fit_now_waits_for_other_runs(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("runs", "tasks"):
        monkeypatch.setattr(f"skep.engine.memory.{module}.MAX_TASKS", 10)
    monkeypatch.setattr(place, "MAX_TASKS", 10)
    node = await stage.node(script={"a": HOLD})
    first = await stage.submit({"a": RUN} | {f"t{at}": RUN | {"needs": ["a"]} for at in range(5)})
    second = await stage.submit({"m": RUN | {"map": "range(9)"}})
    third = await stage.submit({"m": RUN | {"map": "range(10)"}})
    await stage.go()
    assert await stage.end(second) == ("running", None)
    assert await stage.end(third) == ("failed", "task_failed")
    await node.finish("a")
    await stage.go(1_000)
    assert [await stage.end(run) for run in (first, second)] == [("succeeded", None)] * 2


async def test_nothing_is_started_while_the_record_is_far_behind(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "BACKLOG", 3)
    node = await stage.node()
    run = await stage.submit({"a": RUN, "b": RUN | {"needs": ["a"]}})
    await stage.pass_(stage.load)
    await stage.engine.drain(["n"])
    await stage.engine.drain(["n"], on=False)
    assert await stage.engine.backlog() > 3
    await stage.pass_(stage.place)
    assert not await node.turn()
    await stage.go()
    assert await stage.end(run) == ("succeeded", None)


async def test_a_node_that_drains_gets_nothing_new(stage: Stage) -> None:
    node = await stage.node()
    await stage.engine.drain(["n"])
    run = await stage.submit({"a": RUN})
    await stage.go()
    assert node.started == []
    await stage.engine.drain(["n"], on=False)
    await stage.go()
    assert await stage.end(run) == ("succeeded", None)


async def test_a_node_that_leaves_gives_its_work_back(stage: Stage) -> None:
    node = await stage.node(script={"a": HOLD})
    run = await stage.submit({"a": RUN})
    await stage.go()
    await stage.hub.work.retire("n", 1)
    stage.nodes.clear()
    other = await stage.node("other")
    await stage.go()
    assert other.started == ["a"]
    assert await node.finish("a", "late") == "superseded"
    view = await stage.hub.runs.view(run)
    assert (view.state, view.tasks[0].node, view.tasks[0].output) == ("succeeded", "other", None)
    assert [attempt.state for attempt in view.tasks[0].history] == ["lost", "succeeded"]


async def test_a_large_map_of_an_upstream_list_does_not_read_the_list_for_each_child(stage: Stage) -> None:
    items = list(range(2_000))
    node = await stage.node(slots=2_000, script={"a": items})
    reads: list[int] = []
    upstream = stage.outputs.upstream

    async def counted(run: Any, tasks: Any) -> Any:
        reads.append(len(list(tasks)))
        return await upstream(run, tasks)

    stage.outputs.upstream = counted  # type: ignore[method-assign]
    tasks = {"a": RUN, "m": {"run": "x ${{ item }}", "map": "tasks.a.output"}, "n": {"run": "x ${{ tasks.m.output[5] }}"}}
    assert (await stage.run(tasks)).state == "succeeded"
    assert len(node.started) == 2_002
    assert len(reads) <= 5


async def test_children_start_though_the_list_of_their_map_was_forgotten(stage: Stage) -> None:
    node = await stage.node(slots=1, script={"a": ["x", "y", "z"]})
    run = await stage.submit({"a": RUN, "m": {"run": "x ${{ item }}", "map": "tasks.a.output", "max_parallel": 1}})
    while "m[0]" not in node.started:
        await stage.pass_(stage.load, stage.place, stage.transcribe)
        await node.turn()
    stage.catalog.forget(run)
    await stage.go()
    assert node.calls["m[2]"].call == "x z"
    assert stage.engine.core.runs[run].states[1] == TaskState.SUCCEEDED


APPROVAL: dict[str, Any] = {"approval": {"message": "Ship ${{ inputs.what }}?"}}


async def test_what_waits_for_somebody_is_parked_with_what_it_waits_for(stage: Stage) -> None:
    """It needs no node, and no slot."""
    run = await stage.submit({"ask": APPROVAL}, {"what": "it"}, inputs={"what": "x"})
    await stage.go()
    parked = next(event for event in stage.told if event.kind == "parked")
    assert (parked.reason, parked.attempt, Wait.decode(parked.data).message) == ("approval", 1, "Ship it?")
    assert await stage.states(run) == {"ask": "parked approval"}


@pytest.mark.parametrize("paused", ["default", "*"])
async def test_a_paused_namespace_starts_nothing_but_skips_and_unfolds(stage: Stage, paused: str) -> None:
    node = await stage.node()
    stage.place.paused = {paused}
    tasks = {
        "run": RUN, "ask": {"approval": {"message": "Go?"}}, "no": RUN | {"when": "false"},
        "map": {"run": "x ${{ item }}", "map": [1]},
    }  # fmt: skip
    run = await stage.submit(tasks)
    await stage.go()
    assert await stage.states(run) == {
        "run": "waiting", "ask": "waiting", "no": "skipped when", "map": "parked map", "map[0]": "waiting",
    }  # fmt: skip
    assert node.started == []
    stage.place.paused.clear()
    await stage.go(1_000)
    assert node.started == ["run", "map[0]"]
    assert (await stage.states(run))["ask"] == "parked approval"


async def test_another_namespace_is_not_paused(stage: Stage) -> None:
    node = await stage.node()
    stage.place.paused = {"default"}
    await stage.submit({"here": RUN})
    await stage.submit({"there": RUN}, namespace="other")
    await stage.go()
    assert node.started == ["there"]


async def test_an_attempt_is_told_where_relative_paths_start(stage: Stage) -> None:
    node = await stage.node(script={"a": HOLD})
    await stage.hub.runs.submit(workflow({"a": RUN}), base="/there")
    await stage.go()
    assert node.held["a"].base == "/there"
