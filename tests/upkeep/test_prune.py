"""Retention: what has been kept long enough goes, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from skep.errors import NotFoundError
from skep.testing.stage import HOLD, workflow
from skep.testing.timed import TimedStage
from skep.upkeep import prune
from skep.upkeep.prune import KEEP_MS, PruneLoop

DAY = 86_400_000


@pytest.fixture
async def stage() -> AsyncIterator[TimedStage]:
    async with TimedStage() as made:
        yield made


async def test_an_ended_run_goes_when_its_time_is_over(stage: TimedStage) -> None:
    await stage.node(script={"held": HOLD})
    old = await stage.submit({"a": {"run": "true"}})
    held = await stage.submit({"held": {"run": "true"}})
    await stage.go()
    await stage.pass_(stage.prune)
    assert stage.prune.interval_s == prune.IDLE_S
    await stage.go(KEEP_MS)
    young = await stage.submit({"a": {"run": "true"}})
    await stage.go()
    await stage.pass_(stage.prune)
    assert stage.prune.interval_s == prune.BUSY_S
    with pytest.raises(NotFoundError):
        await stage.record.run(old)
    for run in (held, young):
        assert (await stage.record.run(run)).id == run


async def test_zero_keeps_runs_for_ever(stage: TimedStage) -> None:
    await stage.node()
    run = await stage.submit({"a": {"run": "true"}})
    await stage.events.send("go")
    await stage.go()
    await stage.go(4_000 * DAY)
    await stage.pass_(PruneLoop(stage.record, stage.clock, keep_ms=0))
    assert (await stage.record.run(run)).id == run
    assert await stage.record.signals("default", "go", "", 0) == []


async def test_many_go_in_bounded_batches(stage: TimedStage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prune, "BATCH", 10)
    await stage.node()
    await stage.hub.runs.submit_many(workflow({"a": {"run": "true"}}), [{}] * 25)
    await stage.go()
    stage.clock.advance(KEEP_MS + 1)
    more = [await stage.prune.run_once() for _ in range(4)]
    assert more == [True, True, False, False]
    assert (await stage.record.count_runs()) == {}
