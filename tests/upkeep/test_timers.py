"""Promote and reap: they sleep until something is due, and not longer than a second."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from skep.loop import Loop
from skep.model.node import NodeInfo
from skep.testing.stage import HOLD, Failed, Stage

RUN: dict[str, Any] = {"run": "true"}


async def test_promote_sleeps_until_the_next_delay_is_over(stage: Stage) -> None:
    await stage.pass_(stage.promote)
    assert stage.promote.interval_s == 1.0
    await stage.node(script={"a": Failed()})
    await stage.submit({"a": RUN | {"retries": {"limit": 1, "delay": "300ms", "jitter": 0}}})
    await stage.go()
    await stage.pass_(stage.promote)
    assert stage.promote.interval_s == 0.3
    stage.clock.advance(500)
    assert (await stage.engine.promote()).moved == 1


async def test_reap_sleeps_until_the_next_limit_is_reached(stage: Stage) -> None:
    await stage.node(script={"a": HOLD})
    await stage.submit({"a": RUN}, timeout="1500ms")
    await stage.go()
    assert stage.reap.interval_s == 1.0
    await stage.go(1_100)
    assert stage.reap.interval_s == 0.4


async def test_loops_are_woken_when_something_new_is_due(stage: Stage) -> None:
    woken: list[str] = []
    stage.engine.listen("due", lambda: woken.append("due"))
    await stage.node(script={"a": Failed()})
    await stage.submit({"a": RUN | {"retries": {"limit": 1, "delay": "5s"}}})
    await stage.go()
    assert woken


async def test_more_than_a_verb_may_release_follows_by_itself(stage: Stage) -> None:
    node = await stage.node(slots=5_000)
    view = await stage.run({"a": RUN} | {f"t{at}": RUN | {"needs": ["a"]} for at in range(1_700)})
    assert view.state == "succeeded"
    assert len(node.started) == 1_701


async def test_a_silent_node_is_lost_and_its_work_goes_elsewhere(stage: Stage) -> None:
    silent = NodeInfo("silent", slots=1)
    await stage.hub.work.register(silent, beats=True)
    run = await stage.submit({"a": RUN})
    await stage.go()
    other = await stage.node("other")
    await stage.go(9_999)
    assert other.started == []
    await stage.go(1)
    assert other.started == ["a"]
    assert await stage.end(run) == ("succeeded", None)


async def test_a_server_that_stood_still_has_lost_nobody(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has heard nobody meanwhile; who does not beat afterwards either is lost."""
    await stage.hub.work.register(NodeInfo("quiet", slots=1), beats=True)
    clock = asyncio.get_running_loop()
    stood_s = 0.0

    async def wait(_: Loop, seconds: float) -> None:
        nonlocal stood_s
        stood_s += seconds + 60
        stage.clock.advance(round(seconds + 60) * 1000)

    real = clock.time
    monkeypatch.setattr(clock, "time", lambda: real() + stood_s)
    with monkeypatch.context() as stopped:
        stopped.setattr(Loop, "_wait", wait)
        await stage.reap._wait(1.0)
    await stage.pass_(stage.reap)
    assert [node.info.id for node in await stage.engine.nodes()] == ["quiet"]
    stage.clock.advance(10_001)
    await stage.pass_(stage.reap)
    assert await stage.engine.nodes() == []


async def test_a_task_that_loses_too_many_nodes_fails(stage: Stage) -> None:
    run = await stage.submit({"a": RUN | {"retries": 5}})
    for incarnation in range(1, 4):
        await stage.hub.work.register(NodeInfo("flaky", incarnation), beats=True)
        await stage.go()
        await stage.go(10_001)
    assert await stage.states(run) == {"a": "failed node_lost"}
    assert await stage.end(run) == ("failed", "task_failed")
