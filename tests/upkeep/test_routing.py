"""Placement with more than one node: what is learned, remembered over a restart, and waited for."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from skep.flow.plan import compile_plan
from skep.hub.nodes import Nodes
from skep.model.node import Requirement
from skep.router.settings import RouterSettings
from skep.router.wanted import Kind
from skep.testing.stage import ENGINE_ID, HOLD, Failed, ScriptedNode, workflow
from skep.testing.timed import TimedStage
from skep.upkeep import place
from skep.upkeep.ranks import FRESH_MS
from skep.upkeep.wishes import ALIKE, Wishes

RUN: dict[str, Any] = {"run": "true"}
SHELL = Requirement("run", cpu_milli=1_000)


@pytest.fixture
async def stage() -> AsyncIterator[TimedStage]:
    async with TimedStage() as made:
        yield made


class Pair:
    """A fast and a slow node of one slot each, on which everything goes on until it is ended."""

    def __init__(self, stage: TimedStage, fast: ScriptedNode, slow: ScriptedNode) -> None:
        self.stage, self.fast, self.slow = stage, fast, slow

    async def teach(self, rounds: int = 4, fast_ms: int = 1_000, slow_ms: int = 10_000) -> None:
        """Runs of `w/work`, until it is known how long one takes here and there."""
        self.stage.routing.settings = RouterSettings(hold=False)
        for _ in range(rounds):
            await self.stage.submit({"work": RUN})
            await self.stage.submit({"work": RUN})
            await self.stage.go()
            assert self.fast.held.keys() == self.slow.held.keys() == {"work"}
            await self._ends(self.fast, fast_ms, fast_ms)
            await self._ends(self.slow, slow_ms - fast_ms, slow_ms)
        self.stage.routing.settings = RouterSettings()

    async def _ends(self, node: ScriptedNode, ms: int, ran_ms: int) -> None:
        await self.stage.go(ms)
        await self.stage.hub.work.report([msgspec.structs.replace(node.end("work"), ran_ms=ran_ms)])
        await self.stage.go()


@pytest.fixture
async def pair(stage: TimedStage) -> Pair:
    return await pair_of(stage)


async def pair_of(stage: TimedStage) -> Pair:
    script = dict.fromkeys(("work", "other"), HOLD)
    return Pair(stage, await stage.node("fast", slots=1, script=script), await stage.node("slow", slots=1, script=script))


async def test_with_one_node_there_is_no_router(stage: TimedStage) -> None:
    node = await stage.node()
    await stage.run({"a": RUN})
    assert node.started == ["a"]
    assert stage.routing.router is None


def test_what_one_node_needs_loads_no_numpy() -> None:
    code = "import sys, skep.wiring.server, skep.cli.run, skep.cli.up, skep.cli.check; print('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


async def test_durations_are_learned_by_node(pair: Pair) -> None:
    await pair.teach()
    router = pair.stage.routing.router
    assert router is not None
    known = router.predictor.predict(Kind("w/work", "", "run"), router.fleet)
    assert known is not None
    fast_s, slow_s = (float(known.median_s[router.fleet.at[name]]) for name in ("fast", "slow"))
    assert fast_s == pytest.approx(1, rel=0.3)
    assert slow_s == pytest.approx(10, rel=0.3)
    assert pair.stage.routing.running == {}


async def test_a_task_waits_for_the_fast_node_when_it_will_be_done_there_sooner(pair: Pair) -> None:
    stage = pair.stage
    await pair.teach()
    await stage.submit({"work": RUN})
    await stage.go()
    assert "work" in pair.fast.held
    await stage.submit({"work": RUN})
    await stage.go(500)
    assert pair.slow.held == {}
    assert [dict(why) for why in stage.place.why.values()] == [{"held": 1}]
    await pair.fast.finish("work")
    await stage.go()
    assert "work" in pair.fast.held
    assert stage.place.why == {}


async def test_nobody_waits_for_ever_for_a_node_that_is_late(pair: Pair) -> None:
    stage = pair.stage
    await pair.teach()
    await stage.submit({"work": RUN})
    await stage.go()
    await stage.submit({"work": RUN})
    await stage.go()
    for _ in range(60):
        if pair.slow.held:
            break
        await stage.go(place.HELD_MS)
    assert "work" in pair.slow.held


async def test_what_is_held_is_looked_at_again_though_nothing_happens(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "HELD_MS", 20)
    stage, loop = pair.stage, pair.stage.place
    await pair.teach()
    for _ in range(2):
        await stage.submit({"work": RUN})
        await stage.go()
    looks = asyncio.Queue[None]()
    survey = stage.engine.survey

    async def counted(limit: int) -> Any:
        looks.put_nowait(None)
        return await survey(limit)

    stage.engine.survey = counted  # type: ignore[method-assign]
    loop.interval_s = 3_600.0
    loop.start()
    async with asyncio.timeout(10):
        for _ in range(3):
            await looks.get()
    await loop.stop()


async def test_those_behind_the_held_ones_are_looked_at(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "LEAST", 2)
    stage = pair.stage
    await pair.teach()
    for _ in range(4):
        await stage.submit({"work": RUN}, priority=9)
    await stage.submit({"other": RUN})
    await stage.go()
    assert "work" in pair.fast.held
    assert "other" in pair.slow.held


async def test_what_the_engine_refuses_was_never_given(pair: Pair) -> None:
    stage = pair.stage
    await stage.submit({"work": RUN | {"locks": ["one"]}})
    await stage.submit({"other": RUN | {"locks": ["one"]}})
    await stage.go()
    assert len(stage.routing.running) == 1
    await stage.submit({"work": RUN})
    await stage.go()
    assert len(stage.routing.running) == 2


async def test_the_next_server_knows_what_was_learned_and_what_runs(pair: Pair) -> None:
    await pair.teach()
    async with pair.stage.after_a_crash(1_000) as after:
        again = await pair_of(after)
        await after.submit({"work": RUN})
        await after.go()  # there is a router from here on, and it reads
        await after.go()
        assert after.routing.expected_s(Kind("w/work", "", "run"), SHELL) == pytest.approx(5.5, rel=0.4)
        await again.fast.finish("work")


async def test_children_of_a_map_are_of_one_kind(stage: TimedStage) -> None:
    for name in ("one", "two"):
        await stage.node(name, script={f"m[{at}]": HOLD for at in range(3)})
    await stage.submit({"m": {"run": "echo ${{ item }}", "map": [1, 2, 3]}})
    await stage.go()
    assert {running.kind.name for running in stage.routing.running.values()} == {"w/m"}
    assert len(stage.routing.running) == 3


async def test_a_lost_node_ends_what_ran_there(stage: TimedStage) -> None:
    for name in ("one", "two"):
        await stage.node(name, slots=1, script={"a": HOLD})
    await stage.submit({"a": RUN})
    await stage.go()
    (running,) = stage.routing.running.values()
    await stage.hub.work.retire(running.node, 1)
    stage.nodes = [node for node in stage.nodes if node.info.id != running.node]
    await stage.go()
    (again,) = stage.routing.running.values()
    assert again.node != running.node


async def test_tasks_of_one_key_go_to_one_node(stage: TimedStage) -> None:
    nodes = [await stage.node(name, slots=50) for name in ("a", "b", "c")]
    task = RUN | {"placement": {"affinity": "${{ inputs.session }}"}}
    for number in range(12):
        await stage.submit({f"t{number}": task}, {"session": "s"}, inputs={"session": ""})
        await stage.go()
    assert sorted(len(node.started) for node in nodes) == [0, 0, 12]


async def test_a_policy_of_a_workflow_holds_for_its_tasks(stage: TimedStage) -> None:
    nodes = [await stage.node(name, slots=10) for name in ("a", "b", "c")]
    await stage.run({f"t{at}": RUN for at in range(6)}, defaults={"placement": {"policy": "round-robin"}})
    assert [len(node.started) for node in nodes] == [2, 2, 2]


# -- ranks


async def test_predicted_durations_order_the_tasks_of_a_run(pair: Pair) -> None:
    stage = pair.stage
    await pair.teach()
    run = await stage.submit({"other": RUN | {"estimated_duration": "1s"}, "work": RUN, "end": RUN | {"needs": ["work"]}})
    await stage.pass_(stage.load)
    other, work, end = stage.engine.core.runs[run].shape.order_ms
    assert work > other, "its author said that other takes a second"
    assert work - end == pytest.approx(5_500, rel=0.4)


async def test_runs_of_one_workflow_share_what_was_predicted(pair: Pair) -> None:
    stage = pair.stage
    await pair.teach()
    tasks = {"work": RUN, "end": RUN | {"needs": ["work"]}}
    runs = [await stage.submit(tasks) for _ in range(2)]
    await stage.pass_(stage.load)
    first, second = (stage.engine.core.runs[run].shape for run in runs)
    assert first is second
    stage.clock.advance(FRESH_MS)
    later = await stage.submit(tasks)
    await stage.pass_(stage.load)
    assert stage.engine.core.runs[later].shape is not first


# -- kinds


def test_thousands_of_tasks_that_differ_in_their_number_are_one_kind() -> None:
    few, many = ({f"t{at}": RUN for at in range(count)} for count in (10, ALIKE + 1))
    wishes = Wishes(compile_plan(workflow(few)))
    assert wishes.kind(3).name == "w/t3"
    wishes = Wishes(compile_plan(workflow(many | {"last": RUN})))
    assert {wishes.kind(at).name for at in range(ALIKE + 2)} == {"w/t", "w/last"}


# -- nodes that do not work


async def test_a_node_that_fails_where_others_do_not_is_shut_off_and_shown(stage: TimedStage) -> None:
    """What fails is retried elsewhere, and soon nothing of that type goes there any more."""
    broken = await stage.node("broken", slots=1, script={"work": Failed()})
    good = await stage.node("good", slots=1)
    nodes = Nodes(stage.engine, stage.record, stage.clock, ENGINE_ID)
    nodes.circuits = stage.routing.circuits
    stage.routing.settings = RouterSettings(policy="round-robin")
    for _ in range(30):
        await stage.submit({"work": RUN | {"retries": {"limit": 5, "delay": 0}, "type": "testing"}})
        await stage.go(100)
        if (await nodes.get("broken")).circuits:
            break
    (circuit,) = (await nodes.get("broken")).circuits
    assert (circuit.type, circuit.state) == ("testing", "open")
    assert (await nodes.get("good")).circuits == []
    tried = len(broken.started)
    for _ in range(5):
        await stage.submit({"work": RUN | {"type": "testing"}})
        await stage.go(100)
    assert len(broken.started) == tried
    assert len(good.started) >= 5
