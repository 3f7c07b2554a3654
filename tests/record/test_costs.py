"""What attempts and runs cost, whatever becomes of them: counted once, at the price of when they were granted."""

from __future__ import annotations

from typing import Any

import pytest

from skep.model.state import RunState
from skep.record.protocol import RunFilter
from skep.record.sql import SqlRecord
from tests.record.conftest import EPOCH, Story

HOUR_MS = 3_600_000


async def told(record: SqlRecord, story: Story) -> None:
    after, events = story.take()
    await record.transcribe("e1", EPOCH, after, events)


async def test_an_hour_on_all_slots_of_a_node_costs_what_it_says(ready_record: SqlRecord, story: Story) -> None:
    await ready_record.set_price("e1", "n1", 3.0, 2, 1)
    for grant in [story.grant(task) for task in range(2)]:
        story.end("succeeded", grant, ran_ms=HOUR_MS)
    await told(ready_record, story)
    assert (await ready_record.run("r1")).cost == pytest.approx(3.0)
    views = await ready_record.attempts("r1")
    assert [view.cost for task in views.values() for view in task] == pytest.approx([1.5, 1.5])
    page = await ready_record.list_runs(RunFilter())
    assert [run.cost for run in page.runs] == pytest.approx([3.0])


async def test_every_attempt_counts_once_however_it_ended(ready_record: SqlRecord, story: Story) -> None:
    await ready_record.set_price("e1", "n1", 1.0, 1, 1)
    for attempt, (kind, more) in enumerate(
        [("retrying", {}), ("snoozed", {"due_ms": 5}), ("failed", {}), ("cancelled", {})], start=1
    ):
        grant = story.grant(0, attempt)
        await told(ready_record, story)  # in other batches than their ends
        story.end(kind, grant, ran_ms=HOUR_MS, **more)
        await told(ready_record, story)
    story.tell("ended", state=int(RunState.FAILED))
    await told(ready_record, story)
    assert (await ready_record.run("r1")).cost == pytest.approx(4.0)


async def test_what_was_lost_with_its_node_cost_money_too(ready_record: SqlRecord, story: Story) -> None:
    await ready_record.set_price("e1", "n1", 3_600.0, 1, 1)
    grant = story.grant(0)
    lost = story.tell("returned", task=0, attempt=1, token=grant.token, token_epoch=EPOCH, reason="node_lost")
    await told(ready_record, story)
    assert (await ready_record.run("r1")).cost == pytest.approx((lost.at_ms - grant.at_ms) / 1_000)


async def test_the_price_is_that_of_the_grant(ready_record: SqlRecord, story: Story) -> None:
    await ready_record.set_price("e1", "n1", 1.0, 1, 1)
    old = story.grant(0)
    await told(ready_record, story)
    await ready_record.set_price("e1", "n1", 100.0, 1, 2)
    story.end("succeeded", old, ran_ms=HOUR_MS)
    await told(ready_record, story)
    assert (await ready_record.run("r1")).cost == pytest.approx(1.0)
    await ready_record.set_price("e1", "n1", 0.0, 1, 3)
    story.end("succeeded", story.grant(1), ran_ms=HOUR_MS)
    await told(ready_record, story)
    assert (await ready_record.run("r1")).cost == pytest.approx(1.0)


async def test_short_attempts_on_cheap_nodes_are_not_lost_in_rounding(ready_record: SqlRecord, story: Story) -> None:
    await ready_record.set_price("e1", "n1", 0.05, 4, 1)
    for task in range(1_000):
        story.end("succeeded", story.grant(task), ran_ms=10)
    await told(ready_record, story)
    assert (await ready_record.run("r1")).cost == pytest.approx(1_000 * 10 * 0.05 / 4 / HOUR_MS, rel=0.02)


async def test_where_nothing_costs_anything_nothing_is_counted(ready_record: SqlRecord, story: Story) -> None:
    story.end("succeeded", story.grant(0))
    await told(ready_record, story)
    assert (await ready_record.run("r1")).cost == 0
    assert await ready_record.priced("e1") == set()
    await ready_record.set_price("e1", "other", 1.0, 1, 1)
    assert await ready_record.priced("e1") == {"other"}
    rows: dict[str, Any] = {row.id: row for row in await ready_record.nodes("e1")}
    assert rows["other"].state == "retired", "nobody waits for it"
