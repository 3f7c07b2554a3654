"""What is said of a PostgreSQL whose settings lose what was acknowledged."""

from __future__ import annotations

import logging

import pytest

from skep.errors import RecordError
from skep.record import schema
from skep.record.check import check_database
from skep.record.sql import SqlRecord


async def test_a_database_is_looked_at(postgres: str, caplog: pytest.LogCaptureFixture) -> None:
    empty = check_database(postgres)
    assert (empty.version, empty.runs, empty.rejected) == (None, 0, 0)
    record = SqlRecord(postgres)
    with caplog.at_level(logging.WARNING):
        await record.open()
    await record.close()
    assert "fsync is off: a power cut may destroy the whole record; set `fsync = on`" in caplog.text
    found = check_database(postgres)
    assert found.version == schema.VERSION
    assert [(concern.what, concern.wrong) for concern in found.concerns] == [("fsync", True), ("full_page_writes", True)]
    assert found.commit_ms > 0


@pytest.mark.parametrize(("value", "wrong"), [("off", True), ("local", False)])
def test_commits_that_do_not_wait_are_found(postgres: str, value: str, wrong: bool) -> None:
    found = check_database(f"{postgres}%20-csynchronous_commit%3D{value}")
    assert [concern.wrong for concern in found.concerns if concern.what == "synchronous_commit"] == [wrong]


async def test_a_newer_schema_and_a_missing_database_are_told(postgres: str) -> None:
    record = SqlRecord(postgres)
    await record.open()
    await record._write(lambda tx: tx.run("UPDATE record_version SET version = version + 1"))
    await record.close()
    with pytest.raises(RecordError, match=f"version {schema.VERSION + 1}, newer than version {schema.VERSION}"):
        check_database(postgres)
    with pytest.raises(RecordError, match="no such database"):
        check_database(postgres.replace("/skep?", "/none?"))
