"""Opening: new files, other versions, damaged and foreign files."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from skep.errors import RecordError
from skep.record import migrations, runs, schema
from skep.record.sql import SqlRecord
from skep.record.sqlite import Sqlite


async def test_a_record_is_opened_again_as_it_was(tmp_path: Path) -> None:
    for version in (1, 2):
        record = SqlRecord(tmp_path / "skep.db")
        await record.open()
        assert await record.put_state("n", "k", b"1", now_ms=1, ttl_ms=0) == version
        await record.close()
    assert not (tmp_path / "skep.db-wal").exists()


@pytest.mark.parametrize(("change", "word"), [(1, "newer"), (-schema.VERSION, "older")])
async def test_another_version_is_refused_with_both_named(tmp_path: Path, change: int, word: str) -> None:
    path = tmp_path / "skep.db"
    record = SqlRecord(path)
    await record.open()
    await record._write(lambda tx: tx.run("UPDATE record_version SET version = version + ?", change))
    await record.close()
    again = SqlRecord(path)
    with pytest.raises(RecordError, match=f"version {schema.VERSION + change}, {word} than version {schema.VERSION}"):
        await again.open()
    await again.close()


@pytest.mark.parametrize("content", [b"this is not a database " * 400, b"SQLite format 3\0" + b"\xff" * 8_000])
@pytest.mark.parametrize("inline", [False, True])
async def test_a_damaged_file_is_explained(tmp_path: Path, content: bytes, inline: bool) -> None:
    path = tmp_path / "skep.db"
    path.write_bytes(content)
    with pytest.raises(RecordError, match=r"skep\.db: the file is (not a database|damaged).*Restore a backup"):
        await SqlRecord(path, inline=inline).open()
    assert path.read_bytes() == content


async def test_a_foreign_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (a)")
    connection.close()
    with pytest.raises(RecordError, match="no Skep record"):
        await SqlRecord(path).open()


async def test_a_missing_folder_is_explained(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="cannot be opened"):
        await SqlRecord(tmp_path / "none" / "skep.db").open()


def test_hot_questions_use_their_indexes() -> None:
    tx = Sqlite(None).connect()
    tx.begin()
    migrations.ensure(tx)
    plans = {
        "runs_unfinished": f"SELECT id FROM runs WHERE engine = ? AND {schema.UNFINISHED} ORDER BY {schema.RANK}",
        "runs_commanded": f"SELECT id FROM runs WHERE engine = ? AND runs.{schema.UNFINISHED} AND runs.command > runs.applied",
        "runs_ended": "SELECT id FROM runs WHERE state >= 3 AND finished_ms < ? ORDER BY finished_ms",
        "runs_key": "SELECT id FROM runs WHERE namespace = ? AND idempotency_key = ?",
        "runs_listed": "SELECT id FROM runs WHERE namespace = ? ORDER BY accepted_ms DESC",
        "logs_place": "SELECT id FROM logs WHERE run_id = ? AND idx = ? ORDER BY id + 0",
    }
    for index, sql in plans.items():
        details = " ".join(row[3] for row in tx.all(f"EXPLAIN QUERY PLAN {sql}", *["x"] * sql.count("?")))
        assert index in details, details
    assert runs.unfinished(tx, "e1") == 0
    tx.rollback()
    tx.close()
