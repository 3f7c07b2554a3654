"""Runs: load, open, the order of ready tasks, unmet counts, ends."""

from __future__ import annotations

import pytest

from skep.engine.protocol import (
    EXPIRED,
    FORGET_MS,
    FULL,
    LOAD_VALID_MS,
    NOT_FOUND,
    OK,
    SUPERSEDED,
    WRONG_STATE,
    Beat,
    Done,
    RunCommand,
    Snooze,
    Start,
)
from skep.errors import NotFoundError
from skep.model.run import MAX_TASKS, Policy
from skep.model.state import RunState, TaskState
from skep.testing.engine.suite import FAILED, SILENT_MS, SKIPPED, SUCCEEDED, Suite
from skep.testing.shapes import PRIORITY_MS, Driver, chain, shape


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

    async def test_the_last_chunk_may_open_the_run(self, drive: Driver) -> None:
        graph = shape(size=3)
        assert await drive.tell("load", drive.chunk(graph, first=0, count=2)) == OK
        assert await drive.queue() == []
        last = drive.chunk(graph, first=2, count=1, opens=True)
        assert await drive.tell("load", last) == OK
        assert await drive.states() == "ready ready ready"
        assert [event.kind for event in drive.history.events[-2:]] == ["loaded", "ready"]
        assert await drive.tell("load", last) == OK
        assert await drive.tell("open", "r") == OK
        small = [drive.chunk(chain(2), run, opens=True) for run in ("a", "b")]
        assert await drive.engine.load([*small, drive.chunk(chain(1), "x", first=1, opens=True)]) == [OK, OK, NOT_FOUND]
        assert await drive.engine.load(small) == [OK, OK]
        assert await drive.queue() == [("a", 0), ("b", 0), ("r", 0), ("r", 1), ("r", 2)]

    async def test_what_is_loaded_but_not_opened_is_opened_by_a_repeat(self, drive: Driver) -> None:
        assert await drive.tell("load", drive.chunk(chain(1))) == OK
        assert await drive.tell("load", drive.chunk(chain(1), opens=True)) == OK
        assert await drive.states() == "ready"

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
