"""What people store: definitions, schedules, what they want of nodes, flags."""

from __future__ import annotations

from typing import Any

import pytest

from skep.errors import NotFoundError
from skep.model.event import Event
from skep.record.protocol import EngineRow, ScheduleRow
from skep.record.sql import SqlRecord

EPOCH = 1_750_000_000
NOW = 1_750_000_000_000


async def test_definitions_have_versions(ready_record: SqlRecord) -> None:
    record = ready_record
    first = await record.put_definition("n", "flow", "x1", b"{1}", "begun", NOW)
    assert (first.version, first.body) == (1, b"{1}")
    assert await record.put_definition("n", "flow", "x1", b"{1}", "again", NOW + 9) == first
    second = await record.put_definition("n", "flow", "x2", b"{2}", "", NOW + 1)
    third = await record.put_definition("n", "flow", "x1", b"{1}", "back", NOW + 2)
    await record.put_definition("n", "able", "x1", b"{1}", "", NOW)
    await record.put_definition("m", "flow", "x3", b"{3}", "", NOW)
    assert [one.version for one in (first, second, third)] == [1, 2, 3]
    assert [(one.version, one.body) for one in await record.definitions("n", "flow")] == [(3, b""), (2, b""), (1, b"")]
    assert [(one.name, one.version) for one in await record.definitions("n")] == [("able", 1), ("flow", 3)]
    assert [(one.namespace, one.name) for one in await record.definitions()] == [("n", "able"), ("m", "flow"), ("n", "flow")]
    assert await record.stored_definition("n", "flow") == third
    assert await record.stored_definition("n", "flow", 2) == second
    for name, version, there in (("flow", 9, "newest is 3"), ("flwo", 0, "there is able, flow")):
        with pytest.raises(NotFoundError, match=there):
            await record.stored_definition("n", name, version)
    with pytest.raises(NotFoundError, match="none yet"):
        await record.stored_definition("empty", "flow")


async def test_a_body_stays_while_somebody_has_it(ready_record: SqlRecord, new_run: Any) -> None:
    record = ready_record
    await record.put_definition("n", "flow", "d1", b'{"name":"w"}', "", NOW)  # as run r1 has it
    await record.put_definition("n", "flow", "x2", b"{2}", "", NOW)
    await record.put_definition("n", "other", "x3", b"{3}", "", NOW)
    assert await record.remove_definition("n", "flow") == 2
    assert await record.remove_definition("n", "flow") == 0
    assert await record.definition("d1") == b'{"name":"w"}'
    with pytest.raises(NotFoundError):
        await record.definition("x2")
    await record.accept([new_run("r2", digest="x3", definition=b"{3}")])
    await record._write(lambda tx: tx.run("UPDATE runs SET state = 3, finished_ms = 5"))
    assert await record.prune(ended_before_ms=NOW, now_ms=NOW, limit=10) == 2
    assert await record.definition("x3") == b"{3}", "it is stored under a name"


async def test_a_schedule_is_moved_by_compare_and_set(record: SqlRecord) -> None:
    made = await record.put_schedule("n", "nightly", b"{}", NOW + 100, NOW)
    assert made == ScheduleRow(
        namespace="n", name="nightly", spec=b"{}", paused=False, fired_ms=0, next_ms=NOW + 100, made_ms=NOW, version=1
    )
    assert await record.move_schedule(made, fired_ms=NOW + 100, next_ms=NOW + 200)
    assert not await record.move_schedule(made, fired_ms=NOW + 100, next_ms=NOW + 300), "another was faster"
    moved = await record.schedule("n", "nightly")
    assert (moved.fired_ms, moved.next_ms, moved.version) == (NOW + 100, NOW + 200, 1)
    assert await record.move_schedule(moved, paused=True)
    replaced = await record.put_schedule("n", "nightly", b"{1}", NOW + 50, NOW + 9)
    assert (replaced.spec, replaced.paused, replaced.fired_ms, replaced.made_ms) == (b"{1}", True, NOW + 100, NOW)
    assert replaced.version == 2
    assert not await record.move_schedule(moved, next_ms=NOW + 400), "it was replaced"
    assert await record.remove_schedule("n", "nightly")
    assert not await record.remove_schedule("n", "nightly")
    with pytest.raises(NotFoundError, match="no schedule 'nightly'"):
        await record.schedule("n", "nightly")


async def test_due_schedules(record: SqlRecord) -> None:
    assert await record.next_schedule_ms() == 0
    for name, next_ms in (("late", NOW + 9), ("due", NOW), ("over", 0), ("paused", NOW - 5)):
        row = await record.put_schedule("n", name, b"{}", next_ms, NOW)
        if name == "paused":
            await record.move_schedule(row, paused=True)
    await record.put_schedule("m", "due", b"{}", NOW - 1, NOW)
    assert [row.name for row in await record.schedules("n")] == ["due", "late", "over", "paused"]
    assert [(row.namespace, row.name) for row in await record.schedules(due_ms=NOW)] == [("m", "due"), ("n", "due")]
    assert await record.next_schedule_ms() == NOW - 1


async def test_nodes_as_their_engine_told(ready_record: SqlRecord) -> None:
    record = ready_record
    await record.want_drain("e1", "n2", True, NOW)
    told = [
        Event(n=n, at_ms=NOW + n, kind=kind, node=node, count=count)
        for n, (kind, node, count) in enumerate(
            [
                ("registered", "n1", 1),
                ("lost", "n1", 1),
                ("registered", "n1", 2),
                ("registered", "n2", 1),
                ("retired", "n3", 4),
            ],
            1,
        )
    ]
    await record.transcribe("e1", EPOCH, 0, told)
    seen = [(node.id, node.incarnation, node.state, node.draining, node.at_ms) for node in await record.nodes("e1")]
    assert seen == [("n1", 2, "live", False, NOW + 3), ("n2", 1, "live", True, NOW + 4), ("n3", 4, "retired", False, NOW + 5)]
    await record.want_drain("e1", "n2", False, NOW)
    await record.want_drain("e1", "n1", True, NOW)
    assert [node.draining for node in await record.nodes("e1")] == [True, False, False]
    assert await record.nodes("e2") == []


async def test_nodes_go_with_an_embedded_engine(record: SqlRecord) -> None:
    await record.open_engine(EngineRow("e1", EPOCH, 0, "p", True), after_epoch=0)
    await record.transcribe("e1", EPOCH, 0, [Event(n=1, at_ms=NOW, kind="registered", node="n1", count=1)])
    await record.put_schedule("n", "nightly", b"{}", NOW, NOW)
    assert await record.nodes("e1")
    await record.abandon("e1", NOW)
    assert await record.nodes("e1") == []
    assert await record.schedules(), "schedules are nobody's"


async def test_flags(record: SqlRecord) -> None:
    assert await record.flags() == {}
    await record.set_flag("paused:n", "1")
    await record.set_flag("paused:*", "")
    await record.set_flag("paused:n", "2")
    assert await record.flags() == {"paused:*": "", "paused:n": "2"}
    await record.set_flag("paused:n", None)
    await record.set_flag("never", None)
    assert await record.flags() == {"paused:*": ""}
