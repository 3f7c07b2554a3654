"""Commands: cancel, pause, resume, retry."""

from __future__ import annotations

import pytest

from skep.engine.protocol import (
    CANCELLING,
    NOT_FOUND,
    OK,
    PAUSED,
    RELEASE_LIMIT,
    SUPERSEDED,
    WRONG_STATE,
    Done,
    Failure,
    Parked,
    Snooze,
    Start,
)
from skep.model.node import Stop
from skep.model.state import RunState
from skep.testing.engine.suite import SKIPPED, Suite
from skep.testing.shapes import Driver, chain, shape


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
