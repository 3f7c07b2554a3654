"""Maps: parents and their children."""

from __future__ import annotations

import pytest

from skep.engine.protocol import (
    FULL,
    RELEASE_LIMIT,
    WRONG_STATE,
    Expand,
    Resolve,
)
from skep.model.run import MAX_TASKS, Policy
from skep.model.state import RunState
from skep.testing.engine.suite import FAILED, SILENT_MS, SKIPPED, SUCCEEDED, Suite
from skep.testing.shapes import Driver, chain, shape


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

    async def test_an_empty_map_is_not_the_next_one(self, drive: Driver) -> None:
        """Both begin at the same index."""
        await drive.submit(shape(size=3))
        await drive.expand(0, 0)
        assert list(await drive.expand(1, 3)) == [3, 4, 5]
        empty, other, _ = await drive.engine.tasks("r", range(3))
        assert (empty.state, empty.children) == (SUCCEEDED, 0)
        assert (other.first, other.children) == (3, 3)
        await drive.work(3, 4, 5)
        assert [task.state for task in await drive.engine.tasks("r", range(2))] == [SUCCEEDED] * 2

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

    async def test_children_see_what_their_parent_needed(self, drive: Driver) -> None:
        """So that a condition which each child decides on for itself may ask whether something failed."""
        await drive.submit(shape([(0, 1)], size=2, policies={0: Policy.HANDLE}))
        await drive.work(0, fails=True)
        await drive.expand(1, 2)
        (found,) = await drive.engine.ready(9)
        assert [(task.child, task.unmet) for task in found.tasks] == [(0, 1), (1, 1)]

    async def test_children_that_end_before_their_turn_open_no_window(self, drive: Driver) -> None:
        """All children have the deadline of their map, those that were not let out yet too."""
        await drive.submit(shape(size=1, windows={0: 1}, deadlines_ms={0: 20_000}, policies={0: Policy.CONTINUE}))
        await drive.node("m", beats=False)
        first, *_ = await drive.expand(0, 4)
        await drive.start(first, node="m")
        drive.clock.advance(20_000)
        await drive.engine.reap(SILENT_MS, 3)
        assert await drive.queue() == []
        assert await drive.states() == "parked running failed failed failed"
        await drive.complete(first)
        assert (await drive.ended() or ("",))[0] == RunState.SUCCEEDED
