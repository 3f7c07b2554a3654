"""Two servers on one engine: one leads, both serve, and when one is gone the other goes on."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from skep.clock import ManualClock
from skep.engine.memory import MemoryEngine
from skep.hub.feed import Feed
from skep.model.node import NodeInfo
from skep.model.state import RunState
from skep.record.protocol import EngineRow
from skep.record.sql import SqlRecord
from skep.testing.stage import HOLD, ScriptedNode, workflow
from skep.upkeep.watch import Watch
from skep.wiring.era import Era

RUN: dict[str, Any] = {"run": "true"}
GO = workflow({"hear": {"wait_for": "go"}})


class Pair:
    """Servers a and b. Time passes only when it is moved, but loops run as they do."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.engine = MemoryEngine(self.clock, 5)
        self.record = SqlRecord(None, inline=True)
        self.nodes: list[ScriptedNode] = []
        self.eras: dict[str, Era] = {}

    async def server(self, name: str, expected: Sequence[str] = ()) -> Era:
        era = self.eras[name] = Era(
            self.engine,
            self.record,
            self.clock,
            "e",
            Feed(),
            Watch(math.inf, lambda trouble: None),
            server=name,
            shared=True,
            home=None,
            keep_ms=0,
            expected=expected,
        )
        await era.start()
        return era

    async def node(self, era: Era, name: str, script: dict[str, Any] | None = None, beats: bool = False) -> ScriptedNode:
        node = ScriptedNode(era.hub.work, NodeInfo(name, slots=10, cpu_milli=10_000), script or {})
        await era.hub.work.register(node.info, beats=beats)
        self.nodes.append(node)
        return node

    async def until(self, holds: Callable[[], Any], ms: int = 0) -> None:
        """Lets everything happen, and so much time pass at every look, until something holds."""
        async with asyncio.timeout(20):
            while not holds():
                self.clock.advance(ms)
                for node in self.nodes:
                    await node.turn()
                await asyncio.sleep(0.002)

    async def end(self, era: Era, run: str) -> RunState:
        waiting = asyncio.create_task(era.hub.runs.wait(run))
        await self.until(waiting.done)
        return waiting.result()


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    made = Pair()
    await made.record.open()
    row = EngineRow(id="e", epoch=5, mark=0, process="p", embedded=False)
    assert await made.record.open_engine(row, after_epoch=0)
    try:
        yield made
    finally:
        for era in made.eras.values():
            await era.stop()
        await made.record.close()


async def test_whoever_is_asked_accepts_and_hears_the_end(pair: Pair) -> None:
    a, b = await pair.server("a"), await pair.server("b")
    assert (a.leads, b.leads) == (True, False)
    await pair.node(a, "n")
    await pair.node(b, "m")
    for era in (a, b):
        runs = [await era.hub.runs.submit(workflow({"t": RUN, "u": RUN | {"needs": ["t"]}})) for _ in range(10)]
        for run in runs:
            for other in (a, b):
                assert await pair.end(other, run) is RunState.SUCCEEDED
    assert all(node.started for node in pair.nodes), "both have work, wherever they are connected"


async def test_commands_and_events_to_one_reach_what_the_other_does(pair: Pair) -> None:
    a, b = await pair.server("a"), await pair.server("b")
    node = await pair.node(b, "n", {"t": HOLD})
    waits = await b.hub.runs.submit(GO)
    await pair.until(lambda: a.parts.waits._by_key)
    await b.hub.events.send("go", data=1)
    assert await pair.end(b, waits) is RunState.SUCCEEDED

    await b.hub.queue.pause()
    await pair.until(lambda: a.parts.place.paused)
    run = await b.hub.runs.submit(workflow({"t": RUN}))
    await b.hub.queue.resume()
    await pair.until(lambda: node.held)
    await a.hub.runs.pause(run)
    await b.hub.runs.resume(run)
    await b.hub.runs.cancel(run)
    await pair.until(lambda: node.stops)
    assert await pair.end(a, run) is RunState.CANCELLED


async def test_when_the_leader_is_gone_the_other_goes_on(pair: Pair) -> None:
    a, b = await pair.server("a"), await pair.server("b")
    node = await pair.node(b, "n", {"t": HOLD})
    run = await b.hub.runs.submit(workflow({"t": RUN, "u": RUN | {"needs": ["t"]}}))
    waits = await b.hub.runs.submit(GO)
    await pair.until(lambda: node.held and a.parts.waits._by_key)
    waiting = asyncio.create_task(b.hub.runs.wait(waits))
    await a.abandon()  # it says nothing any more
    assert await node.finish("t") == "ok"
    unloaded = await b.hub.runs.submit(workflow({"t": {"run": "true"}, "v": RUN}))
    await pair.until(lambda: b.leads, ms=100)
    assert await pair.end(b, run) is RunState.SUCCEEDED
    await pair.until(lambda: len(node.held) == 1)
    await node.finish("t")
    assert await pair.end(b, unloaded) is RunState.SUCCEEDED
    await b.hub.events.send("go")
    await pair.until(waiting.done)
    assert node.started.count("u") == 1


async def test_a_server_that_leaves_hands_over(pair: Pair) -> None:
    a, b = await pair.server("a"), await pair.server("b")
    await pair.node(b, "n")
    await a.hold()
    await pair.until(lambda: b.leads)
    assert not a.leads
    run = await a.hub.runs.submit(workflow({"t": RUN}))
    assert await pair.end(a, run) is RunState.SUCCEEDED, "it still accepts and answers"
    assert await pair.end(b, run) is RunState.SUCCEEDED


async def test_a_node_that_went_to_another_server_is_not_lost(pair: Pair) -> None:
    a, b = await pair.server("a"), await pair.server("b")
    await pair.node(a, "n", {"t": HOLD}, beats=True)
    run = await a.hub.runs.submit(workflow({"t": RUN}))
    await pair.until(lambda: pair.nodes[0].held)
    token = pair.nodes[0].held["t"].token
    assert await a.hub.work.beat("n", 1, [token], 1) == "ok"
    assert await b.hub.work.beat("n", 1, [token], 1) == "ok"
    assert not await a.hub.work.lose("n", 1)
    assert [view.running for view in await a.hub.nodes.list()] == [1]
    assert await b.hub.work.lose("n", 1)
    assert await a.hub.nodes.list() == []
    assert (await a.hub.runs.summary(run)).state == "running"


async def test_a_lease_that_is_lost_during_the_rejoin_does_not_leave_nodes_waiting(pair: Pair) -> None:
    before = await pair.server("before")
    node = await pair.node(before, "n", {"t": HOLD})
    run = await before.hub.runs.submit(workflow({"t": RUN, "u": RUN | {"needs": ["t"]}}))
    await pair.until(lambda: node.held)
    await pair.until(lambda: before.parts.transcribe.mark == pair.engine.heard)
    await before.stop()
    node.end("t")

    pair.engine = MemoryEngine(pair.clock, 6)
    row = EngineRow(id="e", epoch=6, mark=0, process="q", embedded=False)
    assert await pair.record.open_engine(row, after_epoch=5)
    pair.eras.clear()
    pair.nodes.clear()
    a = await pair.server("a", expected=["n", "one that never comes"])
    assert a.leads
    assert await a.hub.work.register(node.info, beats=False, coming=True) == "ok"
    presenting = asyncio.create_task(a.hub.work.present("n", 1, [], node.outcomes))
    await asyncio.sleep(0.05)
    assert not presenting.done(), "it waits for the other one"
    pair.clock.advance(10_000)
    assert await pair.engine.lead("another", 1)
    await pair.until(lambda: not a.leads)
    await pair.until(presenting.done)
    pair.clock.advance(10_000)
    await pair.until(lambda: a.leads)
    later = await pair.node(a, "m")
    assert await pair.end(a, run) is RunState.SUCCEEDED
    assert later.started == ["u"], "what the node brought was taken up"
