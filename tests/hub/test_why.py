"""Staged situations, each with the cause that `skep why` names for it, what ends it, and the facts that it gives."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from skep.engine.memory import runs as engine_runs
from skep.engine.protocol import Register
from skep.errors import NotFoundError
from skep.hub.queue import Queue
from skep.hub.standing import SILENT_MS
from skep.hub.why import CHAIN, Why
from skep.ids import child_run_id
from skep.model.node import NodeInfo
from skep.model.run import EXCLUSIVE
from skep.model.why import CAUSES, HolderView, TaskWhy
from skep.router.wanted import Kind
from skep.testing.stage import HOLD, Failed, Snoozed, workflow
from skep.testing.timed import TimedStage

MINUTE = 60_000
RUN: dict[str, Any] = {"run": "true"}
ASK: dict[str, Any] = {"approval": "ship it?"}


class WhyStage(TimedStage):
    """With the noun, and what keeps decisions."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.why = Why(self.engine, self.record, self.catalog, self.load, self.place, self.tasks)
        self.queue = Queue(self.engine, self.record, self.load, self.place, self.clock)
        self.loops.append(self.parts.decisions)

    async def said(self, run: str, task: str = "a") -> TaskWhy:
        """The answer, whose word has a meaning, and whose chain ends at a cause."""
        answer = await self.why.task(run, task)
        assert answer.because in CAUSES
        assert answer.text
        assert not answer.chain or answer.chain[-1].because in CAUSES
        return answer

    async def word(self, run: str, task: str = "a") -> tuple[str, str]:
        """Cause, and what ends it."""
        answer = await self.said(run, task)
        return answer.because, answer.unblock


@pytest.fixture
async def stage() -> AsyncIterator[WhyStage]:
    made = WhyStage()
    async with made:
        yield made


async def begun(stage: WhyStage, tasks: dict[str, Any], values: dict[str, Any] | None = None, **given: Any) -> str:
    """A run, as far as it goes by itself."""
    run = await stage.submit(tasks, values, **given)
    await stage.go()
    return run


# -- other work of its run


async def test_what_it_needs_is_followed_to_the_root(stage: WhyStage) -> None:
    await stage.node(script={"a": HOLD})
    run = await begun(stage, {"a": RUN, "b": RUN | {"needs": ["a"]}, "c": RUN | {"needs": ["b"]}})
    answer = await stage.said(run, "c")
    assert (answer.because, answer.state, answer.unblock) == ("needs", "waiting", "it ends")
    assert [(ref.task, ref.state, ref.because) for ref in answer.chain] == [("b", "waiting", ""), ("a", "running", "running")]
    assert answer.text == "it needs b, which waits for a: it runs on n"


async def test_the_root_that_only_somebody_can_end_comes_first(stage: WhyStage) -> None:
    await stage.node(script={"a": HOLD})
    run = await begun(stage, {"a": RUN, "ask": ASK, "b": RUN | {"needs": ["a", "ask"]}})
    answer = await stage.said(run, "b")
    assert [(ref.task, ref.because) for ref in answer.chain] == [("ask", "approval")]
    assert answer.unblock == f"`skep approve {run} ask`, or `skep reject`"


async def test_of_a_long_chain_both_ends_are_told(stage: WhyStage) -> None:
    run = await begun(stage, {f"t{at}": RUN | {"needs": [f"t{at - 1}"]} if at else ASK for at in range(100)})
    answer = await stage.said(run, "t99")
    assert answer.text == "it needs t98, which waits for 97 more in a row and at last for t0: a person is asked: ship it?"
    assert len(answer.chain) == CHAIN
    assert (answer.chain[0].task, answer.chain[-1].task) == ("t98", "t0")


async def test_a_map_waits_for_its_children_and_what_needs_it_too(stage: WhyStage) -> None:
    await stage.node(script={"m[1]": HOLD})
    run = await begun(stage, {"m": RUN | {"map": "range(3)"}, "z": RUN | {"needs": ["m"]}})
    answer = await stage.said(run, "m")
    assert (answer.because, [ref.task for ref in answer.chain]) == ("children", ["m[1]"])
    assert answer.text.startswith("1 of its children have not ended")
    assert [ref.task for ref in (await stage.said(run, "z")).chain] == ["m", "m[1]"]


async def test_a_child_of_a_map_waits_for_its_siblings(stage: WhyStage) -> None:
    await stage.node(script={"m": HOLD})
    run = await begun(stage, {"m": RUN | {"map": "range(4)", "max_parallel": 2}})
    answer = await stage.said(run, "m[3]")
    assert (answer.because, answer.chain[-1].because) == ("window", "running")
    assert answer.text.startswith("2 of its siblings have begun and not ended, which is `max_parallel` of their map")


async def test_a_child_run(stage: WhyStage) -> None:
    await stage.node(script={"k": HOLD})
    run = await begun(stage, {"a": {"uses": {"workflow": {"name": "kid", "tasks": {"k": RUN}}}}})
    child = child_run_id(run, 0, 1)
    answer = await stage.said(run)
    assert (answer.because, answer.unblock) == ("child_run", f"that ends: `skep why {child}`")
    assert answer.text == f"its child run {child} is running"
    assert (await stage.said(child, "k")).because == "running"


# -- time


async def test_tried_again_later(stage: WhyStage) -> None:
    await stage.node(script={"a": Failed("Boom", "no luck")})
    run = await begun(stage, {"a": RUN | {"retries": {"limit": 3, "delay": "1m", "jitter": 0}}})
    answer = await stage.said(run)
    assert (answer.because, answer.until_ms) == ("retry", stage.clock.now_ms() + MINUTE)
    assert "Boom: no luck" in answer.text


async def test_snoozed(stage: WhyStage) -> None:
    await stage.node(script={"a": Snoozed(MINUTE)})
    run = await begun(stage, {"a": RUN})
    answer = await stage.said(run)
    assert (answer.because, answer.until_ms) == ("snoozed", stage.clock.now_ms() + MINUTE)


async def test_scheduled_for_later(stage: WhyStage) -> None:
    due_ms = stage.clock.now_ms() + MINUTE
    run = await stage.hub.runs.submit(workflow({"a": RUN}), due_ms=due_ms)
    await stage.go()
    answer = await stage.said(run)
    assert (answer.because, answer.until_ms) == ("not_due", due_ms)
    whole = await stage.why.run(run)
    assert (whole.because, whole.state, whole.until_ms) == ("not_due", "queued", due_ms)


async def test_a_rate_and_until_when(stage: WhyStage) -> None:
    await stage.node()
    tasks = {name: RUN | {"rate": {"key": "api", "per_minute": 1}} for name in "abc"}
    begun_ms = stage.clock.now_ms() + 1
    run = await begun(stage, tasks)
    answer = await stage.said(run, "c")
    assert (answer.because, answer.until_ms) == ("rate", begun_ms + 2 * MINUTE)
    assert answer.text == "as many were started as the rate of 'api' per minute allows"
    assert answer.line is not None
    assert (answer.line.position, answer.line.waiters, answer.line.holders) == (2, 2, [])


# -- a person


async def test_an_approval(stage: WhyStage) -> None:
    run = await begun(stage, {"a": {"approval": {"message": "ship it?", "deadline": "1h"}}})
    answer = await stage.said(run)
    assert (answer.because, answer.unblock) == ("approval", f"`skep approve {run} a`, or `skep reject`")
    assert (answer.text, answer.until_ms) == ("a person is asked: ship it?", (answer.since_ms or 0) + 60 * MINUTE)


async def test_an_event(stage: WhyStage) -> None:
    run = await begun(stage, {"a": {"wait_for": {"event": "pushed", "key": "web"}}})
    assert await stage.word(run) == ("event", "`skep event pushed --key web`")


async def test_a_paused_run(stage: WhyStage) -> None:
    await stage.node(slots=1, script={"a": HOLD})
    run = await begun(stage, {"a": RUN, "b": RUN})
    await stage.hub.runs.pause(run)
    await stage.nodes[0].finish("a")
    await stage.go()
    assert await stage.word(run, "b") == ("run_paused", f"`skep resume {run}`")
    whole = await stage.why.run(run)
    assert (whole.because, whole.unblock) == ("run_paused", f"`skep resume {run}`")


@pytest.mark.parametrize(("namespace", "option"), [("", ""), ("team", " --namespace team")])
async def test_a_paused_queue(stage: WhyStage, namespace: str, option: str) -> None:
    await stage.node()
    await stage.queue.pause(namespace)
    run = await begun(stage, {"a": RUN}, namespace="team")
    assert await stage.word(run) == ("queue_paused", f"`skep queue resume{option}`")
    (cause,) = (await stage.why.queue()).causes
    assert (cause.because, cause.count, cause.namespace) == ("queue_paused", 1, "team")
    assert cause.oldest is not None
    assert (cause.oldest.task, cause.oldest.run) == ("a", run)


# -- nodes


async def test_there_is_no_node(stage: WhyStage) -> None:
    run = await begun(stage, {"a": RUN})
    assert await stage.word(run) == ("no_nodes", "start one: `skep up`, or `skep node --server URL`")


@pytest.mark.parametrize(
    ("task", "node", "because", "unblock", "text"),
    [
        ({"requires": ["gpu"]}, {}, "capability", "`skep node --capability gpu`", "lack gpu"),
        ({"requires": ["zone=eu"]}, {"labels": {"zone": "us"}}, "capability", "`skep node --label zone=eu`", "lack zone=eu"),
        ({}, {"executors": ("http",)}, "executor", "start a node that runs such tasks", "do not run `run` tasks"),
        ({"resources": {"cpu": 9}}, {}, "resources", "less in `resources`", "have too little cpu"),
        ({"resources": {"memory": "8GB"}}, {"memory": 1}, "resources", "less in `resources`", "have too little memory"),
        ({"resources": {"vram": "8GB"}}, {}, "resources", "less in `resources`", "have too little vram"),
    ],
)
async def test_no_node_can(
    stage: WhyStage, task: dict[str, Any], node: dict[str, Any], because: str, unblock: str, text: str
) -> None:
    for name in ("n1", "n2"):
        await stage.node(name, slots=2, **node)
    run = await begun(stage, {"a": RUN | task})
    answer = await stage.said(run)
    assert (answer.because, answer.text) == (because, f"no node can run it: n1 and n2 {text}")
    assert unblock in answer.unblock
    assert [view.node for view in answer.candidates] == ["n1", "n2"]
    assert all(view.out.split()[1:] == text.split()[1:] for view in answer.candidates)


async def test_no_node_has_the_module(stage: WhyStage) -> None:
    await stage.node(any_app=False)
    run = await begun(stage, {"a": {"python": "shop.orders:send"}})
    assert await stage.word(run) == ("app", "`skep node --app shop.orders`")


async def test_each_node_lacks_something_else(stage: WhyStage) -> None:
    await stage.node("big", executors=("http",))
    await stage.node("small", capabilities=())
    run = await begun(stage, {"a": RUN | {"requires": ["cpu"]}})
    answer = await stage.said(run)
    assert (answer.because, answer.text) == ("unable", "no node can run it: big does not run `run` tasks; small lacks cpu")


async def test_all_that_can_are_full(stage: WhyStage) -> None:
    for name in ("n1", "n2"):
        await stage.node(name, slots=1, script={"x": HOLD})
    await stage.node("other", executors=("http",))
    await begun(stage, {"x": RUN | {"map": "range(2)"}})
    run = await begun(stage, {"a": RUN})
    answer = await stage.said(run)
    assert (answer.because, answer.unblock) == ("full", "wait until an attempt there ends, or start another node")
    assert answer.text.startswith("the nodes that can run it have no room: n1 and n2 have no free slot")
    assert [view.node for view in answer.candidates] == ["n1", "n2", "other"]


async def test_the_one_that_can_is_draining(stage: WhyStage) -> None:
    await stage.node()
    await stage.engine.drain(["n"])
    run = await begun(stage, {"a": RUN})
    assert await stage.word(run) == ("draining", "`skep drain n --undo`")


async def test_the_one_that_can_is_silent(stage: WhyStage) -> None:
    stage.place.paused.add("*")
    await stage.engine.register([Register(NodeInfo("n", cpu_milli=4_000))])
    run = await begun(stage, {"a": RUN})
    stage.place.paused.clear()
    stage.clock.advance(SILENT_MS + 1)
    assert (await stage.said(run)).because == "silent"


async def test_the_one_that_can_has_just_come(stage: WhyStage) -> None:
    await stage.engine.register([Register(NodeInfo("n", cpu_milli=4_000), coming=True)])
    run = await begun(stage, {"a": RUN})
    assert (await stage.said(run)).because == "coming"


async def test_it_runs_on_a_node_that_is_silent(stage: WhyStage) -> None:
    await stage.engine.register([Register(NodeInfo("n", cpu_milli=4_000))])
    run = await begun(stage, {"a": RUN})
    assert (await stage.said(run)).because == "running"
    stage.clock.advance(SILENT_MS + 1)
    assert (await stage.said(run)).because == "silent_node"


async def teach(stage: WhyStage, name: str, **durations_s: float) -> None:
    """The router has seen such tasks often. It is there once there was a choice."""
    await begun(stage, {"first": RUN})
    router = stage.routing.router
    assert router is not None
    for _ in range(30):
        for node, seconds in durations_s.items():
            router.predictor.learn(Kind(name, "", "run"), node, seconds, True)


async def test_it_is_held_for_a_faster_node(stage: WhyStage) -> None:
    for name in ("fast", "slow"):
        await stage.node(name, slots=1, script={"a": HOLD})
    await teach(stage, "w/a", fast=10, slow=1_000)
    await begun(stage, {"a": RUN})
    assert stage.nodes[0].started[-1] == "a"
    run = await begun(stage, {"a": RUN})
    answer = await stage.said(run)
    assert answer.because == "held", answer
    assert answer.text.startswith("node fast is busy, and expected, in ")
    assert answer.until_ms is not None
    assert abs(answer.until_ms - stage.clock.now_ms() - 10_000) < 3_000
    slow = next(view for view in answer.candidates if view.node == "slow")
    assert (slow.out, slow.predicted_ms is not None and 300_000 < slow.predicted_ms < 1_100_000) == ("", True)


async def shut_off(stage: WhyStage, bad: str, good: str) -> None:
    """Such tasks kept failing on one node, and not on the other."""
    await teach(stage, "w/x", bad=1)
    assert stage.routing.router is not None
    for at in range(8):
        for name, works in ((bad, False), (good, True)):
            stage.routing.router.breaker.ended(at, name, "training", works, stage.clock.now_ms())


async def test_a_node_is_shut_off_and_the_others_are_full(stage: WhyStage) -> None:
    for name in ("bad", "good"):
        await stage.node(name, slots=1, script={"x": HOLD})
    await stage.node("other", executors=("http",))
    await shut_off(stage, "bad", "good")
    task = RUN | {"type": "training"}
    await begun(stage, {"x": task})
    run = await begun(stage, {"a": task})
    answer = await stage.said(run)
    assert (answer.because, answer.state) == ("unhealthy", "ready")
    assert "bad is shut off: such tasks kept failing there" in answer.text
    assert "good has no free slot" in answer.text
    assert [view.node for view in answer.candidates] == ["bad", "good", "other"]


async def test_where_all_are_shut_off_all_are_tried(stage: WhyStage) -> None:
    await stage.node("bad", slots=1, script={"x": HOLD})
    await stage.node("other", executors=("http",))
    await shut_off(stage, "bad", "other")
    await begun(stage, {"x": RUN | {"type": "training"}})
    run = await begun(stage, {"a": RUN | {"type": "training"}})
    assert (await stage.said(run)).because == "full"


async def test_another_namespace_has_its_turn(stage: WhyStage) -> None:
    await stage.node(slots=2, script={"a": HOLD})
    await begun(stage, {"a": RUN | {"map": "range(2)"}}, namespace="greedy")
    mine = await begun(stage, {"a": RUN}, namespace="greedy")
    theirs = await begun(stage, {"a": RUN}, namespace="modest")
    answer = await stage.said(mine)
    assert answer.because == "fair_share"
    assert "namespace modest is first" in answer.text
    assert (await stage.said(theirs)).because == "full"


# -- what the fleet shares


async def test_a_lock_and_the_place_in_its_line(stage: WhyStage) -> None:
    await stage.node(script={"a": HOLD})
    locked = {"a": RUN | {"locks": ["repo"]}}
    first, second, third = [await begun(stage, locked) for _ in range(3)]
    answer = await stage.said(third)
    assert (answer.because, answer.text) == ("lock", f"it waits for lock 'repo': held by a of run {first} on n")
    assert answer.line is not None
    assert (answer.line.position, answer.line.waiters, answer.line.shared) == (2, 2, False)
    assert answer.line.holders == [HolderView(EXCLUSIVE, first, "a", "n")]
    assert answer.unblock == "they give it back"
    line = (await stage.said(second)).line
    assert line is not None
    assert line.position == 1


async def test_who_wants_a_lock_alone_waits_for_those_who_share_it(stage: WhyStage) -> None:
    await stage.node(script={"a": HOLD, "b": HOLD})
    shared = [{"name": "repo", "shared": True}]
    run = await begun(
        stage, {"a": RUN | {"locks": shared}, "b": RUN | {"locks": shared}, "z": RUN | {"locks": ["repo"], "when": "true"}}
    )
    answer = await stage.said(run, "z")
    assert answer.text == "it waits for lock 'repo' for itself alone: held by a on n, b on n"
    other = await begun(stage, {"late": RUN | {"locks": shared}})
    answer = await stage.said(other, "late")
    assert answer.line is not None
    assert (answer.because, answer.line.shared, answer.line.position) == ("lock", True, 2)


async def test_a_lock_that_its_code_asked_for(stage: WhyStage) -> None:
    node = await stage.node(script={"a": HOLD, "b": HOLD})
    runs = [await begun(stage, {name: RUN}) for name in "ab"]
    for run, name in zip(runs, "ab", strict=True):
        await stage.hub.work.claim(run, 0, node.held[name].token, "disk", EXCLUSIVE, MINUTE, True)
    answer = await stage.said(runs[1], "b")
    assert (answer.because, answer.state) == ("lock_inside", "running")
    assert answer.text == f"its code waits for lock 'disk': held by a of run {runs[0]} on n"


async def test_a_concurrency_key(stage: WhyStage) -> None:
    await stage.node(script={"a": HOLD})
    task = RUN | {"concurrency": {"key": "db", "limit": 2}}
    *_, run = [await begun(stage, {"a": task}) for _ in range(3)]
    answer = await stage.said(run)
    assert answer.because == "concurrency"
    assert answer.text.startswith("2 of 2 with concurrency key 'db' run: held by a of run ")
    assert answer.line is not None
    assert (answer.line.used, answer.line.limit, answer.line.position) == (2, 2, 1)


async def test_a_lock_after_a_restart(stage: WhyStage) -> None:
    await stage.node()
    await stage.engine.withhold(15_000)
    run = await begun(stage, {"a": RUN | {"locks": ["repo"]}})
    assert await stage.word(run) == ("withheld", "wait: 15 s at most")


# -- the server


async def test_nodes_may_still_come(stage: WhyStage) -> None:
    await stage.node()
    stage.place.waits = True
    run = await begun(stage, {"a": RUN})
    assert await stage.word(run) == ("rejoin", "wait: 5 s at most")


async def test_the_store_is_nearly_full(stage: WhyStage) -> None:
    await stage.node()
    stage.place.crowded = True
    run = await begun(stage, {"a": RUN})
    assert (await stage.said(run)).because == "store_full"


async def test_as_many_tasks_are_live_as_may_be(stage: WhyStage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_runs, "MAX_TASKS", 2)
    await stage.node(script={"a": HOLD})
    await begun(stage, {"a": RUN, "b": RUN})
    run = await begun(stage, {"a": RUN})
    assert await stage.word(run) == ("live_limit", "other runs end")
    whole = await stage.why.run(run)
    assert (whole.because, whole.state) == ("live_limit", "queued")


async def test_its_run_is_being_cancelled(stage: WhyStage) -> None:
    node = await stage.node(script={"a": HOLD})
    node.deaf = True
    run = await begun(stage, {"a": RUN})
    await stage.hub.runs.cancel(run)
    await stage.go()
    assert (await stage.said(run)).because == "cancelling"


# -- what is over


async def test_ends(stage: WhyStage) -> None:
    await stage.node(script={"a": Failed("Boom", "no")})
    handled = RUN | {"on_failure": {"run": "h"}}
    run = await begun(stage, {"a": handled, "h": RUN, "b": RUN | {"needs": ["a"]}, "c": RUN | {"when": "false"}})
    assert await stage.word(run, "b") == ("upstream", f"`skep retry {run}` takes the run up again once it has ended")
    assert await stage.word(run, "c") == ("when", "")
    assert (await stage.said(run, "h")).because == "succeeded"
    answer = await stage.said(run)
    assert (answer.because, answer.text, answer.state) == ("failed", "Boom: no", "failed")


async def test_what_had_not_begun_when_its_run_failed(stage: WhyStage) -> None:
    await stage.node(script={"a": Failed("Boom", "no"), "c": HOLD})
    run = await begun(stage, {"a": RUN, "c": RUN, "b": RUN | {"needs": ["c"]}})
    await stage.nodes[0].finish("c")
    await stage.go()
    assert (await stage.said(run, "b")).because == "run_failed"
    whole = await stage.why.run(run)
    assert (whole.because, whole.text, whole.unblock) == ("failed", "it has failed: a: Boom: no", f"`skep retry {run}`")


async def test_a_deadline_that_passed(stage: WhyStage) -> None:
    run = await begun(stage, {"a": RUN | {"deadline": "1m"}})
    await stage.go(MINUTE)
    assert (await stage.said(run)).because == "deadline"


async def test_a_node_that_was_lost_too_often(stage: WhyStage) -> None:
    run = await begun(stage, {"a": RUN})
    for incarnation in (1, 2, 3):
        await stage.engine.register([Register(NodeInfo("n", incarnation, cpu_milli=4_000))])
        await stage.go()
        await stage.engine.retire([("n", incarnation)], lost=True)
        await stage.go()
    answer = await stage.said(run)
    assert (answer.because, answer.state) == ("node_lost", "failed")


async def test_a_rejected_and_a_cancelled_one(stage: WhyStage) -> None:
    run = await begun(stage, {"a": ASK})
    await stage.tasks.reject(run, "a", by="anna", comment="no")
    await stage.go()
    assert (await stage.said(run)).because == "rejected"
    run = await begun(stage, {"a": RUN})
    await stage.hub.runs.cancel(run, "not needed")
    await stage.go()
    answer = await stage.said(run)
    assert (answer.because, answer.text) == ("cancelled", "it was cancelled: not needed")
    assert (await stage.why.run(run)).text == "it was cancelled: not needed"


# -- how it came to its node


async def test_placed_by_a_prediction_and_how_it_went(stage: WhyStage) -> None:
    for name in ("fast", "slow"):
        await stage.node(name, slots=4, script={"a": HOLD})
    await teach(stage, "w/a", fast=10, slow=30)
    run = await begun(stage, {"a": RUN})
    answer = await stage.said(run)
    assert answer.because == "running"
    placed = answer.placement
    assert placed is not None
    assert (placed.node, placed.policy, placed.able, placed.attempt, placed.actual_ms) == ("fast", "hybrid", 2, 1, None)
    assert [(view.node, view.chosen) for view in placed.candidates] == [("fast", True), ("slow", False)]
    fast, slow = placed.candidates
    assert fast.cost is not None
    assert slow.cost is not None
    assert fast.cost < slow.cost
    assert fast.terms["completion"] < slow.terms["completion"]
    assert sum(fast.terms.values()) == pytest.approx(fast.cost, abs=0.01)
    assert placed.predicted_ms is not None
    assert 5_000 < placed.predicted_ms < 15_000
    stage.clock.advance(12_000)
    await stage.hub.work.report([msgspec.structs.replace(stage.nodes[0].end("a"), ran_ms=12_000)])
    await stage.go()
    placed = (await stage.said(run)).placement
    assert placed is not None
    assert (placed.actual_ms, placed.node) == (12_000, "fast")


@pytest.mark.parametrize(
    ("wish", "why"),
    [
        ({"prefer": ["zone=eu"]}, "preferred"),
        ({"policy": "cheapest"}, "price"),
    ],
)
async def test_placed_by_what_it_wished(stage: WhyStage, wish: dict[str, Any], why: str) -> None:
    await stage.node("far", labels={"zone": "us"}, cost_per_hour=9.0, script={"a": HOLD})
    await stage.node("near", labels={"zone": "eu"}, cost_per_hour=1.0, script={"a": HOLD})
    await teach(stage, "w/a", far=10, near=10)
    run = await begun(stage, {"a": RUN | {"placement": wish}})
    placed = (await stage.said(run)).placement
    assert placed is not None
    assert placed.node == "near"
    first = next(view for view in placed.candidates if view.chosen)
    assert first.preferred == (1 if why == "preferred" else 0)
    assert placed.policy == ("hybrid" if why == "preferred" else "cheapest")


async def test_placed_by_affinity(stage: WhyStage) -> None:
    for name in ("n1", "n2", "n3"):
        await stage.node(name, script={"a": HOLD})
    await teach(stage, "w/x", n1=1)
    wish = RUN | {"placement": {"affinity": "chat-7"}}
    runs = [await begun(stage, {"a": wish}) for _ in range(3)]
    places = [(await stage.said(run)).placement for run in runs]
    assert len({place.node for place in places if place is not None}) == 1
    last = places[-1]
    assert last is not None
    terms = {view.node: view.terms["affinity"] for view in last.candidates}
    assert all((cost > 0) == (node != last.node) for node, cost in terms.items())


async def test_with_one_node_nothing_was_chosen(stage: WhyStage) -> None:
    await stage.node(script={"a": HOLD})
    run = await begun(stage, {"a": RUN})
    placed = (await stage.said(run)).placement
    assert placed is not None
    assert (placed.node, placed.candidates) == ("n", [])
    assert "is not kept" in placed.note


# -- runs and the queue


async def test_a_run_says_what_holds_its_tasks(stage: WhyStage) -> None:
    await stage.node(script={"slow": HOLD})
    run = await begun(
        stage,
        {
            "ask": ASK,
            "slow": RUN,
            "gpu": RUN | {"requires": ["gpu"], "map": "range(3)"},
            "b": RUN | {"needs": ["ask"]},
            "c": RUN | {"needs": ["b", "slow"]},
        },
    )
    whole = await stage.why.run(run)
    assert [(cause.because, cause.count, cause.behind) for cause in whole.causes] == [
        ("approval", 1, 2),
        ("capability", 3, 1),
        ("running", 1, 1),
    ]
    assert whole.causes[1].tasks == ["gpu[0]", "gpu[1]", "gpu[2]"]
    assert (whole.because, whole.state, whole.waiting, whole.unseen) == ("approval", "running", 2, 0)
    assert whole.text == "ask: a person is asked: ship it?"


async def test_a_run_that_succeeded(stage: WhyStage) -> None:
    await stage.node()
    run = await begun(stage, {"a": RUN})
    whole = await stage.why.run(run)
    assert (whole.because, whole.text, whole.unblock, whole.causes) == ("succeeded", "it has succeeded", "", [])


async def test_the_queue(stage: WhyStage) -> None:
    assert (await stage.why.queue()).text == "nothing waits to be started"
    await stage.node(slots=1, script={"a": HOLD})
    for _ in range(3):
        await begun(stage, {"a": RUN})
    await begun(stage, {"a": RUN | {"requires": ["gpu"]}})
    found = await stage.why.queue()
    assert [(cause.because, cause.count, cause.requires) for cause in found.causes] == [
        ("capability", 1, ["gpu"]),
        ("full", 2, []),
    ]
    assert (found.ready, found.aside) == (3, 0)
    assert (await stage.why.queue("other")).causes == []


async def test_who_asks_for_what_is_not_there(stage: WhyStage) -> None:
    run = await begun(stage, {"a": RUN})
    with pytest.raises(NotFoundError, match="has no task 'b'"):
        await stage.why.task(run, "b")
    with pytest.raises(NotFoundError):
        await stage.why.run("nobody")
