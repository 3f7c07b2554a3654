"""Tasks: place, take and the ends of a lease."""

from __future__ import annotations

import pytest

from skep.engine.protocol import (
    CHANGED,
    NO_FIT,
    NOT_FOUND,
    OK,
    RELEASE_LIMIT,
    SUPERSEDED,
    WRONG_STATE,
    Ask,
    Beat,
    Done,
    Expand,
    Failure,
    Park,
    Parked,
    Resolve,
    Settle,
    Snooze,
    Start,
)
from skep.model.node import Grant, Stop
from skep.model.run import Policy, Token
from skep.model.state import RunState, TaskState
from skep.testing.engine.suite import EPOCH, FAILED, READY, SILENT_MS, SKIPPED, SUCCEEDED, Suite
from skep.testing.shapes import Driver, chain, fan, shape


class TaskSuite(Suite):
    """Place, and the ways in which an attempt ends."""

    async def test_a_grant_reaches_its_node_and_takes_of_its_resources(self, drive: Driver) -> None:
        await drive.node("m", slots=2, cpu_milli=1_000, memory=100)
        await drive.submit(chain(1))
        token = await drive.start(node="m", takes=(("slots", 1), ("cpu", 600), ("memory", 60)))
        ((number, grant),) = await drive.engine.take("m", 1, 0, 9)
        assert isinstance(grant, Grant)
        assert (number, grant.run, grant.task, grant.name) == (1, "r", 0, "task-0")
        assert (grant.attempt, grant.token, grant.call) == (1, token, b"{}")
        assert await drive.free("m") == {"slots": 1, "cpu": 400, "memory": 40, "vram": 0}
        (task,) = await drive.engine.tasks("r", [0])
        assert (task.state, task.attempts, task.node) == (TaskState.RUNNING, 1, "m")
        await drive.complete()
        assert await drive.free("m") == {"slots": 2, "cpu": 1_000, "memory": 100, "vram": 0}

    async def test_who_decides_sees_scores_and_what_each_namespace_holds(self, drive: Driver) -> None:
        """All that its attempts take of slots, however they end; and a task keeps its score wherever it waits."""
        began_ms = drive.clock.now_ms()
        await drive.submit(shape(size=3, order_ms={0: 0, 1: 600_000, 2: -5}), "other", namespace="team")
        await drive.submit(shape([(0, 1)], 2, order_ms={0: 0, 1: 0}))

        async def look() -> dict[str, tuple[int, list[int]]]:
            groups = await drive.engine.ready(9)
            return {group.namespace: (group.running, [task.score - began_ms for task in group.tasks]) for group in groups}

        assert await look() == {"team": (0, [-600_000, 0, 5]), "default": (0, [0])}
        drive.clock.advance(70)
        await drive.start(1, "other", takes=(("slots", 2), ("slots", 1)))
        await drive.start(0)
        assert await look() == {"team": (3, [0, 5])}
        await drive.complete(0)
        assert await look() == {"team": (3, [0, 5]), "default": (0, [70])}
        await drive.fail(1, "other", retry_in_ms=0)
        assert await look() == {"team": (0, [-600_000 + 70, 0, 5]), "default": (0, [70])}
        await drive.start(2, "other")
        assert await drive.tell("retire", ("n", 1)) == OK
        assert await look() == {"team": (0, [-600_000 + 70, 0, 75]), "default": (0, [70])}

    async def test_what_does_not_fit_stays_ready(self, drive: Driver) -> None:
        """Nothing is given to a node that is full, drains or is not there; several wishes for one resource add up."""
        await drive.submit(shape(size=2))
        await drive.node("m", slots=1)
        assert await drive.offer(0, node="m", takes=(("slots", 2),)) == NO_FIT
        assert await drive.offer(0, node="m", takes=(("slots", 1), ("vram", 1))) == NO_FIT
        assert await drive.offer(0, node="m", takes=(("slots", 1), ("slots", 1))) == NO_FIT
        assert await drive.offer(0, node="nowhere") == NO_FIT
        await drive.start(0, node="m")
        assert await drive.offer(1, node="m") == NO_FIT
        assert await drive.queue() == [("r", 1)]
        await drive.complete(0)
        await drive.start(1, node="m")

    async def test_a_decision_holds_for_one_version(self, drive: Driver) -> None:
        await drive.submit(chain(2))
        found = await drive.find(0)
        start = Start("r", 0, found.version, False, "n", "t", b"{}")
        assert await drive.tell("place", start) == OK
        await drive.fail(retry_in_ms=0)
        assert (await drive.find(0)).version > found.version
        assert await drive.tell("place", start) == WRONG_STATE
        await drive.work(0)
        assert await drive.tell("place", Settle("x", 0, 1, SKIPPED)) == NOT_FOUND
        assert await drive.tell("place", Settle("r", 7, 1, SKIPPED)) == NOT_FOUND

    async def test_a_decision_made_before_the_run_began_to_fail_is_made_again(self, drive: Driver) -> None:
        await drive.submit(shape(size=4))
        await drive.work(0, fails=True)
        for item in (
            Start("r", 1, (await drive.find(1)).version, False, "n", "t", b"{}"),
            Expand("r", 2, (await drive.find(2)).version, False, 2),
            Park("r", 3, (await drive.find(3)).version, False, "approval"),
        ):
            assert await drive.tell("place", item) == CHANGED
        await drive.start(1)
        await drive.settle(2, SKIPPED, "upstream")
        await drive.wait(3)

    async def test_settle_ends_a_task_without_an_attempt(self, drive: Driver) -> None:
        await drive.submit(shape(size=3))
        await drive.settle(0, SUCCEEDED)
        await drive.settle(1, SKIPPED, "when")
        await drive.settle(2, FAILED, "expression")
        assert await drive.states() == "succeeded skipped failed"
        assert (await drive.last("skipped")).reason == "when"
        assert (await drive.engine.tasks("r", [2]))[0].attempts == 0

    async def test_complete_tells_what_came_out(self, drive: Driver) -> None:
        await drive.submit(chain(1))
        token = await drive.start()
        drive.clock.advance(70)
        assert await drive.tell("complete", Done("r", 0, token, b"42", 70)) == OK
        event = await drive.last("succeeded")
        assert (event.output, event.ran_ms, event.started_ms, event.attempt) == (b"42", 70, event.at_ms - 70, 1)
        assert (event.token_epoch, event.token) == token

    async def test_a_failure_is_retried_now_later_or_never(self, drive: Driver) -> None:
        await drive.submit(chain(1))
        await drive.start()
        await drive.fail(retry_in_ms=0, reason="error", error=b"why")
        event = await drive.last("retrying")
        assert (event.reason, event.error, event.due_ms) == ("error", b"why", 0)
        await drive.start()
        await drive.fail(retry_in_ms=500)
        assert await drive.states() == "delayed"
        due_ms = drive.clock.now_ms() + 500
        assert (await drive.last("retrying")).due_ms == due_ms
        assert await drive.engine.promote() == (0, False, due_ms)
        drive.clock.advance(500)
        assert (await drive.engine.promote()).moved == 1
        found = await drive.find(0)
        assert (found.attempts, found.failures) == (2, 2)
        await drive.start()
        await drive.fail()
        assert await drive.states() == "failed"

    async def test_a_snoozed_task_comes_back_and_has_not_failed(self, drive: Driver) -> None:
        await drive.submit(chain(1))
        assert await drive.tell("snooze", Snooze("r", 0, await drive.start(), 300)) == OK
        assert await drive.states() == "delayed"
        drive.clock.advance(299)
        await drive.engine.promote()
        assert await drive.states() == "delayed"
        drive.clock.advance(1)
        await drive.engine.promote()
        found = await drive.find(0)
        assert (found.attempts, found.failures) == (1, 0)

    async def test_a_parked_task_holds_nothing_and_the_first_resolve_wins(self, drive: Driver) -> None:
        await drive.submit(chain(2))
        before = await drive.free()
        assert await drive.tell("park", Parked("r", 0, await drive.start(), "approval")) == OK
        assert await drive.free() == before
        assert (await drive.last("parked")).reason == "approval"
        assert await drive.tell("resolve", Resolve("r", 0, "ann", SKIPPED)) == WRONG_STATE
        assert await drive.tell("resolve", Resolve("r", 0, "ann", SUCCEEDED, output=b"1")) == OK
        assert await drive.tell("resolve", Resolve("r", 0, "bob", FAILED)) == WRONG_STATE
        assert (await drive.last("succeeded")).output == b"1"
        assert await drive.states() == "succeeded ready"
        assert await drive.tell("resolve", Resolve("r", 1, "bob", SUCCEEDED)) == WRONG_STATE
        assert await drive.tell("resolve", Resolve("x", 1, "bob", SUCCEEDED)) == NOT_FOUND

    async def test_a_resolved_task_may_run_again_and_park_again(self, drive: Driver) -> None:
        await drive.submit(chain(1))
        await drive.wait()
        for by in ("first", "second"):
            assert await drive.tell("resolve", Resolve("r", 0, by, READY)) == OK
            assert await drive.tell("park", Parked("r", 0, await drive.start(), "event")) == OK
            assert await drive.tell("resolve", Resolve("r", 0, "first", FAILED)) == OK, "a late repeat"
        assert await drive.states() == "parked"
        assert await drive.tell("resolve", Resolve("r", 0, "third", FAILED, "denied")) == OK
        assert await drive.ended() == (RunState.FAILED, "task_failed")

    @pytest.mark.parametrize("how", ["returned", "snoozed", "parked", "retried"])
    async def test_a_late_finisher_is_superseded(self, drive: Driver, how: str) -> None:
        await drive.submit(chain(1))
        token = await drive.start()
        match how:
            case "returned":
                assert await drive.tell("beat", Beat("n", 1, (), 1)) == OK
            case "snoozed":
                assert await drive.tell("snooze", Snooze("r", 0, token, 10)) == OK
            case "parked":
                assert await drive.tell("park", Parked("r", 0, token, "event")) == OK
            case _:
                await drive.fail(retry_in_ms=0)
        assert await drive.tell("complete", Done("r", 0, token)) == SUPERSEDED
        assert await drive.tell("claim", Ask("r", 0, token, "lock")) == SUPERSEDED
        if how in ("returned", "retried"):
            await drive.start()
            for verb, item in (
                ("complete", Done("r", 0, token)),
                ("fail", Failure("r", 0, token)),
                ("snooze", Snooze("r", 0, token, 10)),
                ("park", Parked("r", 0, token, "event")),
            ):
                assert await drive.tell(verb, item) == SUPERSEDED
            await drive.complete()

    async def test_a_token_of_another_epoch_is_superseded(self, drive: Driver) -> None:
        await drive.submit(chain(1))
        token = await drive.start()
        assert await drive.tell("complete", Done("r", 0, Token(EPOCH - 1, token.n))) == SUPERSEDED
        assert await drive.tell("complete", Done("r", 0, Token(EPOCH + 1, token.n))) == SUPERSEDED

    async def test_a_late_repeat_gets_the_first_answer(self, drive: Driver) -> None:
        await drive.submit(chain(2))
        found = await drive.find(0)
        start = Start("r", 0, found.version, False, "n", "t", b"{}")
        assert await drive.tell("place", start) == OK
        done = Done("r", 0, drive.token(0))
        assert await drive.tell("complete", done) == OK
        await drive.work(1)
        assert await drive.tell("place", start) == OK
        assert await drive.tell("complete", done) == OK
        assert await drive.tell("fail", Failure("r", 0, done.token)) == SUPERSEDED

    async def test_a_task_over_its_deadline_fails(self, drive: Driver) -> None:
        """What does not run fails at once; what runs is told to stop, and keeps its outcome if it completes first."""
        await drive.submit(chain(6, deadlines_ms=dict.fromkeys(range(5), 9000)), "w")
        await drive.submit(shape(size=5, deadlines_ms=dict.fromkeys(range(5), 9000), policies={2: Policy.CONTINUE}))
        token = await drive.start(0)
        await drive.start(1)
        await drive.tell("snooze", Snooze("r", 1, drive.token(1), 60_000))
        await drive.wait(2)
        await drive.start(3)
        late = await drive.find(4)
        drive.clock.advance(9_000)
        await drive.engine.reap(SILENT_MS, 3)
        assert await drive.states() == "running failed failed running failed"
        assert await drive.states("w") == "failed failed failed failed failed ready"
        assert (await drive.last("failed")).reason == "deadline"
        assert (await drive.engine.take("n", 1, 3, 9))[0].entry == Stop(token, "deadline")
        assert await drive.tell("place", Start("r", 4, late.version, late.failing, "n", "t", b"{}")) == WRONG_STATE
        await drive.complete(0)
        await drive.fail(3, reason="deadline")
        assert await drive.states() == "succeeded failed failed failed failed"

    async def test_a_deadline_may_pass_together_with_that_of_another_task(self, drive: Driver) -> None:
        """What the end of one lets out in a reap may be over in the same reap."""
        await drive.submit(chain(3, deadlines_ms={0: 8_000, 1: 9_000}))
        drive.clock.advance(9_000)
        await drive.engine.reap(SILENT_MS, 3)
        assert await drive.states() == "failed failed ready"

    async def test_a_task_that_comes_back_after_its_deadline_fails(self, drive: Driver) -> None:
        """By the next reap."""
        await drive.submit(chain(1, deadlines_ms={0: 9_000}))
        await drive.start()
        drive.clock.advance(9_000)
        await drive.engine.reap(SILENT_MS, 3)
        await drive.fail(retry_in_ms=0)
        await drive.engine.reap(SILENT_MS, 3)
        assert await drive.states() == "failed"

    async def test_at_most_so_many_tasks_are_released_in_one_call(self, drive: Driver) -> None:
        count = 2 * RELEASE_LIMIT + 100
        await drive.submit(fan(count))
        await drive.work(0)
        assert len(await drive.queue()) == RELEASE_LIMIT
        promoted = await drive.engine.promote()
        assert (promoted.moved, promoted.more) == (RELEASE_LIMIT, True)
        assert await self.promote_all(drive) == 1
        assert len(await drive.queue()) == count
        assert not await drive.read() or all(len(event.tasks) <= RELEASE_LIMIT for event in drive.history.events)

    async def test_the_bound_counts_over_the_whole_batch(self, drive: Driver) -> None:
        for run in "ab":
            assert await drive.tell("load", drive.chunk(shape(size=RELEASE_LIMIT - 100), run)) == OK
        assert await drive.engine.open(["a", "b"]) == [OK, OK]
        assert len(await drive.queue()) == RELEASE_LIMIT
        await self.promote_all(drive)
        assert len(await drive.queue()) == 2 * (RELEASE_LIMIT - 100)
