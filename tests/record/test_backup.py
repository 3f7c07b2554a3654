"""Backups are consistent while work goes on, whole or not there, and come back."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from skep.errors import NotFoundError, RecordError
from skep.model.run import Token
from skep.record import backup
from skep.record.artifacts import Files
from skep.record.check import check_record
from skep.record.protocol import EngineRow, NewRun, RunFilter
from skep.record.sql import SqlRecord

EPOCH = 1_750_000_000
NOW = 1_750_000_000_000
New = Callable[..., NewRun]


def at(home: Path) -> SqlRecord:
    home.mkdir(exist_ok=True)
    return SqlRecord(home / backup.RECORD_NAME)


async def opened(home: Path) -> SqlRecord:
    record = at(home)
    await record.open()
    return record


@pytest.fixture
async def made(tmp_path: Path, new_run: New) -> Path:
    """A backup of a record with an engine, two runs and an artifact; the record is at `home`."""
    record = await opened(tmp_path / "home")
    await record.open_engine(EngineRow("e1", EPOCH, 0, "p1", False), after_epoch=0)
    await record.open_engine(EngineRow("e2", EPOCH, 0, "p2", True), after_epoch=0)
    await record.accept([new_run("r1"), new_run("r2")])
    await record.put_artifact("r1", b"data", NOW)
    told = await record.backup(tmp_path / "saved")
    await record.accept([new_run("r3")])
    await record.close()
    assert (told["runs"], told["artifacts"], told["path"]) == (2, 1, str(tmp_path / "saved"))
    return tmp_path / "saved"


async def test_a_backup_is_a_moment_of_a_record_at_work(tmp_path: Path, new_run: New, story: Any) -> None:
    record = await opened(tmp_path / "home")
    await record.open_engine(EngineRow("e1", EPOCH, 0, "p1", False), after_epoch=0)
    await record.accept([new_run("r1", inputs=b"x" * 10_000_000)])
    making = asyncio.create_task(record.backup(tmp_path / "saved"))
    written = 0
    while not making.done():
        story.end("succeeded", story.grant(written), output=b"1")
        await record.transcribe("e1", EPOCH, *story.take())
        written += 1
    told = await making
    await record.close()
    copy = await opened(tmp_path / "saved")
    row = await copy.engine("e1")
    assert row is not None
    events = [event.n for _, event in await copy.events("r1", Token(0, 0), 10**6)]
    assert events == list(range(1, row.mark + 1)), "what it has is what had happened up to its mark"
    assert len(await copy.tasks("r1")) == row.mark // 2 == told["tasks"]
    assert len(await copy.tasks("r1")) <= written
    await copy.close()


async def test_an_artifact_that_the_copy_refers_to_is_not_pruned_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = await opened(tmp_path / "home")
    artifact = await record.put_artifact("gone", b"data", NOW)
    await record._write(lambda tx: tx.run("DELETE FROM artifact_runs"))
    copied, go_on = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    true_copy = record._dialect.copy

    def copy(target: Path) -> None:
        true_copy(target)
        loop.call_soon_threadsafe(copied.set)
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result()

    monkeypatch.setattr(record._dialect, "copy", copy)
    making = asyncio.create_task(record.backup(tmp_path / "saved"))
    await copied.wait()
    await record.prune(ended_before_ms=NOW, now_ms=NOW + 10**9, limit=1)
    go_on.set()
    await making
    assert Files(tmp_path / "saved" / "artifacts").read(artifact) == b"data"
    await record.prune(ended_before_ms=NOW, now_ms=NOW + 10**9, limit=1)
    with pytest.raises(NotFoundError):
        await record.get_artifact(artifact)
    await record.close()


async def test_a_backup_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage(NamedTuple):
        free: int

    record = await opened(tmp_path / "home")
    target = tmp_path / "new" / "saved"
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: Usage(100))
        with pytest.raises(RecordError, match="MiB free"):
            await record.backup(target)
    assert not target.exists()

    def no(copy: Path) -> None:
        copy.write_bytes(b"half")
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(record._dialect, "copy", no)
    (tmp_path / "empty").mkdir()
    for place in (target, tmp_path / "empty"):
        with pytest.raises(RecordError, match="disk I/O error; nothing of it was kept"):
            await record.backup(place)
    assert not target.exists()
    assert not any((tmp_path / "empty").iterdir())
    (tmp_path / "empty" / "mine").touch()
    for place, why in ((tmp_path / "empty", "not empty"), (tmp_path / "empty" / "mine", "is a file")):
        with pytest.raises(RecordError, match=why):
            await record.backup(place)
    assert (tmp_path / "empty" / "mine").exists()
    await record.close()


async def test_a_record_in_memory_has_no_backup(tmp_path: Path) -> None:
    record = SqlRecord(inline=True)
    await record.open()
    with pytest.raises(RecordError, match="in memory"):
        await record.backup(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    await record.close()


async def test_a_backup_comes_back_elsewhere(made: Path, tmp_path: Path) -> None:
    note = backup.restore_backup(made, tmp_path / "fresh" / "data")
    assert (note.runs, note.artifacts) == (2, 1)
    record = await opened(tmp_path / "fresh" / "data")
    assert [run.id for run in (await record.list_runs(RunFilter())).runs] == ["r2", "r1"]
    engines = [await record.engine(engine) for engine in ("e1", "e2")]
    assert [engine and engine.process for engine in engines] == ["restored", "p2"]
    ((artifact,),) = await record._write(lambda tx: tx.all("SELECT id FROM artifacts"))
    assert await record.get_artifact(artifact) == b"data"
    await record.close()


async def test_a_record_that_is_there_is_kept_aside(made: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    with pytest.raises(RecordError, match="holds a record already"):
        backup.restore_backup(made, home)
    for _ in range(2):  # twice within a second
        backup.restore_backup(made, home, force=True)
    aside = sorted(path for path in home.glob("record.sqlite.old-*") if not path.name.endswith(("-wal", "-shm")))
    assert [check_record(path).runs for path in aside] == [3, 2]
    record = await opened(home)
    assert len((await record.list_runs(RunFilter())).runs) == 2
    await record.close()
    assert not (home / "record.sqlite.new").exists()


async def test_what_is_no_sound_backup_is_refused(made: Path, tmp_path: Path) -> None:
    home = tmp_path / "fresh"
    note = msgspec.json.decode((made / backup.NOTE_NAME).read_bytes())
    content = (made / backup.RECORD_NAME).read_bytes()

    def refused(why: str) -> None:
        with pytest.raises(RecordError, match=why):
            backup.restore_backup(made, home)
        assert not list(home.glob("record*")) if home.exists() else True

    (made / backup.RECORD_NAME).write_bytes(content[: len(content) // 2])
    refused("not sound")
    (made / backup.RECORD_NAME).unlink()
    refused("no record.sqlite")
    (made / backup.NOTE_NAME).write_bytes(msgspec.json.encode(note | {"format": 99}))
    refused("format 99, newer than format 1")
    (made / backup.NOTE_NAME).write_bytes(b"{")
    refused("cannot be read")
    (made / backup.NOTE_NAME).unlink()
    refused("no backup.json")
