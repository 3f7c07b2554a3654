"""Backups: a folder with a consistent copy of the record, its artifacts, and a note of what it is.

record.sqlite     one moment of the record, copied while others write to it
artifacts/        every file that this moment refers to: linked where the disk is the same, else copied
backup.json       written last: without it a backup is not one
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import msgspec

from skep.errors import RecordError
from skep.record.artifacts import Files
from skep.record.check import check_record
from skep.record.dialect import Dialect

RECORD_NAME: Final = "record.sqlite"
ARTIFACTS_NAME: Final = "artifacts"
NOTE_NAME: Final = "backup.json"
FORMAT: Final = 1
SPARE_BYTES: Final = 64 * 1024 * 1024
"""What stays free on the disk beside a copy."""
RESTORED: Final = "restored"
"""The process of an engine whose record came from a backup: none is called so, so it is opened anew."""


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """The file `backup.json`."""

    format: int
    schema: int
    at_ms: int
    runs: int
    tasks: int
    artifacts: int
    bytes: int
    """Of the record and its artifacts."""


def backup(dialect: Dialect, size: int, files: Files, target: Path) -> dict[str, Any]:
    """Makes the folder. Blocks; raises RecordError and leaves nothing then. `size`: bytes of the record."""
    existed = _check_target(target)
    try:
        target.mkdir(mode=0o700, parents=True, exist_ok=True)  # what is in it is as private as the record
        _check_room(target, size, files.folder)
        at_ms = time.time_ns() // 1_000_000
        copy = target / RECORD_NAME
        dialect.copy(copy)
        _sync(copy)
        known = _artifacts(copy)
        kept = [(artifact, size) for artifact, size in known if _keep(files, artifact, Files(target / ARTIFACTS_NAME))]
        report = check_record(copy)
        if not report.sound:
            raise RecordError(f"the record is damaged, so is its copy: {report.problems[0]}. Restore an older backup")
        note = Note(
            format=FORMAT,
            schema=report.version or 0,
            at_ms=at_ms,
            runs=report.runs,
            tasks=report.tasks,
            artifacts=len(kept),
            bytes=copy.stat().st_size + sum(size for _, size in kept),
        )
        (target / NOTE_NAME).write_bytes(msgspec.json.format(msgspec.json.encode(note)) + b"\n")
        _sync(target / NOTE_NAME)
        _sync(target)
    except BaseException as error:
        _undo(target, existed)
        if isinstance(error, OSError | sqlite3.Error):
            raise RecordError(f"the backup to {target} failed: {error}; nothing of it was kept") from error
        raise
    sizes: dict[str, Any] = msgspec.to_builtins(note)
    return sizes | {"path": str(target)}


def _check_target(target: Path) -> bool:
    """Whether the folder is there, empty."""
    if not target.exists():
        return False
    if not target.is_dir():
        raise RecordError(f"{target} is a file; name a new folder for the backup")
    if any(target.iterdir()):
        raise RecordError(f"{target} is not empty; name a new folder for the backup")
    return True


def _check_room(target: Path, size: int, artifacts: Path) -> None:
    needed = size + SPARE_BYTES
    if artifacts.is_dir() and artifacts.stat().st_dev != target.stat().st_dev:
        needed += sum(file.stat().st_size for file in artifacts.rglob("*") if file.is_file())
    free = shutil.disk_usage(target).free
    if free < needed:
        raise RecordError(
            f"this needs {needed / 2**20:,.0f} MiB, and {target} has {free / 2**20:,.0f} MiB free;"
            " make room, or name a folder on another disk"
        )


def _artifacts(copy: Path) -> list[tuple[str, int]]:
    with closing(sqlite3.connect(copy)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")  # so that no other file belongs to it
        return connection.execute("SELECT id, size FROM artifacts").fetchall()


def _keep(files: Files, artifact: str, to: Files) -> bool:
    """False for one whose file was not written yet at that moment, so that no output refers to it."""
    source, target = files.path(artifact), to.path(artifact)
    if target.exists():
        return True
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        try:
            os.link(source, target)
        except FileNotFoundError:
            return False
        except OSError:  # another disk, or one without links
            shutil.copyfile(source, target)
            _sync(target)
    except FileNotFoundError:
        return False
    return True


def _undo(target: Path, existed: bool) -> None:
    for path in (target / RECORD_NAME, target / f"{RECORD_NAME}-journal", target / NOTE_NAME):
        path.unlink(missing_ok=True)
    shutil.rmtree(target / ARTIFACTS_NAME, ignore_errors=True)
    if not existed and target.is_dir():
        target.rmdir()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def restore_backup(source: Path, home: Path, *, force: bool = False) -> Note:
    """Puts a backup in place of the record of a data directory that nobody uses now. Blocks; raises RecordError.

    A record that is there is refused; with `force` it is moved aside, to `record.sqlite.old-TIME`. Every engine that is not
    embedded must be opened anew then, under a later epoch: what the nodes did since the backup is not taken for news of it.
    """
    note = _read_note(source)
    record = home / RECORD_NAME
    if record.exists() and not force:
        raise RecordError(
            f"{home} holds a record already; restore to another directory, or force it: the record is kept aside then"
        )
    fresh = home / f"{RECORD_NAME}.new"
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_room(home, (source / RECORD_NAME).stat().st_size, source / ARTIFACTS_NAME)
        shutil.copyfile(source / RECORD_NAME, fresh)
        report = check_record(fresh, whole=True)
        if not report.sound:
            raise RecordError(f"the backup is not sound: {report.problems[0]}. Take another one; {report.summary()}")
        _mark(fresh)
        files, to = Files(source / ARTIFACTS_NAME), Files(home / ARTIFACTS_NAME)
        for artifact, _ in _artifacts(fresh):
            _keep(files, artifact, to)
        _sync(fresh)
        if record.exists():
            _put_aside(record)
        os.replace(fresh, record)
        _sync(home)
    except (OSError, sqlite3.Error) as error:
        raise RecordError(f"{source} was not restored to {home}: {error}") from error
    finally:
        fresh.unlink(missing_ok=True)
    return note


def _read_note(source: Path) -> Note:
    try:
        note = msgspec.json.decode((source / NOTE_NAME).read_bytes(), type=Note)
    except FileNotFoundError:
        raise RecordError(f"{source} is no whole backup: it has no {NOTE_NAME}") from None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RecordError(f"{source / NOTE_NAME} cannot be read: {error}") from error
    if note.format > FORMAT:
        raise RecordError(
            f"{source} is a backup of format {note.format}, newer than format {FORMAT} of this Skep; use a newer Skep"
        )
    if not (source / RECORD_NAME).is_file():
        raise RecordError(f"{source} is no whole backup: it has no {RECORD_NAME}")
    return note


def _mark(record: Path) -> None:
    with closing(sqlite3.connect(record, isolation_level=None)) as connection:
        connection.execute("UPDATE engines SET process = ? WHERE embedded = 0", (RESTORED,))


def _put_aside(record: Path) -> None:
    """With the files beside it, which hold the last of it."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    old = Path(f"{record}.old-{stamp}")
    number = 1
    while old.exists():
        number += 1
        old = Path(f"{record}.old-{stamp}-{number}")
    for suffix in ("-shm", "-wal", ""):
        if (file := Path(f"{record}{suffix}")).exists():
            os.rename(file, f"{old}{suffix}")
