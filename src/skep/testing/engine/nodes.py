"""Nodes: register to retire, beats, inboxes."""

from __future__ import annotations

import pytest

from skep.engine.protocol import (
    NO_FIT,
    NOT_FOUND,
    OK,
    REFUSED,
    SUPERSEDED,
    WAITING,
    Ask,
    Beat,
    Done,
    Register,
)
from skep.errors import NotFoundError
from skep.model.node import NodeInfo
from skep.model.state import RunState
from skep.testing.engine.suite import CLAIMS_KEPT_MS, LOCK, SILENT_MS, Suite
from skep.testing.shapes import Driver, chain, shape


class NodeSuite(Suite):
    """Register to retire, beats, the inbox, silent nodes."""

    async def test_the_inbox_is_numbered_and_forgets_what_was_seen(self, drive: Driver) -> None:
        await drive.submit(shape(size=3))
        for task in range(3):
            await drive.start(task)
        engine = drive.engine
        assert [entry.number for entry in await engine.take("n", 1, 0, 2)] == [1, 2]
        assert [entry.number for entry in await engine.take("n", 1, 0, 9)] == [1, 2, 3], "a lost reply costs nothing"
        assert [entry.number for entry in await engine.take("n", 1, 2, 9)] == [3]
        assert [entry.number for entry in await engine.take("n", 1, 0, 9)] == [3]
        for name, incarnation in (("x", 1), ("n", 2)):
            with pytest.raises(NotFoundError):
                await engine.take(name, incarnation, 0, 9)

    async def test_nodes_show_what_is_free(self, drive: Driver) -> None:
        await drive.node("m", slots=2, vram=7, labels={"zone": "a"})
        await drive.submit(chain(1))
        await drive.start(node="m", takes=(("vram", 4),))
        node = next(node for node in await drive.engine.nodes() if node.info.id == "m")
        assert (node.info.labels, node.free["vram"], node.leases, node.draining) == ({"zone": "a"}, 3, 1, False)
        assert (await drive.last("registered")).node == "m"

    async def test_a_node_that_still_presents_is_given_nothing_until_it_takes(self, drive: Driver) -> None:
        await drive.tell("register", Register(NodeInfo("m"), coming=True))
        await drive.submit(chain(1))
        assert [node.coming for node in await drive.engine.nodes()] == [False, True]
        assert await drive.offer(0, node="m") == NO_FIT
        assert await drive.engine.take("m", 1, 0, 9) == []
        assert [node.coming for node in await drive.engine.nodes()] == [False, False]
        assert await drive.offer(0, node="m") == OK

    async def test_a_survey_is_both(self, drive: Driver) -> None:
        await drive.submit(shape(size=3))
        assert await drive.engine.survey(2) == (await drive.engine.nodes(), await drive.engine.ready(2))

    async def test_nodes_show_when_they_last_gave_a_sign(self, drive: Driver) -> None:
        began = {node.info.id: node.beat_ms for node in await drive.engine.nodes()}
        drive.clock.advance(700)
        await drive.tell("beat", Beat("n", 1, server="s"))
        assert [(node.beat_ms, node.server) for node in await drive.engine.nodes()] == [(began["n"] + 700, "s")]

    async def test_a_newer_incarnation_replaces_the_old_one(self, drive: Driver) -> None:
        await drive.submit(chain(1))
        token = await drive.start()
        assert await drive.node(incarnation=2) == OK
        assert await drive.states() == "ready"
        assert (await drive.last("returned")).token == token.n
        assert await drive.node(incarnation=1) == REFUSED
        assert await drive.tell("beat", Beat("n", 1)) == NOT_FOUND
        assert await drive.engine.take("n", 2, 0, 9) == []
        assert await drive.free() == {"slots": 1_000, "cpu": 1_000, "memory": 0, "vram": 0}
        assert await drive.tell("complete", Done("r", 0, token)) == SUPERSEDED

    async def test_a_retired_node_gives_its_leases_back(self, drive: Driver) -> None:
        """Retiring it again is a repeat; it counts as no loss of the task."""
        await drive.submit(chain(1))
        assert await drive.tell("retire", ("n", 2)) == NOT_FOUND
        for incarnation in range(1, 5):
            await drive.start()
            assert await drive.tell("retire", ("n", incarnation)) == OK
            assert await drive.states() == "ready"
            assert await drive.engine.nodes() == []
            await drive.node(incarnation=incarnation + 1)
        assert (await drive.find(0)).failures == 0

    async def test_a_draining_node_is_given_nothing_new(self, drive: Driver) -> None:
        await drive.submit(shape(size=2))
        await drive.start(0)
        assert await drive.tell("drain", "n") == OK
        assert (await drive.last("draining")).node == "n"
        assert [node.draining for node in await drive.engine.nodes()] == [True]
        assert await drive.offer(1) == NO_FIT
        await drive.complete(0)
        assert await drive.engine.drain(["n"], on=False) == [OK]
        await drive.start(1)

    async def test_a_lease_that_a_node_should_list_and_does_not_returns(self, drive: Driver) -> None:
        await drive.submit(shape(size=3))
        first, *_ = [await drive.start(task) for task in range(3)]
        assert await drive.tell("beat", Beat("n", 1, (first,), 2)) == OK
        assert await drive.states() == "running ready running", "the third grant is still under way"
        assert (await drive.find(1)).failures == 0

    async def test_a_silent_node_is_lost(self, drive: Driver) -> None:
        await drive.node("quiet", beats=False)
        await drive.submit(shape(size=2))
        await drive.start(0)
        await drive.start(1, node="quiet")
        drive.clock.advance(SILENT_MS)
        await drive.engine.reap(SILENT_MS, 3)
        assert await drive.states() == "running running"
        drive.clock.advance(1)
        await drive.engine.reap(SILENT_MS, 3)
        assert await drive.states() == "ready running", "who never beats is never silent"
        assert (await drive.last("lost")).node == "n"
        assert [node.info.id for node in await drive.engine.nodes()] == ["quiet"]
        assert await drive.tell("beat", Beat("n", 1)) == NOT_FOUND
        assert await drive.node() == OK, "it was only cut off"

    async def test_a_beat_keeps_a_node(self, drive: Driver) -> None:
        for _ in range(3):
            drive.clock.advance(SILENT_MS)
            assert await drive.tell("beat", Beat("n", 1)) == OK
            await drive.engine.reap(SILENT_MS, 3)
        assert len(await drive.engine.nodes()) == 1

    async def test_a_task_that_loses_too_many_nodes_fails(self, drive: Driver) -> None:
        await drive.submit(chain(1))
        for lost in range(1, 4):
            await drive.start()
            drive.clock.advance(SILENT_MS + 1)
            await drive.engine.reap(SILENT_MS, 3)
            assert await drive.states() == ("failed" if lost == 3 else "ready")
            await drive.node()
        assert (await drive.last("failed")).reason == "node_lost"
        assert await drive.ended() == (RunState.FAILED, "task_failed")

    async def test_a_lost_node_keeps_its_claims_until_it_must_have_stopped(self, drive: Driver) -> None:
        await drive.node("calm", beats=False)
        await drive.submit(shape(size=2))
        await drive.start(0, claims=LOCK)
        drive.clock.advance(SILENT_MS + 1)
        await drive.engine.reap(SILENT_MS, 3)
        assert await drive.states() == "ready ready"
        assert await drive.offer(1, node="calm", claims=LOCK) == WAITING
        drive.clock.advance(CLAIMS_KEPT_MS - SILENT_MS - 1)
        await drive.engine.reap(SILENT_MS, 3)
        await drive.start(1, node="calm", claims=LOCK)

    async def test_a_lost_lease_that_waits_for_a_lock_never_gets_it(self, drive: Driver) -> None:
        await drive.node("calm", beats=False)
        await drive.submit(shape(size=3))
        holder = await drive.start(0, node="calm")
        lost = await drive.start(1)
        for task, token in ((0, holder), (1, lost)):
            await drive.tell("claim", Ask("r", task, token, "lock"))
        drive.clock.advance(CLAIMS_KEPT_MS + 1)
        await drive.engine.reap(SILENT_MS, 3)
        await drive.complete(0)
        await drive.start(2, node="calm", claims=LOCK)

    async def test_register_many_at_once(self, drive: Driver) -> None:
        items = [Register(NodeInfo(name, incarnation)) for name, incarnation in (("a", 2), ("a", 1), ("b", 1))]
        assert await drive.engine.register(items) == [OK, REFUSED, OK]
