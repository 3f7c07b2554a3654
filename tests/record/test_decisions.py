"""Why tasks went where they went."""

from __future__ import annotations

from skep.record.protocol import DecisionRow
from skep.record.sql import SqlRecord


async def test_of_a_task_the_batches_that_may_tell_of_it(ready_record: SqlRecord) -> None:
    await ready_record.keep_decisions([])
    rows = [DecisionRow("r1", 0, 4, b"a"), DecisionRow("r1", 3, 3, b"b"), DecisionRow("r2", 0, 9, b"c")]
    await ready_record.keep_decisions(rows[:1])
    await ready_record.keep_decisions(rows[1:])
    assert await ready_record.decisions("r1", 3, 10) == [rows[1], rows[0]]
    assert await ready_record.decisions("r1", 4, 10) == [rows[0]]
    assert await ready_record.decisions("r1", 3, 1) == [rows[1]]
    assert await ready_record.decisions("r1", 5, 10) == []
