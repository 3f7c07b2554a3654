"""A record of version 1 grows: it comes to have the shape of a new one, and everything that it had."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from skep.errors import RecordError
from skep.model.run import RestoredTask
from skep.model.state import RunState, TaskState
from skep.record import migrations, schema
from skep.record.protocol import RunFilter
from skep.record.sql import SqlRecord

OLD = Path(__file__).with_name("version_1.sql")


def shape(path: Path) -> dict[str, Any]:
    """Everything of `sqlite_master`: of tables their columns, of indexes their text."""
    with closing(sqlite3.connect(path)) as connection:
        found: dict[str, Any] = {}
        for kind, name, sql in connection.execute("SELECT type, name, sql FROM sqlite_master"):
            if kind == "table":
                columns = connection.execute(f"SELECT * FROM pragma_table_xinfo('{name}')").fetchall()
                ends = re.sub(r".*\)", "", sql)  # STRICT, WITHOUT ROWID
                found[name] = (sorted(columns), ends)
            else:
                found[name] = sql
        return found


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "old.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(OLD.read_text())
    return path


async def test_a_migrated_record_has_the_shape_of_a_new_one(old: Path, tmp_path: Path) -> None:
    for path in (old, tmp_path / "new.sqlite"):
        record = SqlRecord(path)
        await record.open()
        await record.close()
    assert shape(old) == shape(tmp_path / "new.sqlite")
    with closing(sqlite3.connect(old)) as connection:
        assert connection.execute("SELECT version FROM record_version").fetchall() == [(schema.VERSION,)]
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


async def test_a_migrated_record_has_what_it_had(old: Path) -> None:
    record = SqlRecord(old)
    await record.open()
    page = await record.list_runs(RunFilter())
    assert [run.id for run in page.runs] == ["r3", "r2", "r1"]
    assert [run.id for run in (await record.list_runs(RunFilter(labels={"team": ""}))).runs] == ["r3", "r1"]
    assert [run.id for run in (await record.list_runs(RunFilter(labels={"team": "a"}))).runs] == ["r1"]
    first = await record.run("r1", counts=True)
    assert (first.inputs, first.labels, first.command, first.applied) == (b'{"x":1}', {"team": "a"}, 1, 1)
    assert (first.parent, first.due_ms, first.schedule, first.depth) == (None, 0, "", 0)
    assert first.counts[TaskState.SUCCEEDED] == 1
    assert await record.outputs("r1", [0]) == {0: b'"out"'}
    assert [chunk.data for _, chunk in await record.log_stream("r1")] == [b"hello"]
    assert (await record.restore(["r3"]))["r3"].tasks == [RestoredTask(0, TaskState.RUNNING, 2, 1)]
    assert await record.abandon("run-1", 9_000) == 1
    assert (await record.run("r3")).state == RunState.FAILED
    await record.close()


async def test_a_step_that_fails_leaves_the_record_as_it_was(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = shape(old)
    monkeypatch.setattr(migrations, "LATER", (*schema.LATER, "CREATE TABLE nonsense ("))
    with pytest.raises(RecordError):
        await SqlRecord(old).open()
    assert shape(old) == before
    monkeypatch.undo()
    record = SqlRecord(old)
    await record.open()
    assert (await record.run("r1")).workflow == "w"
    await record.close()
