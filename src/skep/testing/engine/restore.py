"""What an engine is given back: runs that a record knows, and leases of an engine before it."""

from __future__ import annotations

from typing import Any

import pytest

from skep.engine.protocol import (
    FULL,
    NOT_FOUND,
    OK,
    RELEASE_LIMIT,
    SUPERSEDED,
    WAITING,
    WRONG_STATE,
    Adopt,
    Beat,
    Done,
    Expand,
    Failure,
    Load,
    Park,
    Resolve,
    Snooze,
    Start,
)
from skep.model.node import Adopted, Grant, HeldLock, Stop
from skep.model.run import EXCLUSIVE, MAX_TASKS, Claim, Policy, RestoredTask, Shape, Token
from skep.model.state import RunState, TaskState
from skep.testing.engine.suite import EPOCH, LOCK, SILENT_MS, Suite
from skep.testing.shapes import Driver, RunHistory, chain, fan, shape

OLD = Token(EPOCH - 1, 7)
"""A token of the engine before."""
S = TaskState


class RestoreSuite(Suite):
    """Restored runs, adopted leases."""

    async def restore(self, drive: Driver, graph: Shape, *tasks: RestoredTask, run: str = "r", **given: Any) -> None:
        """Loads and opens a run of which the record knows these tasks. The history takes them for ready where they may be."""
        families = given.get("families", ())
        size = max([graph.size, *(first + count for _, first, count in families)])
        known = drive.history.runs[run] = RunHistory(graph)
        known.grow(size)
        known.children = {parent: range(first, first + count) for parent, first, count in families}
        known.cancelling = bool(given.get("cancelling"))
        known.end = (0, "") if given.get("ended") else None
        for task in tasks:
            known.states[task.task], known.attempts[task.task] = TaskState(task.state), task.attempts
            known.due_ms[task.task] = task.due_ms
            known.reasons[task.task] = "when" if task.met else ""
        known.left(drive.clock.now_ms())
        load = drive.chunk(graph, run, count=size, restored=tasks, **given)
        assert await drive.tell("load", load) == OK
        assert await drive.tell("open", run) == OK

    def adopt(self, task: int = 0, attempt: int = 1, **given: Any) -> Adopt:
        place: dict[str, Any] = {"run": "r", "task": task, "attempt": attempt, "node": "n", "name": "t", "token": OLD}
        return Adopt(**place | given)

    # -- restored runs

    async def test_tasks_stand_where_they_stood(self, drive: Driver) -> None:
        now_ms = drive.clock.now_ms()
        graph = shape([(0, 1), (0, 6)], 8)
        tasks = [
            RestoredTask(0, S.SUCCEEDED, 1),
            RestoredTask(1, S.RUNNING, 2, failures=1),
            RestoredTask(2, S.DELAYED, 1, failures=1, due_ms=now_ms + 500),
            RestoredTask(3, S.DELAYED, 1, due_ms=now_ms),
            RestoredTask(4, S.PARKED, 1),
            RestoredTask(5, S.READY, 3),
        ]
        await self.restore(drive, graph, *tasks)
        assert await drive.states() == "succeeded ready delayed ready parked ready ready ready"
        assert (await drive.last("loaded")).count == 8
        found = await drive.find(1)
        assert (found.attempts, found.failures) == (2, 1)
        drive.clock.advance(500)
        await drive.engine.promote()
        assert (await drive.find(2)).failures == 1
        assert await drive.tell("resolve", Resolve("r", 4, "ann", S.SUCCEEDED, attempt=1)) == OK
        assert await drive.start(5) == drive.token(5)
        assert drive.history.runs["r"].leases[5].attempt == 4

    @pytest.mark.parametrize(
        ("policy", "state", "met", "unmet"),
        [
            (Policy.FAIL, S.SUCCEEDED, False, 0),
            (Policy.FAIL, S.SKIPPED, True, 0),
            (Policy.FAIL, S.SKIPPED, False, 1),
            (Policy.FAIL, S.FAILED, False, 1),
            (Policy.CONTINUE, S.FAILED, False, 0),
            (Policy.HANDLE, S.FAILED, False, 1),
        ],
    )
    async def test_what_ended_counts_for_what_needs_it(
        self, drive: Driver, policy: Policy, state: TaskState, met: bool, unmet: int
    ) -> None:
        await self.restore(drive, chain(2, policies={0: policy}), RestoredTask(0, state, 1, met=met))
        found = await drive.find(1)
        assert found.unmet == unmet
        assert found.failing == (state == S.FAILED and policy == Policy.FAIL)

    async def test_a_run_that_was_being_cancelled_still_is(self, drive: Driver) -> None:
        """It says so in the same event as that it is loaded: no record can have only one of the two."""
        await self.restore(drive, shape(size=2), RestoredTask(0, S.RUNNING, 1), cancelling="enough")
        loaded = await drive.last("loaded")
        assert (loaded.state, loaded.reason) == (RunState.CANCELLING, "enough")
        await self.promote_all(drive)
        assert await drive.states() == "cancelled cancelled"
        assert await drive.ended() == (RunState.CANCELLED, "enough")

    async def test_a_failure_that_cancels_the_run_does_so_if_it_had_not_yet(self, drive: Driver) -> None:
        await self.restore(drive, shape(size=2, policies={0: Policy.CANCEL}), RestoredTask(0, S.FAILED, 1))
        await self.promote_all(drive)
        assert await drive.states() == "failed cancelled"
        assert await drive.ended() == (RunState.FAILED, "task_failed")

    async def test_a_run_whose_end_was_lost_ends(self, drive: Driver) -> None:
        await self.restore(drive, shape(size=2), RestoredTask(0, S.SUCCEEDED, 1), RestoredTask(1, S.FAILED, 1))
        assert await drive.ended() == (RunState.FAILED, "task_failed")

    async def test_a_map_goes_on_within_its_window(self, drive: Driver) -> None:
        children = [RestoredTask(2, S.SUCCEEDED, 1), RestoredTask(4, S.RUNNING, 1)]
        tasks = [RestoredTask(0, S.PARKED, 0), *children]
        await self.restore(drive, chain(2, windows={0: 2}), *tasks, families=[(0, 2, 4)])
        assert await drive.states() == "parked waiting succeeded ready ready waiting"
        await drive.work(3, 4, 5)
        assert await drive.states() == "succeeded ready succeeded succeeded succeeded succeeded"

    async def test_a_map_whose_children_have_ended_ends(self, drive: Driver) -> None:
        tasks = [RestoredTask(0, S.PARKED, 0), RestoredTask(1, S.SUCCEEDED, 1), RestoredTask(2, S.FAILED, 1)]
        await self.restore(drive, chain(1), *tasks, families=[(0, 1, 2)])
        assert await drive.states() == "failed succeeded failed"
        assert (await drive.last("failed")).reason == "child_failed"

    async def test_a_map_that_a_retry_made_wait_is_expanded_anew(self, drive: Driver) -> None:
        tasks = [RestoredTask(0, S.WAITING, 0), RestoredTask(1, S.SUCCEEDED, 1)]
        await self.restore(drive, chain(1), *tasks, families=[(0, 1, 1)])
        assert await drive.expand(0, 1) == range(2, 3)

    async def test_children_that_nobody_has_any_more_keep_their_places(self, drive: Driver) -> None:
        tasks = [RestoredTask(0, S.PARKED, 0), RestoredTask(1, S.FAILED, 1), RestoredTask(2, S.SKIPPED, 1)]
        known = drive.history
        await self.restore(drive, chain(1), *tasks, families=[(0, 3, 2)])
        assert known.runs["r"].states[1:3] == [S.FAILED, S.SKIPPED]
        assert not (await drive.find(3)).failing
        await drive.work(3, 4)
        assert await drive.ended() == (RunState.SUCCEEDED, "")

    async def test_it_is_let_out_in_chunks(self, drive: Driver) -> None:
        count = RELEASE_LIMIT + 100
        await self.restore(drive, fan(count), RestoredTask(0, S.SUCCEEDED, 1))
        assert len(await drive.queue()) == RELEASE_LIMIT
        await self.promote_all(drive)
        assert len(await drive.queue()) == count

    async def test_it_may_come_in_chunks(self, drive: Driver) -> None:
        graph = shape(size=3)
        drive.history.runs["r"] = known = RunHistory(graph)
        known.grow(5)
        known.children = {0: range(3, 5)}
        known.states[0] = S.PARKED
        known.left(drive.clock.now_ms())
        chunks: list[Load] = [
            drive.chunk(graph, first=0, count=2, restored=[RestoredTask(0, S.PARKED, 0)], families=[(0, 3, 2)]),
            drive.chunk(graph, first=2, count=2, restored=[RestoredTask(3, S.RUNNING, 1)]),
            drive.chunk(graph, first=4, count=1),
        ]
        known.attempts[3] = 1
        for chunk in chunks:
            assert await drive.tell("open", "r") in (NOT_FOUND, WRONG_STATE)
            assert await drive.tell("load", chunk) == OK
        assert await drive.tell("open", "r") == OK
        assert await drive.states() == "parked ready ready ready ready"

    async def test_limits_that_have_passed_take_effect_at_once(self, drive: Driver) -> None:
        accepted_ms = drive.clock.now_ms() - 10_000
        await self.restore(drive, shape(size=2, deadlines_ms={0: 9_000}), accepted_ms=accepted_ms)
        await self.restore(drive, chain(1), RestoredTask(0, S.PARKED, 1), run="t", accepted_ms=accepted_ms, timeout_ms=9_000)
        await drive.engine.reap(SILENT_MS, 3)
        await self.promote_all(drive)
        assert await drive.states() == "failed ready"
        assert await drive.ended("t") == (RunState.FAILED, "timeout")

    async def test_a_run_that_ended_waits_for_its_retry(self, drive: Driver) -> None:
        await self.restore(drive, chain(2), RestoredTask(0, S.FAILED, 1), RestoredTask(1, S.SKIPPED, 0), ended=True, command=3)
        assert not [event for event in drive.history.events if event.run == "r"], "nobody is told anything"
        assert await drive.command("cancel", 4) == WRONG_STATE
        assert await drive.command("retry", 5) == OK
        reset = await drive.last("reset")
        assert (reset.tasks, reset.command) == ((0, 1), 5)
        await drive.work(0, 1)
        assert await drive.ended() == (RunState.SUCCEEDED, "")

    @pytest.mark.parametrize(
        ("state", "reason", "end"),
        [(S.SUCCEEDED, "", (RunState.SUCCEEDED, "")), (S.CANCELLED, "enough", (RunState.CANCELLED, "enough"))],
    )
    async def test_a_retry_that_is_refused_tells_the_end_again(
        self, drive: Driver, state: TaskState, reason: str, end: tuple[int, str]
    ) -> None:
        await self.restore(drive, chain(1), RestoredTask(0, state, 1), ended=True, cancelling=reason)
        assert await drive.command("retry", 1, tasks=(0,) if state == S.CANCELLED else ()) == (OK if reason else WRONG_STATE)
        if reason:
            await drive.work(0)
            return
        assert await drive.ended() == end

    async def test_nothing_of_a_run_moves_before_it_is_open(self, drive: Driver) -> None:
        """Not by a decision, and not by its time: what follows from them needs all chunks."""
        now_ms = drive.clock.now_ms()
        tasks = [RestoredTask(0, S.PARKED, 1), RestoredTask(1, S.DELAYED, 1, due_ms=now_ms + 5)]
        known = drive.history.runs["r"] = RunHistory(shape(size=2))
        known.grow(2)
        known.states[0], known.attempts[0] = S.PARKED, 1
        known.states[1], known.due_ms[1] = S.DELAYED, now_ms + 5
        known.left(now_ms)
        assert await drive.tell("load", drive.chunk(shape(size=2), count=2, restored=tasks)) == OK
        drive.clock.advance(5)
        assert (await drive.engine.promote()).moved == 0
        verdict = Resolve("r", 0, "ann", S.SUCCEEDED, attempt=1)
        assert (await drive.engine.resolve([verdict])) == [NOT_FOUND]
        assert await drive.engine.events(0, 9) == drive.history.events
        assert await drive.tell("open", "r") == OK
        await self.promote_all(drive)
        assert await drive.states() == "parked ready"
        assert await drive.tell("resolve", verdict) == OK

    # -- attempts of an engine before

    async def test_an_attempt_for_which_nobody_comes_is_lost(self, drive: Driver) -> None:
        await self.restore(drive, chain(1), RestoredTask(0, S.RUNNING, 2, failures=1))
        await drive.start()
        returned = await drive.last("returned")
        assert (returned.reason, returned.attempt, returned.token) == ("lost", 2, 0)
        grant = (await drive.engine.take("n", 1, 0, 9))[0].entry
        assert isinstance(grant, Grant)
        assert (grant.attempt, grant.failures) == (3, 1)

    async def test_it_counts_as_one_of_those_that_may_be_lost(self, drive: Driver) -> None:
        await self.restore(drive, chain(1), RestoredTask(0, S.RUNNING, 3, lost=2))
        assert await drive.offer(0) == OK
        failed = await drive.last("failed")
        assert (failed.reason, failed.attempt) == ("node_lost", 3)
        assert (await drive.free())["slots"] == 1_000

    async def test_a_lease_goes_on_under_a_new_token(self, drive: Driver) -> None:
        await self.restore(drive, chain(2), RestoredTask(0, S.RUNNING, 2))
        takes = (("slots", 1), ("cpu", 600))
        assert await drive.adopt(self.adopt(attempt=2, takes=takes)) == OK
        event = await drive.last("adopted")
        assert (event.attempt, event.node, event.token_epoch, event.token) == (2, "n", *OLD)
        assert await drive.states() == "running waiting"
        assert await drive.queue() == []
        assert (await drive.free())["cpu"] == 400
        ((_, entry),) = await drive.engine.take("n", 1, 0, 9)
        assert entry == Adopted(OLD, drive.token(0))
        assert await drive.tell("complete", Done("r", 0, OLD)) == SUPERSEDED
        await drive.complete(0)
        assert await drive.adopt(self.adopt(attempt=2, takes=takes)) == OK, "a late repeat"
        assert await drive.states() == "succeeded ready"

    async def test_the_attempt_must_be_the_one_that_ran_or_the_next(self, drive: Driver) -> None:
        for attempt, answer in ((0, SUPERSEDED), (1, SUPERSEDED), (2, OK), (3, OK), (4, SUPERSEDED)):
            run = f"r{attempt}"
            await self.restore(drive, chain(1), RestoredTask(0, S.RUNNING, 2), run=run)
            item = self.adopt(run=run, attempt=attempt, token=Token(EPOCH - 1, 10 + attempt))
            assert (await drive.engine.adopt([item]))[0].answer == answer
        await drive.read()
        lost = [(event.run, event.attempt) for event in drive.history.events if event.kind == "returned"]
        assert lost == [("r3", 2)], "the one before the next"

    @pytest.mark.parametrize("state", [S.WAITING, S.READY, S.PARKED, S.SUCCEEDED, S.FAILED, S.CANCELLED, S.SKIPPED])
    async def test_an_attempt_that_had_ended_is_not_adopted(self, drive: Driver, state: TaskState) -> None:
        await self.restore(drive, shape(size=2), RestoredTask(0, state, 2))
        assert await drive.adopt(self.adopt(attempt=2)) == SUPERSEDED

    async def test_one_that_began_after_the_delay_is_adopted(self, drive: Driver) -> None:
        """Its grant was not recorded, but the delay before it."""
        await self.restore(drive, chain(1), RestoredTask(0, S.DELAYED, 1, due_ms=drive.clock.now_ms() + 999))
        assert await drive.adopt(self.adopt(attempt=2)) == OK
        drive.clock.advance(999)
        await self.promote_all(drive)
        assert await drive.states() == "running"

    async def test_who_cannot_be_adopted_is_answered(self, drive: Driver) -> None:
        await self.restore(drive, chain(2))
        assert await drive.adopt(self.adopt(run="x")) == NOT_FOUND
        assert await drive.adopt(self.adopt(task=9)) == NOT_FOUND
        assert await drive.adopt(self.adopt(node="x")) == NOT_FOUND
        assert await drive.adopt(self.adopt(task=1)) == SUPERSEDED, "it waits"
        await drive.start(0)
        assert await drive.adopt(self.adopt()) == SUPERSEDED, "another one runs"

    async def test_what_a_cursor_has_not_reached_is_adopted(self, drive: Driver) -> None:
        last = RELEASE_LIMIT + 50
        await self.restore(drive, shape(size=last + 1))
        assert await drive.adopt(self.adopt(task=last)) == OK
        await self.promote_all(drive)
        assert len(await drive.queue()) == last

    async def test_a_child_must_be_the_one_it_was(self, drive: Driver) -> None:
        await drive.submit(shape(size=2))
        await drive.expand(1, 2)
        await drive.expand(0, 2)
        assert await drive.adopt(self.adopt(task=2)) == SUPERSEDED
        assert await drive.adopt(self.adopt(task=2, parent=0, child=0)) == SUPERSEDED
        assert await drive.adopt(self.adopt(task=2, parent=1, child=1)) == SUPERSEDED
        assert await drive.adopt(self.adopt(task=2, parent=1, child=0)) == OK

    async def test_what_is_in_use_is_taken_though_it_does_not_fit(self, drive: Driver) -> None:
        await drive.node("m", slots=1)
        await self.restore(drive, shape(size=3), RestoredTask(0, S.RUNNING, 1), RestoredTask(1, S.RUNNING, 1))
        for task, token in ((0, OLD), (1, Token(EPOCH - 1, 8))):
            item = self.adopt(task, node="m", token=token, takes=(("slots", 1),), claims=LOCK)
            assert await drive.adopt(item) == OK
        assert (await drive.free("m"))["slots"] == -1
        assert await drive.offer(2, claims=LOCK) == WAITING
        await drive.complete(0)
        assert await drive.queue() == []
        await drive.complete(1)
        assert await drive.queue() == [("r", 2)]
        assert (await drive.free("m"))["slots"] == 1

    async def test_locks_taken_inside_go_on_for_as_long_as_they_had_left(self, drive: Driver) -> None:
        await self.restore(drive, shape(size=2), RestoredTask(0, S.RUNNING, 1))
        assert await drive.adopt(self.adopt(locks=(HeldLock("lock", EXCLUSIVE, 700),))) == OK
        assert await drive.offer(1, claims=(Claim("lock", 1, EXCLUSIVE),)) == WAITING
        drive.clock.advance(700)
        await drive.engine.reap(SILENT_MS, 3)
        assert await drive.queue() == [("r", 1)]

    async def test_one_that_has_ended_is_told_by_its_outcome_alone(self, drive: Driver) -> None:
        """Its node is told nothing, and does not list it."""
        await self.restore(drive, shape(size=2), RestoredTask(0, S.RUNNING, 1), RestoredTask(1, S.RUNNING, 1))
        for task, token in ((0, OLD), (1, Token(EPOCH - 1, 8))):
            assert await drive.adopt(self.adopt(task, token=token, ended=True)) == OK
        assert await drive.engine.take("n", 1, 0, 9) == []
        assert await drive.tell("beat", Beat("n", 1)) == OK
        await drive.complete(0)
        await drive.fail(1, retry_in_ms=0)
        assert await drive.states() == "succeeded ready"

    async def test_whoever_is_dismissed_is_told_once(self, drive: Driver) -> None:
        assert await drive.tell("dismiss", ("n", OLD)) == OK
        assert await drive.tell("dismiss", ("x", OLD)) == NOT_FOUND
        assert [entry for _, entry in await drive.engine.take("n", 1, 0, 9)] == [Stop(OLD, "superseded")]

    # -- what is live

    async def test_child_runs_load_however_much_is_live(self, drive: Driver) -> None:
        assert await drive.tell("load", drive.chunk(shape(size=MAX_TASKS), "large", count=1)) == OK
        assert await drive.tell("load", drive.chunk(chain(1), "r")) == FULL
        assert await drive.tell("load", drive.chunk(chain(1), "child", child=True)) == OK

    async def test_runs_that_only_wait_for_others_do_not_count(self, drive: Driver) -> None:
        await drive.submit(chain(3))
        await drive.wait(0)
        assert (await drive.engine.stats()).live_tasks == 0
        assert await drive.tell("load", drive.chunk(shape(size=MAX_TASKS), "large", count=1)) == OK
        assert await drive.tell("resolve", Resolve("r", 0, "ann", S.SUCCEEDED)) == OK
        assert (await drive.engine.stats()).live_tasks == MAX_TASKS + 3
        await drive.work(1, 2)
        assert (await drive.engine.stats()).live_tasks == MAX_TASKS

    @pytest.mark.parametrize("how", ["snoozed", "failed", "cancelled", "parked"])
    async def test_what_is_live_is_counted_whatever_happens_beside_parked_tasks(self, drive: Driver, how: str) -> None:
        await drive.submit(shape(size=2))
        await drive.wait(0)
        assert (await drive.engine.stats()).live_tasks == 2
        match how:
            case "snoozed":
                assert await drive.tell("snooze", Snooze("r", 1, await drive.start(1), 10)) == OK
                assert (await drive.engine.stats()).live_tasks == 2
                return
            case "failed":
                await drive.work(1, fails=True)
            case "cancelled":
                await drive.command("cancel")
            case "parked":
                await drive.wait(1)
        assert (await drive.engine.stats()).live_tasks == 0

    async def test_stats_count_what_is_there(self, drive: Driver) -> None:
        await drive.submit(shape([(0, 2)], 4))
        since_ms = drive.clock.now_ms()
        drive.clock.advance(5)
        await drive.start(0)
        await drive.wait(1)
        stats = await drive.engine.stats()
        assert (stats.runs, stats.live_tasks, stats.oldest_ready_ms) == (1, 4, since_ms)
        assert [stats.states[state] for state in (S.WAITING, S.READY, S.RUNNING, S.PARKED)] == [1, 1, 1, 1]

    async def test_parking_and_expanding_give_an_earlier_attempt_up(self, drive: Driver) -> None:
        tasks = [RestoredTask(task, S.RUNNING, 1) for task in range(2)]
        await self.restore(drive, shape(size=3), *tasks)
        one, two = [await drive.find(task) for task in range(2)]
        assert await drive.tell("place", Park("r", 0, one.version, False, "approval", b"wait")) == OK
        assert await drive.tell("place", Expand("r", 1, two.version, False, 1)) == OK
        assert [event.task for event in drive.history.events if event.kind == "returned"] == [0, 1]
        parked = next(event for event in drive.history.events if event.kind == "parked")
        assert (parked.attempt, parked.data) == (2, b"wait")

    async def test_a_decision_of_an_engine_before_may_come_late(self, drive: Driver) -> None:
        await self.restore(drive, chain(1), RestoredTask(0, S.RUNNING, 1))
        found = await drive.find(0)
        assert await drive.adopt(self.adopt()) == OK
        start = Start("r", 0, found.version, False, "n", "t", b"{}")
        assert await drive.tell("place", start) in (OK, WRONG_STATE)
        assert await drive.tell("fail", Failure("r", 0, drive.token(0))) == OK
        assert await drive.ended() == (RunState.FAILED, "task_failed")
