"""Looking at a record that may be damaged, and opening one that is."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from skep.errors import NotFoundError, RecordError
from skep.record import schema
from skep.record.check import check_record
from skep.record.protocol import EngineRow, NewRun
from skep.record.sql import SqlRecord

EPOCH = 1_750_000_000


@pytest.fixture
async def path(tmp_path: Path, new_run: Callable[..., NewRun], story: Any) -> Path:
    """A record with a run of 2,000 tasks."""
    record = SqlRecord(tmp_path / "skep.db")
    await record.open()
    await record.open_engine(EngineRow("e1", EPOCH, 0, "p", False), after_epoch=0)
    await record.accept([new_run("r1"), new_run("r2")])
    for task in range(2_000):
        story.tell("succeeded", task=task, output=b"o" * 100)
    await record.transcribe("e1", EPOCH, *story.take())
    await record.close()
    return tmp_path / "skep.db"


def spoil(path: Path, *, needle: bytes) -> None:
    """Overwrites the page in the middle of those that hold the text."""
    content = bytearray(path.read_bytes())
    pages = [at for at in range(0, len(content), 4096) if needle in content[at : at + 4096]]
    at = pages[len(pages) // 2]
    content[at : at + 4096] = b"\xa5" * 4096
    path.write_bytes(content)


def spoil_first(path: Path) -> None:
    """Overwrites the page that names the tables."""
    content = bytearray(path.read_bytes())
    content[100:4096] = b"\xa5" * 3_996
    path.write_bytes(content)


@pytest.fixture
def closed(path: Path) -> Iterator[Path]:
    """A record that nobody may write to."""
    path.chmod(0o444)
    path.parent.chmod(0o555)
    yield path
    path.parent.chmod(0o755)


def test_a_sound_record(path: Path) -> None:
    report = check_record(path)
    assert (report.version, report.runs, report.tasks, report.problems) == (schema.VERSION, 2, 2_000, [])
    assert report.summary() == f"sound: schema version {schema.VERSION}, 2 runs and 2,000 tasks"
    assert report.bytes == path.stat().st_size
    assert check_record(path, whole=True) == report


async def test_a_record_in_use_is_looked_at_too(path: Path, new_run: Callable[..., NewRun]) -> None:
    record = SqlRecord(path)
    await record.open()
    await record.accept([new_run("r3")])
    assert check_record(path).runs == 3
    await record.close()


def test_what_of_a_damaged_record_can_be_read(path: Path) -> None:
    spoil(path, needle=b"o" * 100)
    report = check_record(path)
    assert not report.sound
    assert report.problems[0].startswith("it is damaged")
    assert report.runs == 2
    assert 1_000 < report.tasks < 2_000, "up to the damage, from both ends"
    assert report.summary() == f"2 runs and {report.tasks:,} tasks can still be read"


async def test_opening_a_damaged_record_says_what_is_left(path: Path) -> None:
    spoil_first(path)
    with pytest.raises(RecordError, match=r"Restore a backup.*What is left of it: nothing that can be read; `skep doctor`"):
        await SqlRecord(path).open()
    report = check_record(path)
    assert (report.version, report.runs, report.tasks) == (None, 0, 0)
    assert report.problems


@pytest.mark.parametrize("content", [b"", b"no database " * 1_000])
def test_what_is_no_record(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "skep.db").write_bytes(content)
    report = check_record(tmp_path / "skep.db")
    assert not report.sound
    assert (tmp_path / "skep.db").read_bytes() == content
    with pytest.raises(NotFoundError):
        check_record(tmp_path / "none.db")


async def test_a_newer_record_is_told(path: Path) -> None:
    record = SqlRecord(path)
    await record.open()
    await record._write(lambda tx: tx.run("UPDATE record_version SET version = 99"))
    await record.close()
    (problem,) = check_record(path).problems
    assert "version 99, newer than version" in problem
    with pytest.raises(RecordError, match="Nothing of it is lost"):
        await SqlRecord(path).open()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
async def test_a_folder_that_cannot_be_written(closed: Path) -> None:
    with pytest.raises(RecordError, match=r"cannot be (written|opened)"):
        await SqlRecord(closed).open()
    assert check_record(closed).sound
