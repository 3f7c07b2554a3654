"""Rejoin: a server dies and the next one takes up its work, whatever of it was recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from skep.engine.protocol import Beat, Register
from skep.model.node import NodeInfo
from skep.model.state import TaskState
from skep.testing.stage import HOLD, Failed, ScriptedNode, Snoozed, Stage, counted
from skep.upkeep.rejoin import Rejoin, Turns

RUN: dict[str, Any] = {"run": "true"}
CHAIN: dict[str, Any] = {"a": RUN, "b": RUN | {"needs": ["a"]}, "c": RUN | {"needs": ["b"]}}
MAP: dict[str, Any] = {"a": RUN, "m": {"run": "x ${{ item }}", "map": "tasks.a.output"}, "z": RUN | {"needs": ["m"]}}


async def unrecorded(stage: Stage, *nodes: ScriptedNode) -> None:
    """Everything happens that can, and none of it is recorded."""
    moved = True
    while moved:
        await stage.pass_(stage.load, stage.promote, stage.place)
        moved = any([await node.turn() for node in nodes])


async def test_a_running_attempt_is_adopted_and_not_repeated(stage: Stage) -> None:
    node = await stage.node(script={"a": HOLD})
    run = await stage.submit(CHAIN)
    await stage.go()
    token = node.held["a"].token
    after = await stage.reopened("n")
    await after.take_up(node)
    await after.go()
    assert node.held["a"].token.epoch == token.epoch + 1
    assert await node.finish("a", 7) == "ok"
    await after.go()
    assert await after.end(run) == ("succeeded", None)
    assert node.started == ["a", "b", "c"]
    view = await after.hub.runs.view(run)
    assert [attempt.state for attempt in view.tasks[0].history] == ["succeeded"]
    assert view.tasks[0].output == 7


async def test_an_outcome_that_no_server_recorded_counts(stage: Stage) -> None:
    node = await stage.node(script={"a": HOLD})
    run = await stage.submit(CHAIN)
    await stage.go()
    node.end("a", 1)
    after = await stage.reopened("n")
    await after.take_up(node)
    await after.go()
    assert await after.end(run) == ("succeeded", None)
    assert node.started == ["a", "b", "c"]


@pytest.mark.parametrize("tasks", [CHAIN, MAP], ids=["chain", "map"])
async def test_nothing_is_repeated_though_nothing_but_the_run_was_recorded(stage: Stage, tasks: dict[str, Any]) -> None:
    node = await stage.node(script={"a": [1, 2, 3], "c": HOLD, "z": HOLD})
    run = await stage.submit(tasks)
    await unrecorded(stage, node)
    started = list(node.started)
    (held,) = node.held
    after = await stage.reopened("n")
    await after.take_up(node)
    await after.go()
    assert node.started == started
    assert await node.finish(held) == "ok"
    await after.go()
    assert await after.end(run) == ("succeeded", None)
    assert counted(after.told)["granted"] == 0


async def test_a_lease_on_a_child_of_a_map_that_has_to_unfold_again_is_adopted(stage: Stage) -> None:
    node = await stage.node(script={"a": [1, 2, 3], "m": HOLD})
    run = await stage.submit(MAP)
    await stage.pass_(stage.load, stage.place)
    await node.turn()
    await stage.pass_(stage.transcribe)
    await unrecorded(stage, node)
    assert sorted(node.held) == ["m[0]", "m[1]", "m[2]"]
    after = await stage.reopened("n")
    await after.take_up(node)
    await after.go()
    assert node.started == ["a", "m[0]", "m[1]", "m[2]"]
    for name in sorted(node.held):
        assert await node.finish(name) == "ok"
    await after.go()
    assert await after.end(run) == ("succeeded", None)


async def test_a_child_is_not_taken_for_the_child_of_another_map(stage: Stage) -> None:
    """Two maps that unfold again the other way round have each other's indexes."""
    node = await stage.node(script={"p": HOLD, "q": HOLD, "m": HOLD, "n": HOLD})
    tasks = {
        "p": RUN, "q": RUN,
        "m": {"run": "x ${{ item }}", "map": [1, 2], "needs": ["p"]},
        "n": {"run": "x ${{ item }}", "map": [1, 2], "needs": ["q"]},
    }  # fmt: skip
    run = await stage.submit(tasks)
    await stage.go()
    for name in ("q", "p"):
        await node.finish(name)
        await stage.pass_(stage.place)
        if name == "q":
            await node.turn()
            await stage.pass_(stage.place)
    await unrecorded(stage, node)
    before = {name: grant.task for name, grant in node.held.items()}
    after = await stage.reopened("n")
    await after.take_up(node)
    await after.go()
    for name in sorted(node.held):
        grant = node.held[name]
        live = {task.task: task for task in await after.engine.tasks(run, range(4))}
        assert live[grant.parent].first + grant.child == grant.task, (name, before)
        await node.finish(name)
    await after.go()
    assert await after.end(run) == ("succeeded", None)


async def test_nothing_starts_before_the_nodes_have_come(stage: Stage) -> None:
    run = await stage.submit({"a": RUN})
    await stage.go()
    after = await stage.reopened("n")
    other = await after.node("other")
    await after.go()
    assert other.started == []
    node = await stage.node("n", slots=0)
    await after.take_up(node)
    await after.go()
    assert other.started == ["a"]
    assert await after.end(run) == ("succeeded", None)


async def test_a_node_that_is_expected_and_does_not_come_has_lost_its_attempt(stage: Stage) -> None:
    node = await stage.node(script={"a": HOLD})
    run = await stage.submit({"a": RUN})
    await stage.go()
    after = await stage.reopened()
    other = await after.node("other")
    await after.take_up()
    await after.go()
    assert other.started == ["a"]
    await node.rejoin(after)
    await after.go()
    assert node.stops == [("a", "superseded")]
    view = await after.hub.runs.view(run)
    assert [attempt.state for attempt in view.tasks[0].history] == ["lost", "succeeded"]


async def test_a_node_that_comes_late_is_heard_at_once(stage: Stage) -> None:
    node = await stage.node(script={"a": HOLD})
    run = await stage.submit({"a": RUN})
    await stage.go()
    after = await stage.reopened()
    await after.take_up()
    await node.rejoin(after)
    await after.go()
    assert await node.finish("a") == "ok"
    await after.go()
    assert await after.end(run) == ("succeeded", None)
    assert node.started == ["a"]


async def test_a_node_that_comes_late_is_not_given_what_it_has(stage: Stage) -> None:
    node = await stage.node(script={"a": HOLD})
    run = await stage.submit({"a": RUN})
    await stage.go()
    after = await stage.reopened()
    assert after.rejoin is not None
    await after.take_up()
    await after.hub.work.register(node.info, beats=False, coming=True)
    await after.go()
    await node.rejoin(after)
    await after.go()
    assert await node.finish("a") == "ok"
    await after.go()
    assert await after.end(run) == ("succeeded", None)
    assert node.started == ["a"]


async def test_a_node_has_not_come_before_it_has_shown_all(stage: Stage) -> None:
    node = await stage.node(script={"a": HOLD, "b": HOLD})
    run = await stage.submit({"a": RUN, "b": RUN})
    await stage.go()
    node.end("a", 1)
    after = await stage.reopened("n")
    await after.hub.work.register(node.info, beats=False)
    first, node.outcomes = node.outcomes, []
    beginning = asyncio.create_task(after.hub.work.present("n", node.info.incarnation, [], first, more=True))
    taking = asyncio.create_task(after.take_up())
    await after.load.caught_up.wait()
    for _ in range(99):
        await asyncio.sleep(0)
    assert not taking.done()
    await node.rejoin(after)
    await asyncio.gather(beginning, taking)
    await after.go()
    assert await node.finish("b") == "ok"
    await after.go()
    assert await after.end(run) == ("succeeded", None)
    assert sorted(node.started) == ["a", "b"]


LOCKED: dict[str, Any] = {"a": RUN | {"locks": ["door"]}}


async def test_no_lock_is_given_while_a_node_that_did_not_come_may_have_it(stage: Stage) -> None:
    node = await stage.node(script={"a": HOLD})
    await stage.submit(LOCKED)
    await stage.go()
    after = await stage.reopened("n")
    assert after.rejoin is not None
    after.rejoin._window_s = 0
    other = await after.node("other")
    await after.take_up()
    second = await after.submit(LOCKED)
    free = await after.submit({"b": RUN})
    await after.go()
    assert other.started == ["b"]
    await node.rejoin(after)
    await after.go()
    assert node.stops == [], "it has it still"
    await after.go(15_000)
    node.script = {}
    assert await node.finish("a") == "ok"
    await after.go()
    assert [await after.end(run) for run in (second, free)] == [("succeeded", None)] * 2


async def test_who_comes_with_a_lock_when_others_may_have_it_is_too_late(stage: Stage) -> None:
    node = await stage.node(script={"a": HOLD})
    await stage.submit(LOCKED)
    await stage.go()
    after = await stage.reopened()
    await after.take_up()
    await node.rejoin(after)
    await after.go()
    assert node.stops == [("a", "superseded")]
    node.script = {}
    await after.go(4_999)
    assert node.started == ["a"], "it may still be about to end"
    await after.go(1)
    await after.go()
    assert node.started == ["a", "a"]


async def test_a_lock_is_not_given_before_a_cancelled_attempt_has_ended(stage: Stage) -> None:
    """The next server sweeps its run before its node comes."""
    node = await stage.node(script={"a": HOLD})
    node.deaf = True
    run = await stage.submit(LOCKED)
    await stage.go()
    await stage.hub.runs.cancel(run)
    await stage.go()
    after = await stage.reopened("n")
    await after.take_up(node)
    node.script = {}
    waiting = await after.submit(LOCKED)
    await after.go()
    assert node.stops == [("a", "cancel"), ("a", "superseded")]
    assert node.started == ["a"]
    await after.go(5_000)
    await after.go()
    assert await after.end(waiting) == ("succeeded", None)


async def test_a_node_that_started_anew_has_nothing_of_what_it_brought_before(stage: Stage) -> None:
    """It died while the server waited for others."""
    node = await stage.node(script={"a": HOLD})
    run = await stage.submit({"a": RUN})
    await stage.go()
    after = await stage.reopened("n", "m")
    first = asyncio.create_task(node.rejoin(after))
    for _ in range(9):
        await asyncio.sleep(0)
    assert after.nodes == [node]
    later = ScriptedNode(after.hub.work, msgspec.structs.replace(node.info, incarnation=node.info.incarnation + 1), {})
    other = await after.node("m", slots=0)
    await after.take_up(later, other)
    await first
    after.nodes.remove(node)
    await after.go()
    assert later.started == ["a"]
    assert counted(after.told)["adopted"] == 0
    assert await after.end(run) == ("succeeded", None)


async def test_a_fault_with_what_is_brought_holds_nobody_up(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    node = await stage.node(script={"a": HOLD})
    run = await stage.submit({"a": RUN})
    await stage.go()
    after = await stage.reopened("n")

    async def adopt(_: object) -> list[Any]:
        raise KeyError("what nobody thought of")

    after.engine.adopt = adopt  # type: ignore[method-assign, assignment]
    node.script = {}
    await after.take_up(node)
    await after.go()
    assert await after.end(run) == ("succeeded", None)
    assert "a fault of Skep's own" in caplog.text


async def test_what_was_recorded_stays_and_the_node_is_told_so(stage: Stage) -> None:
    node = await stage.node(script={"a": 1, "b": HOLD})
    run = await stage.submit(CHAIN)
    await stage.go()
    node.outcomes[0] = msgspec.structs.replace(node.outcomes[0], output=b"2")
    after = await stage.reopened("n")
    await after.take_up(node)
    await after.go()
    assert await node.finish("b") == "ok"
    await after.go()
    view = await after.hub.runs.view(run)
    assert (view.state, view.tasks[0].output) == ("succeeded", 1)
    assert node.started == ["a", "b", "c"]


@pytest.mark.parametrize("how", [Failed(), Snoozed(1_000)], ids=["failed", "snoozed"])
async def test_a_later_attempt_is_adopted_after_the_end_of_the_one_before(stage: Stage, how: Any) -> None:
    acts = [how, HOLD]
    node = await stage.node(script={"a": lambda grant: acts.pop(0)})
    run = await stage.submit({"a": RUN | {"retries": {"limit": 3, "delay": "1s"}}})
    await unrecorded(stage, node)
    stage.clock.advance(5_000)
    await unrecorded(stage, node)
    assert [grant.attempt for grant in node.held.values()] == [2]
    after = await stage.reopened("n")
    await after.take_up(node)
    await after.go(10_000)
    assert await node.finish("a") == "ok"
    await after.go()
    view = await after.hub.runs.view(run)
    assert view.state == "succeeded"
    assert [attempt.state for attempt in view.tasks[0].history] == [type(how).__name__.lower(), "succeeded"]


async def test_a_cancelled_run_ends_though_its_sweep_was_not_recorded(stage: Stage) -> None:
    node = await stage.node(script={"a": HOLD})
    run = await stage.submit(CHAIN)
    await stage.go()
    await stage.record.command(run, "cancel", b"enough", stage.clock.now_ms())
    after = await stage.reopened("n")
    await after.take_up(node)
    await after.go(1_000)
    assert await after.end(run) == ("cancelled", "enough")
    assert node.stops == [("a", "superseded")] or node.stops == [("a", "cancel")]


class Others(Turns):
    """Other servers on the same engine, of which a test says whether they are there."""

    def __init__(self) -> None:
        self.late = True
        self.looks = 0
        self.said: list[str] = []

    async def are_late(self) -> bool:
        self.looks += 1
        return self.late

    async def begin(self) -> None:
        self.said.append("begun")

    async def begun(self) -> None: ...

    async def end(self) -> None:
        self.said.append("over")


def among_others(stage: Stage, turns: Others, *expected: str, **given: Any) -> asyncio.Task[None]:
    """The rejoin of a server that leads, in place of that of one that is alone."""
    rejoin = Rejoin(stage.engine, stage.load, stage.place, stage.hub.work.report, expected, turns=turns, **given)
    stage.rejoin = stage.hub.work.presenter = rejoin
    return asyncio.create_task(rejoin.run())


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  nobody tells
            await asyncio.sleep(0.005)


async def test_nodes_have_their_time_once_all_servers_are_there(stage: Stage) -> None:
    node = await stage.node(script={"a": HOLD})
    run = await stage.submit({"a": RUN})
    await stage.go()
    after = await stage.reopened("n")
    await after.pass_(after.load)
    turns = Others()
    running = among_others(after, turns, "n", window_s=0.15)
    await until(lambda: turns.looks > 4)
    assert not turns.said, "that was more than its time"
    turns.late = False
    await node.rejoin(after)
    await running
    await after.go()
    assert turns.said == ["begun", "over"]
    assert (node.started, node.stops) == (["a"], [])
    assert await node.finish("a") == "ok"
    await after.go()
    assert await after.end(run) == ("succeeded", None)


@pytest.mark.parametrize("late", [True, False])
async def test_a_server_that_never_comes_is_not_waited_for_without_end(stage: Stage, late: bool) -> None:
    await stage.node(script={"a": HOLD})
    await stage.submit({"a": RUN})
    await stage.go()
    after = await stage.reopened("n")
    other = await after.node("other")
    await after.pass_(after.load)
    turns = Others()
    turns.late = late
    await among_others(after, turns, "n", window_s=0.1, late_s=0.25)
    await after.go()
    assert other.started == ["a"]
    assert turns.looks <= 4


async def test_what_nodes_bring_to_other_servers_is_waited_for_while_they_live(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await stage.submit({"a": RUN})
    await stage.go()
    after = await stage.reopened("n")
    other = await after.node("other")
    await after.engine.register([Register(NodeInfo("n"), beats=True, coming=True)])
    await after.pass_(after.load)
    turns = Others()
    running = among_others(after, turns, "n")
    await until(lambda: turns.said)
    await after.go(9_999)
    await asyncio.sleep(0.2)  # it looks more than once
    assert turns.said == ["begun"]
    after.clock.advance(1)  # from now on it is silent
    await running
    await after.go()
    assert other.started == ["a"]
    assert "is not taken up yet" not in caplog.text

    monkeypatch.setattr("skep.upkeep.rejoin.OTHERS_S", 0.2)
    await after.engine.beat([Beat("n", 1, (), 0)])
    await among_others(after, turns, "n")
    assert "what n brought is not taken up yet" in caplog.text


async def test_a_fault_of_the_rejoin_itself_stops_nobody(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    run = await stage.submit({"a": RUN})
    await stage.go()
    after = await stage.reopened()
    await after.node()
    await after.pass_(after.load)
    turns = Others()
    turns.begin = None  # type: ignore[method-assign, assignment]
    await among_others(after, turns)
    await after.go()
    assert await after.end(run) == ("succeeded", None)
    assert "a fault of Skep's own" in caplog.text


async def test_it_waits_for_what_is_loaded(stage: Stage) -> None:
    await stage.submit({"a": RUN})
    await stage.go()
    after = await stage.reopened()
    assert after.rejoin is not None
    running = asyncio.create_task(after.rejoin.run())
    await asyncio.sleep(0)
    node = await after.node()
    await after.pass_(after.place)
    assert not after.rejoin.over
    assert node.started == []
    await after.pass_(after.load)
    await running
    await after.go()
    assert node.started == ["a"]


async def test_many_at_once(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skep.upkeep.rejoin.BATCH", 7)
    node = await stage.node(slots=100, script={f"t{at}": HOLD for at in range(60)})
    run = await stage.submit({f"t{at}": RUN for at in range(60)})
    await stage.go()
    for at in range(0, 60, 2):
        node.end(f"t{at}")
    after = await stage.reopened("n")
    await after.take_up(node)
    await after.go()
    for name in tuple(node.held):
        assert await node.finish(name) == "ok"
    await after.go()
    view = await after.hub.runs.view(run)
    assert view.state == "succeeded"
    assert {task.attempts for task in view.tasks} == {1}
    assert {TaskState[task.state.upper()] for task in view.tasks} == {TaskState.SUCCEEDED}


async def test_a_cancel_outlives_any_number_of_servers(stage: Stage) -> None:
    """The next record says that the run is being cancelled in the same breath as that it is loaded."""
    node = await stage.node(script={"a": HOLD})
    node.deaf = True
    run = await stage.submit(CHAIN)
    await stage.go()
    await stage.hub.runs.cancel(run, "enough")
    await stage.pass_(stage.transcribe)
    second = await stage.reopened()
    await second.pass_(second.load)
    (loaded,) = [event for event in await second.engine.events(0, 100) if event.kind == "loaded"]
    await second.record.transcribe("engine", second.engine.epoch, 0, (await second.engine.events(0, 100))[: loaded.n])
    third = await second.reopened()
    await third.take_up()
    await third.go(1_000)
    assert await third.end(run) == ("cancelled", "enough")
