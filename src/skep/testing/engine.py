"""What every engine must do, as public API: subclass `EngineConformance` in a test module and say how to make one.

    class TestMine(EngineConformance):
        async def make(self, epoch: int) -> Engine:
            return MyEngine(self.clock, epoch)

Every single item is said twice by the driver (a repeat gets the first answer and adds no event), and every event is folded by
`History`, so each test also proves that numbers have no gaps and that no move is outside `skep.model.state.MOVES`. A docstring
here decides what the protocol's text leaves open. Needs pytest and pytest-asyncio.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import cached_property

import pytest
import pytest_asyncio

from skep.clock import ManualClock
from skep.engine.protocol import (
    CANCELLING,
    CHANGED,
    EXPIRED,
    FORGET_MS,
    FULL,
    LOAD_VALID_MS,
    NO_FIT,
    NOT_FOUND,
    OK,
    PAUSED,
    REFUSED,
    RELEASE_LIMIT,
    SUPERSEDED,
    WAITING,
    WRONG_STATE,
    Ask,
    Beat,
    Done,
    Engine,
    Expand,
    Failure,
    Park,
    Parked,
    Register,
    Resolve,
    RunCommand,
    Settle,
    Snooze,
    Start,
)
from skep.errors import NotFoundError
from skep.model.node import Grant, LockGrant, NodeInfo, Stop
from skep.model.run import EXCLUSIVE, MAX_TASKS, Claim, Policy, Token
from skep.model.state import RunState, TaskState
from skep.testing.shapes import PRIORITY_MS, Driver, MovableClock, chain, fan, shape

EPOCH = 1_750_000_000
READY, SUCCEEDED, FAILED, SKIPPED = TaskState.READY, TaskState.SUCCEEDED, TaskState.FAILED, TaskState.SKIPPED
BOGUS = Token(EPOCH, 999_999_999)
LOCK = (Claim("lock", EXCLUSIVE, EXCLUSIVE),)
SHARED = (Claim("lock", 1, EXCLUSIVE),)
SILENT_MS = 10_000
CLAIMS_KEPT_MS = 15_000
"""How long after a lost node's last beat its fleet-wide claims stay taken."""


class Suite:
    """How an engine is made and driven."""

    async def make(self, epoch: int) -> Engine:
        """A fresh engine of that epoch, whose time is `self.clock`."""
        raise NotImplementedError

    @cached_property
    def clock(self) -> MovableClock:
        return ManualClock()

    @pytest_asyncio.fixture
    async def drive(self) -> AsyncIterator[Driver]:
        driver = Driver(await self.make(EPOCH), self.clock)
        assert await driver.node() == OK
        yield driver
        await driver.read()

    async def promote_all(self, drive: Driver) -> int:
        """Promotes until nothing more is due; answers how many calls it took."""
        calls = 1
        while (await drive.engine.promote()).more:
            calls += 1
        return calls


class RunSuite(Suite):
    """Load, open, the order of ready tasks, unmet counts, and how runs end."""

    async def test_nothing_is_ready_before_the_last_chunk_is_loaded_and_the_run_opened(self, drive: Driver) -> None:
        graph = shape(size=3)
        assert await drive.tell("load", drive.chunk(graph, first=0, count=2)) == OK
        assert await drive.tell("open", "r") == WRONG_STATE
        assert await drive.tell("load", drive.chunk(graph, first=2, count=1)) == OK
        assert await drive.queue() == []
        assert await drive.tell("open", "r") == OK
        assert await drive.states() == "ready ready ready"
        assert (await drive.last("loaded")).count == 3

    async def test_load_answers(self, drive: Driver) -> None:
        """A run's whole size counts against the bound from its first chunk on, so that two halves cannot block each other."""
        old = drive.clock.now_ms() - LOAD_VALID_MS
        assert await drive.tell("load", drive.chunk(chain(1), "old", read_ms=old - 1)) == EXPIRED
        assert await drive.tell("load", drive.chunk(chain(1), "just", read_ms=old)) == OK
        assert await drive.tell("load", drive.chunk(shape(size=MAX_TASKS + 1), "huge", count=1)) == FULL
        assert await drive.tell("load", drive.chunk(shape(size=MAX_TASKS - 1), "large", count=1)) == OK
        assert await drive.tell("load", drive.chunk(chain(1), "more")) == FULL
        assert await drive.tell("open", "more") == NOT_FOUND

    async def test_a_late_repeat_of_a_chunk_is_ok_though_it_expired(self, drive: Driver) -> None:
        load = drive.chunk(chain(1))
        assert await drive.tell("load", load) == OK
        drive.clock.advance(LOAD_VALID_MS + 1)
        assert await drive.tell("load", load) == OK

    async def test_one_bad_item_never_fails_the_others(self, drive: Driver) -> None:
        await drive.submit(shape(size=2))
        token = await drive.start(0)
        engine = drive.engine
        assert await engine.open(["x", "r"]) == [NOT_FOUND, OK]
        assert await engine.complete([Done("x", 0, token), Done("r", 1, token), Done("r", 0, token)]) == [
            NOT_FOUND,
            SUPERSEDED,
            OK,
        ]
        found = await drive.find(1)
        one, two = (Start("r", 1, version, False, "n", "t", b"{}") for version in (found.version + 9, found.version))
        assert await engine.place([one, two, two]) == [WRONG_STATE, OK, OK]
        assert await engine.pause([RunCommand("x", 1), RunCommand("r", 1)]) == [NOT_FOUND, OK]
        assert await engine.beat([Beat("x", 1), Beat("n", 1, (drive.history.token,), 9)]) == [NOT_FOUND, OK]
        assert await engine.drain(["x", "n"]) == [NOT_FOUND, OK]

    async def test_the_best_score_comes_first(self, drive: Driver) -> None:
        """Score = ready_ms - order_ms, lowest first; ties by run id, then index."""
        await drive.submit(shape(size=3, order_ms={1: 8 * PRIORITY_MS}), "b")
        await drive.submit(shape(size=1), "a")
        drive.clock.advance(1)
        await drive.submit(shape(size=1), "0")
        assert await drive.queue() == [("b", 1), ("a", 0), ("b", 0), ("b", 2), ("0", 0)]
        assert await drive.queue(limit=2) == [("b", 1), ("a", 0)]
        drive.clock.advance(3 * PRIORITY_MS)
        await drive.submit(shape(size=1, order_ms={0: 8 * PRIORITY_MS}), "late")
        assert (await drive.queue())[-1] == ("late", 0), "who waits long enough overtakes the more urgent"

    async def test_classes_and_namespaces_have_queues_of_their_own(self, drive: Driver) -> None:
        await drive.submit(shape(size=2, classes={1: 1}, class_names=("cpu", "gpu")), "a")
        await drive.submit(shape(size=1), "b", namespace="other")
        groups = await drive.engine.ready(10)
        assert sorted((group.namespace, group.name, len(group.tasks)) for group in groups) == [
            ("default", "cpu", 1),
            ("default", "gpu", 1),
            ("other", "cpu", 1),
        ]

    async def test_a_task_is_ready_when_all_it_needs_has_ended(self, drive: Driver) -> None:
        await drive.submit(shape([(0, 2), (1, 2)], 3))
        await drive.work(0)
        assert await drive.states() == "succeeded ready waiting"
        await drive.work(1, 2)
        assert await drive.states() == "succeeded succeeded succeeded"
        assert await drive.ended() == (RunState.SUCCEEDED, "")

    @pytest.mark.parametrize(
        ("policy", "state", "reason", "unmet"),
        [
            (Policy.FAIL, SUCCEEDED, "", 0),
            (Policy.FAIL, SKIPPED, "when", 0),
            (Policy.FAIL, SKIPPED, "upstream", 1),
            (Policy.FAIL, FAILED, "", 1),
            (Policy.HANDLE, FAILED, "", 1),
            (Policy.CONTINUE, FAILED, "", 0),
        ],
    )
    async def test_unmet_counts_what_did_not_end_well(
        self, drive: Driver, policy: Policy, state: TaskState, reason: str, unmet: int
    ) -> None:
        """Met: succeeded, skipped by its own `when`, or failed with policy CONTINUE. All else is not."""
        await drive.submit(chain(2, policies={0: policy}))
        await drive.settle(0, state, reason)
        found = await drive.find(1)
        assert found.unmet == unmet
        assert found.failing == (state == FAILED and policy == Policy.FAIL)
        (task,) = await drive.engine.tasks("r", [0])
        assert task.met == (unmet == 0)

    async def test_a_cancelled_attempt_is_not_met(self, drive: Driver) -> None:
        await drive.submit(chain(2))
        await drive.start()
        await drive.fail(cancelled=True)
        assert await drive.states() == "cancelled ready"
        assert (await drive.find(1)).unmet == 1

    @pytest.mark.parametrize("policy", [Policy.FAIL, Policy.CONTINUE, Policy.HANDLE])
    async def test_a_run_fails_if_a_task_that_must_not_fail_did(self, drive: Driver, policy: Policy) -> None:
        await drive.submit(shape(size=2, policies={0: policy}))
        await drive.work(0, fails=True)
        await drive.settle(1)
        assert await drive.ended() == ((RunState.FAILED, "task_failed") if policy == Policy.FAIL else (RunState.SUCCEEDED, ""))

    async def test_policy_cancel_cancels_the_rest_and_the_run_fails(self, drive: Driver) -> None:
        await drive.submit(shape(size=3, policies={0: Policy.CANCEL}))
        await drive.start(1)
        await drive.work(0, fails=True)
        await self.promote_all(drive)
        assert await drive.states() == "failed running cancelled"
        assert (await drive.last("cancelling")).reason == "task_failed"
        await drive.complete(1)
        assert await drive.ended() == (RunState.FAILED, "task_failed")

    async def test_what_is_due_when_its_run_is_swept_is_cancelled(self, drive: Driver) -> None:
        """Its events come in the order of its moves, though promote makes it ready and sweeps it in one step."""
        await drive.submit(shape(size=2, policies={0: Policy.CANCEL}))
        assert await drive.tell("snooze", Snooze("r", 1, await drive.start(1), 10)) == OK
        await drive.work(0, fails=True)
        drive.clock.advance(10)
        await self.promote_all(drive)
        assert await drive.states() == "failed cancelled"

    async def test_a_run_over_its_time_is_cancelled_and_failed(self, drive: Driver) -> None:
        await drive.submit(shape(size=2), timeout_ms=5_000)
        await drive.start(0)
        drive.clock.advance(4_999)
        await drive.engine.reap(SILENT_MS, 3)
        assert await drive.states() == "running ready"
        drive.clock.advance(1)
        await drive.engine.reap(SILENT_MS, 3)
        await self.promote_all(drive)
        assert await drive.states() == "running cancelled"
        await drive.fail(0, cancelled=True)
        assert await drive.ended() == (RunState.FAILED, "timeout")

    async def test_an_ended_run_is_forgotten_some_time_after_it_is_recorded(self, drive: Driver) -> None:
        await drive.submit(chain(1))
        await drive.work(0)
        await drive.read()
        drive.clock.advance(FORGET_MS)
        await drive.engine.promote()
        await drive.engine.trim((await drive.last("ended")).n - 1)
        assert await drive.states() == "succeeded", "the mark has not reached its end"
        await drive.engine.trim((await drive.last("ended")).n)
        with pytest.raises(NotFoundError):
            await drive.engine.tasks("r", [0])

    async def test_a_run_that_was_retried_is_kept_until_its_last_end_is_recorded(self, drive: Driver) -> None:
        await drive.submit(chain(1))
        await drive.work(0, fails=True)
        await drive.command("retry")
        drive.clock.advance(FORGET_MS)
        before = len(drive.history.events)
        await drive.work(0)
        await drive.engine.trim(before)
        assert await drive.states() == "succeeded"


class CommandSuite(Suite):
    """Cancel, pause, resume, retry."""

    async def test_only_a_higher_number_is_applied(self, drive: Driver) -> None:
        await drive.submit(chain(1), command=5)
        assert await drive.command("pause", 5) == OK
        assert not drive.history.runs["r"].paused, "the load already reflects command 5"
        assert await drive.command("pause", 7) == OK
        assert await drive.command("resume", 6) == OK
        assert drive.history.runs["r"].paused, "6 came after 7"
        assert await drive.command("resume", 8) == OK
        assert not drive.history.runs["r"].paused

    @pytest.mark.parametrize("verb", ["cancel", "pause", "resume", "retry"])
    async def test_a_command_needs_a_run_in_the_right_state(self, drive: Driver, verb: str) -> None:
        assert await drive.command(verb) == NOT_FOUND
        await drive.submit(chain(1))
        if verb != "retry":
            await drive.settle()
        assert await drive.command(verb) == WRONG_STATE

    async def test_cancel_sweeps_what_waits_and_stops_what_runs(self, drive: Driver) -> None:
        await drive.submit(chain(2), "other")
        await drive.submit(shape([(0, 5)], 6))
        for task in (0, 1, 3):
            await drive.start(task)
        await drive.tell("snooze", Snooze("r", 1, drive.token(1), 1_000))
        await drive.wait(2)
        assert await drive.command("cancel", reason="enough") == OK
        assert await drive.states() == "running cancelled cancelled running cancelled cancelled"
        stops = [entry for _, entry in await drive.engine.take("n", 1, 3, 9)]
        assert stops == [Stop(drive.token(0), "cancel"), Stop(drive.token(3), "cancel")]
        await drive.complete(0)
        assert await drive.ended() is None
        await drive.fail(3, cancelled=True)
        assert await drive.states() == "succeeded cancelled cancelled cancelled cancelled cancelled"
        assert await drive.ended() == (RunState.CANCELLED, "enough")
        assert await drive.states("other") == "ready waiting"

    @pytest.mark.parametrize("verb", ["fail", "snooze", "park", "retire"])
    async def test_nothing_of_a_cancelled_run_comes_back(self, drive: Driver, verb: str) -> None:
        """An attempt that failed has failed, though it asked for a retry; one that was given back is cancelled."""
        await drive.submit(chain(1))
        token = await drive.start()
        await drive.command("cancel")
        items: dict[str, object] = {
            "fail": Failure("r", 0, token, retry_in_ms=0),
            "snooze": Snooze("r", 0, token, 5),
            "park": Parked("r", 0, token, "approval"),
            "retire": ("n", 1),
        }
        assert await drive.tell(verb, items[verb]) == OK
        assert await drive.states() == ("failed" if verb == "fail" else "cancelled")
        assert (await drive.ended() or ("",))[0] == RunState.CANCELLED

    async def test_a_large_sweep_goes_in_chunks_and_nothing_starts_meanwhile(self, drive: Driver) -> None:
        await drive.submit(shape(size=RELEASE_LIMIT + 100))
        await self.promote_all(drive)
        last = await drive.find(RELEASE_LIMIT + 99)
        assert await drive.command("cancel") == OK
        assert (await drive.states()).count("cancelled") == RELEASE_LIMIT
        assert await drive.tell("place", Start("r", last.task, last.version, False, "n", "t", b"{}")) == CANCELLING
        await self.promote_all(drive)
        assert await drive.ended() == (RunState.CANCELLED, "cancelled")

    async def test_pause_puts_ready_tasks_aside_until_resume(self, drive: Driver) -> None:
        await drive.submit(shape([(0, 2)], 3))
        await drive.start(0)
        assert await drive.command("pause", 1) == OK
        assert await drive.offer(1) == PAUSED
        assert await drive.queue() == []
        await drive.complete(0)
        assert await drive.offer(2) == PAUSED, "what runs ends, what follows waits"
        assert await drive.command("resume", 2) == OK
        assert await drive.queue() == [("r", 1), ("r", 2)]
        await drive.work(1, 2)
        assert await drive.ended() == (RunState.SUCCEEDED, "")

    async def test_a_run_may_be_loaded_paused(self, drive: Driver) -> None:
        await drive.submit(chain(1), paused=True)
        assert await drive.offer(0) == PAUSED
        await drive.command("resume")
        await drive.work(0)

    async def test_retry_does_again_what_did_not_succeed(self, drive: Driver) -> None:
        """Attempts go on counting, failures start anew; the run is not failing any more."""
        await drive.submit(chain(4))
        await drive.work(0)
        await drive.work(1, fails=True)
        await drive.settle(2, SKIPPED, "upstream")
        await drive.settle(3, SKIPPED, "upstream")
        assert await drive.ended() == (RunState.FAILED, "task_failed")
        assert await drive.command("retry") == OK
        assert (await drive.last("reset")).tasks == (1, 2, 3)
        assert await drive.states() == "succeeded ready waiting waiting"
        found = await drive.find(1)
        assert (found.attempts, found.failures, found.unmet, found.failing) == (1, 0, 0, False)
        await drive.work(1, 2, 3)
        assert await drive.ended() == (RunState.SUCCEEDED, "")

    async def test_retry_from_a_task_on_takes_all_that_follows(self, drive: Driver) -> None:
        await drive.submit(shape([(0, 1), (1, 2), (0, 3)], 4))
        await drive.work(0, 1, 2, 3)
        assert await drive.command("retry", tasks=(1,)) == OK
        assert await drive.states() == "succeeded ready waiting succeeded"

    async def test_a_cancelled_run_may_be_retried(self, drive: Driver) -> None:
        await drive.submit(chain(2))
        await drive.command("cancel", 1)
        assert await drive.command("retry", 2) == OK
        await drive.work(0, 1)
        assert await drive.ended() == (RunState.SUCCEEDED, "")

    async def test_a_lease_from_before_the_retry_is_superseded(self, drive: Driver) -> None:
        await drive.submit(chain(1))
        token = await drive.start()
        await drive.fail()
        await drive.command("retry")
        await drive.start()
        assert await drive.tell("complete", Done("r", 0, token)) == SUPERSEDED


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
        assert await drive.tell("resolve", Resolve("r", 0, "ann", TaskState.CANCELLED)) == WRONG_STATE
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


class MapSuite(Suite):
    """Expansion and join."""

    @pytest.mark.parametrize("count", [0, 1, 5])
    async def test_a_parent_ends_with_its_last_child(self, drive: Driver, count: int) -> None:
        await drive.submit(chain(3))
        await drive.work(0)
        children = await drive.expand(1, count)
        assert len(children) == count
        if count:
            parked = await drive.last("parked")
            assert (parked.reason, parked.count, parked.first) == ("map", count, children.start)
        for child in children:
            assert await drive.states() == " ".join(
                ["succeeded parked waiting"] + ["succeeded" if other < child else "ready" for other in children]
            )
            await drive.work(child)
        assert (await drive.states()).split()[:3] == ["succeeded", "succeeded", "ready"]
        assert (await drive.find(2)).unmet == 0
        await drive.work(2)
        assert await drive.ended() == (RunState.SUCCEEDED, "")

    async def test_no_more_than_max_parallel_children_are_out_at_once(self, drive: Driver) -> None:
        await drive.submit(chain(1, windows={0: 2}))
        first, second, third, fourth = await drive.expand(0, 4)
        assert await drive.states() == "parked ready ready waiting waiting"
        await drive.start(first)
        await drive.fail(first, retry_in_ms=50)
        assert await drive.states() == "parked delayed ready waiting waiting"
        await drive.work(second)
        assert await drive.states() == "parked delayed succeeded ready waiting"
        await drive.work(third, fourth)
        drive.clock.advance(50)
        await drive.engine.promote()
        await drive.work(first)
        assert await drive.ended() == (RunState.SUCCEEDED, "")

    @pytest.mark.parametrize(
        ("policy", "parent", "end"),
        [
            (Policy.FAIL, "failed", (RunState.FAILED, "task_failed")),
            (Policy.CONTINUE, "succeeded", (RunState.SUCCEEDED, "")),
            (Policy.HANDLE, "failed", (RunState.SUCCEEDED, "")),
        ],
    )
    async def test_a_failed_child_counts_by_the_policy_of_its_parent(
        self, drive: Driver, policy: Policy, parent: str, end: tuple[int, str]
    ) -> None:
        await drive.submit(chain(1, policies={0: policy}))
        first, second = await drive.expand(0, 2)
        await drive.work(first, fails=True)
        assert (await drive.find(second)).failing == (policy == Policy.FAIL)
        await drive.work(second)
        assert await drive.states() == f"{parent} failed succeeded"
        assert await drive.ended() == end

    async def test_a_failed_child_of_policy_cancel_cancels_its_siblings(self, drive: Driver) -> None:
        await drive.submit(chain(2, policies={0: Policy.CANCEL}))
        first, *_ = await drive.expand(0, 3)
        await drive.work(first, fails=True)
        await self.promote_all(drive)
        assert await drive.states() == "failed cancelled failed cancelled cancelled"
        assert await drive.ended() == (RunState.FAILED, "task_failed")

    async def test_a_parent_of_cancelled_children_is_cancelled(self, drive: Driver) -> None:
        await drive.submit(chain(2))
        first, _ = await drive.expand(0, 2)
        await drive.start(first)
        await drive.command("cancel")
        assert await drive.states() == "parked cancelled running cancelled"
        await drive.complete(first)
        assert await drive.states() == "cancelled cancelled succeeded cancelled"
        assert await drive.ended() == (RunState.CANCELLED, "cancelled")

    async def test_children_that_a_failing_run_skipped_leave_their_parent_skipped(self, drive: Driver) -> None:
        """Unless one of them failed or was cancelled."""
        await drive.submit(shape(size=2))
        first, second = await drive.expand(0, 2)
        await drive.work(first)
        await drive.work(1, fails=True)
        await drive.settle(second, SKIPPED, "upstream")
        assert await drive.states() == "skipped failed succeeded skipped"

    async def test_only_its_children_end_a_map(self, drive: Driver) -> None:
        await drive.submit(chain(1))
        (child,) = await drive.expand(0, 1)
        assert await drive.tell("resolve", Resolve("r", 0, "ann", SUCCEEDED)) == WRONG_STATE
        found = await drive.find(child)
        assert await drive.tell("place", Expand("r", child, found.version, False, 1)) == WRONG_STATE, "no map in a map"

    async def test_a_large_map_is_let_out_in_chunks(self, drive: Driver) -> None:
        await drive.submit(chain(1))
        await drive.expand(0, RELEASE_LIMIT + 1)
        assert len(await drive.queue()) == RELEASE_LIMIT
        await self.promote_all(drive)
        assert len(await drive.queue()) == RELEASE_LIMIT + 1

    async def test_a_map_beyond_the_bound_is_refused(self, drive: Driver) -> None:
        """The task stays ready, so that whoever decides can settle it as failed, with the number."""
        await drive.submit(chain(1))
        found = await drive.find(0)
        assert await drive.tell("place", Expand("r", 0, found.version, False, MAX_TASKS)) == FULL
        await drive.settle(0, FAILED, "too_many")

    async def test_a_retried_map_keeps_what_succeeded(self, drive: Driver) -> None:
        """Expanding it again names the same children, and never lets out more than its window."""
        await drive.submit(chain(1, windows={0: 1}))
        children = await drive.expand(0, 3)
        for child, fails in zip(children, (True, True, False), strict=True):
            await drive.work(child, fails=fails)
        await drive.command("retry")
        assert await drive.states() == "ready waiting waiting succeeded"
        assert await drive.expand(0, 3) == children
        assert await drive.states() == "parked ready waiting succeeded"
        await drive.work(*children[:2])
        assert await drive.ended() == (RunState.SUCCEEDED, "")

    async def test_a_retried_map_may_end_without_its_children(self, drive: Driver) -> None:
        """What was to be done again is skipped with it; a run never waits for children that nobody lets out."""
        await drive.submit(shape(size=2, policies={0: Policy.HANDLE}))
        (child,) = await drive.expand(0, 1)
        await drive.work(child, fails=True)
        await drive.work(1, fails=True)
        await drive.command("retry")
        await drive.work(1, fails=True)
        await drive.settle(0, SKIPPED, "upstream")
        assert (await drive.ended() or ("",))[0] == RunState.FAILED


class ClaimSuite(Suite):
    """What the fleet shares: claims of a grant, locks inside a task."""

    async def test_a_claim_that_does_not_fit_waits_until_units_are_free(self, drive: Driver) -> None:
        two = (Claim("key", 1, 2),)
        await drive.submit(shape(size=4))
        for task in (0, 1):
            await drive.start(task, claims=two)
        assert await drive.offer(2, claims=two) == WAITING
        assert await drive.queue() == [("r", 3)], "it is ready, but not offered again"
        assert await drive.states() == "running running ready ready"
        await drive.complete(0)
        assert await drive.queue() == [("r", 2), ("r", 3)]
        await drive.start(2, claims=two)

    async def test_all_claims_or_none(self, drive: Driver) -> None:
        first, second = Claim("a", 1, 2), Claim("b", 1, 1)
        await drive.submit(shape(size=4))
        await drive.start(0, claims=(second,))
        assert await drive.offer(1, claims=(first, second)) == WAITING
        await drive.start(2, claims=(first,))
        await drive.start(3, claims=(first,))

    async def test_a_node_that_is_full_takes_no_claim(self, drive: Driver) -> None:
        await drive.submit(shape(size=2))
        assert await drive.offer(0, takes=(("vram", 1),), claims=LOCK) == NO_FIT
        await drive.start(1, claims=LOCK)

    async def test_who_waits_first_is_served_first(self, drive: Driver) -> None:
        await drive.submit(shape(size=4))
        await drive.start(0, claims=LOCK)
        for task in (2, 1, 3):
            assert await drive.offer(task, claims=LOCK) == WAITING
        for task, following in ((0, 2), (2, 1), (1, 3)):
            await drive.complete(task)
            assert await drive.queue() == [("r", following)]
            await drive.start(following, claims=LOCK)

    async def test_an_exclusive_waiter_holds_back_later_shared_ones(self, drive: Driver) -> None:
        await drive.submit(shape(size=5))
        for task in (0, 1):
            await drive.start(task, claims=SHARED)
        assert await drive.offer(2, claims=LOCK) == WAITING
        for task in (3, 4):
            assert await drive.offer(task, claims=SHARED) == WAITING
        await drive.complete(0)
        assert await drive.queue() == []
        await drive.complete(1)
        assert await drive.queue() == [("r", 2)]
        await drive.work(2)
        assert await drive.queue() == [("r", 3), ("r", 4)], "shared ones wake together"

    async def test_a_waiter_that_ends_makes_room_for_those_behind(self, drive: Driver) -> None:
        await drive.submit(shape(size=2))
        await drive.submit(chain(1), "other")
        await drive.start(0, claims=SHARED)
        assert await drive.offer(0, "other", claims=LOCK) == WAITING
        assert await drive.offer(1, claims=SHARED) == WAITING
        await drive.command("cancel", run="other")
        assert await drive.queue() == [("r", 1)]

    async def test_a_waiter_that_was_parked_instead_holds_nobody_back(self, drive: Driver) -> None:
        await drive.submit(shape(size=3))
        await drive.start(0, claims=LOCK)
        for task in (1, 2):
            assert await drive.offer(task, claims=LOCK) == WAITING
        await drive.complete(0)
        await drive.wait(1)
        await drive.start(2, claims=LOCK)

    async def test_a_paused_waiter_holds_nobody_back(self, drive: Driver) -> None:
        """It keeps no place in the line: after resume it stands in line again."""
        await drive.submit(shape(size=2))
        await drive.submit(chain(1), "other")
        await drive.start(0, claims=LOCK)
        assert await drive.offer(0, "other", claims=LOCK) == WAITING
        await drive.command("pause", run="other")
        await drive.complete(0)
        assert await drive.offer(0, "other", claims=LOCK) == PAUSED
        await drive.start(1, claims=LOCK)
        await drive.command("resume", 2, run="other")
        assert await drive.offer(0, "other", claims=LOCK) == WAITING
        await drive.complete(1)
        await drive.start(0, "other", claims=LOCK)

    @pytest.mark.parametrize("end", ["fail", "retry", "snooze", "park", "unlisted", "retire"])
    async def test_every_end_of_a_lease_frees_its_claims(self, drive: Driver, end: str) -> None:
        await drive.node("m")
        await drive.submit(shape(size=2))
        token = await drive.start(0, node="m", claims=LOCK)
        assert await drive.tell("claim", Ask("r", 0, token, "inner")) == OK
        items: dict[str, tuple[str, object]] = {
            "fail": ("fail", Failure("r", 0, token)),
            "retry": ("fail", Failure("r", 0, token, retry_in_ms=5)),
            "snooze": ("snooze", Snooze("r", 0, token, 5)),
            "park": ("park", Parked("r", 0, token, "event")),
            "unlisted": ("beat", Beat("m", 1, (), 1)),
            "retire": ("retire", ("m", 1)),
        }
        verb, item = items[end]
        assert await drive.tell(verb, item) == OK
        inner = (Claim("inner", EXCLUSIVE, EXCLUSIVE),)
        await drive.start(1, claims=LOCK + inner)

    async def test_a_lock_inside_a_task_is_granted_through_the_inbox(self, drive: Driver) -> None:
        await drive.submit(shape(size=2))
        first, second = await drive.start(0), await drive.start(1)
        assert await drive.tell("claim", Ask("r", 0, first, "lock")) == OK
        assert await drive.tell("claim", Ask("r", 1, second, "lock")) == WAITING
        assert await drive.tell("release", (first, "lock")) == OK
        assert [entry for _, entry in await drive.engine.take("n", 1, 2, 9)] == [LockGrant(second, "lock")]
        assert await drive.tell("claim", Ask("r", 1, second, "lock")) == OK, "it is held now"
        assert await drive.tell("claim", Ask("r", 0, first, "lock")) == WAITING
        await drive.complete(1)
        assert (await drive.engine.take("n", 1, 3, 9))[0].entry == LockGrant(first, "lock")

    async def test_locks_inside_and_around_a_task_are_the_same(self, drive: Driver) -> None:
        await drive.submit(shape(size=2))
        token = await drive.start(0)
        assert await drive.tell("claim", Ask("r", 0, token, "lock")) == OK
        assert await drive.offer(1, claims=LOCK) == WAITING
        assert await drive.tell("release", (token, "lock")) == OK
        await drive.start(1, claims=LOCK)

    async def test_a_lock_of_the_lease_itself_stays_until_the_lease_ends(self, drive: Driver) -> None:
        """Asking for it again inside the task is fine, and giving it back there changes nothing."""
        await drive.submit(shape(size=2))
        token = await drive.start(0, claims=LOCK)
        assert await drive.tell("claim", Ask("r", 0, token, "lock")) == OK
        assert await drive.tell("release", (token, "lock")) == OK
        assert await drive.offer(1, claims=LOCK) == WAITING

    async def test_who_will_not_wait_stands_in_no_line(self, drive: Driver) -> None:
        """`waiting` is the answer all the same."""
        await drive.submit(shape(size=2))
        first, second = await drive.start(0), await drive.start(1)
        assert await drive.tell("claim", Ask("r", 0, first, "lock")) == OK
        assert await drive.tell("claim", Ask("r", 1, second, "lock", wait=False)) == WAITING
        await drive.tell("release", (first, "lock"))
        assert await drive.engine.take("n", 1, 2, 9) == []

    async def test_claim_and_release_need_the_lease(self, drive: Driver) -> None:
        await drive.submit(chain(1))
        await drive.start()
        assert await drive.tell("claim", Ask("r", 0, BOGUS, "lock")) == SUPERSEDED
        assert await drive.tell("claim", Ask("x", 0, BOGUS, "lock")) == NOT_FOUND
        assert await drive.tell("release", (BOGUS, "lock")) == SUPERSEDED

    async def test_a_lock_held_too_long_is_freed(self, drive: Driver) -> None:
        """The limit counts from when it was taken last."""
        await drive.submit(shape(size=2))
        first, second = await drive.start(0), await drive.start(1)
        ask = Ask("r", 0, first, "lock", hold_ms=1_000)
        assert await drive.tell("claim", ask) == OK
        drive.clock.advance(600)
        await drive.tell("release", (first, "lock"))
        assert await drive.tell("claim", ask) == OK
        assert await drive.tell("claim", Ask("r", 1, second, "lock")) == WAITING
        drive.clock.advance(600)
        await drive.engine.reap(SILENT_MS, 3)
        assert await drive.engine.take("n", 1, 2, 9) == []
        drive.clock.advance(400)
        await drive.engine.reap(SILENT_MS, 3)
        assert (await drive.engine.take("n", 1, 2, 9))[0].entry == LockGrant(second, "lock")
        assert await drive.states() == "running running"


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


class StreamSuite(Suite):
    """Events, trim, the leader, callbacks."""

    async def test_events_count_from_one_without_gaps(self, drive: Driver) -> None:
        await drive.submit(chain(3))
        await drive.work(0, 1, 2)
        events = await drive.engine.events(0, 1_000)
        assert [event.n for event in events] == list(range(1, len(events) + 1))
        assert await drive.engine.events(3, 2) == events[3:5]
        assert await drive.engine.events(len(events), 9) == []

    async def test_trim_forgets_up_to_the_mark_and_numbers_go_on(self, drive: Driver) -> None:
        await drive.submit(chain(2))
        await drive.work(0)
        count = len(await drive.read() or drive.history.events)
        await drive.engine.trim(count - 1)
        await drive.engine.trim(count - 2)
        assert [event.n for event in await drive.engine.events(count - 1, 9)] == [count]
        await drive.engine.trim(count)
        await drive.work(1)
        assert (await drive.engine.events(count, 9))[0].n == count + 1

    async def test_one_server_leads(self, drive: Driver) -> None:
        lead = drive.engine.lead
        assert await lead("a", 3_000)
        assert not await lead("b", 3_000)
        drive.clock.advance(2_000)
        assert await lead("a", 3_000)
        drive.clock.advance(2_000)
        assert not await lead("b", 3_000)
        drive.clock.advance(1_000)
        assert await lead("b", 3_000)
        assert not await lead("a", 3_000)
        assert await lead("b", 0), "a clean stop hands it over"
        assert await lead("a", 3_000)

    async def test_topics_stir(self, drive: Driver) -> None:
        heard = {topic: asyncio.Event() for topic in ("ready", "events", "due", "node:n")}
        stops = [drive.engine.listen(topic, event.set) for topic, event in heard.items()]
        await drive.submit(chain(1))
        token = await drive.start()
        await drive.tell("snooze", Snooze("r", 0, token, 10))
        for event in heard.values():
            await asyncio.wait_for(event.wait(), 2)
            event.clear()
        for stop in stops:
            stop()
        drive.clock.advance(10)
        await drive.engine.promote()
        assert not any(event.is_set() for event in heard.values())


class EngineConformance(RunSuite, CommandSuite, TaskSuite, MapSuite, ClaimSuite, NodeSuite, StreamSuite):
    """All of it."""
