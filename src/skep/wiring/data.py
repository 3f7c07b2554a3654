"""The data directory: who may read it, and who owns what in it."""

from __future__ import annotations

import fcntl
import logging
import os
from pathlib import Path
from typing import IO, Final

from skep.errors import DataInUseError, RecordError
from skep.record.protocol import Record

log = logging.getLogger(__name__)

RECORD_FILE: Final = "record.sqlite"
SERVER_LOCK: Final = "server.lock"
"""Held by the one server of a data directory; in it stands its process id."""


def engine_lock(home: Path, engine: str) -> Path:
    """Held by an embedded engine while it lives."""
    return home / "engines" / f"{engine}.lock"


async def sweep_abandoned(record: Record, home: Path, now_ms: int) -> None:
    """Ends the runs of embedded engines whose processes are gone."""
    for engine in await record.embedded_engines():
        lock = try_lock(engine_lock(home, engine))
        if lock is not None:
            runs = await record.abandon(engine, now_ms)
            if runs:
                log.warning("%d unfinished runs of an earlier process were ended as failed (abandoned)", runs)
            unlock(lock)


def own(home: Path, otherwise: str = "start this one elsewhere with --data") -> IO[str]:
    """Makes this process the owner of a data directory, for as long as the file is open. Raises DataInUseError, RecordError."""
    path = home / SERVER_LOCK
    try:
        lock = path.open("a+")
    except OSError as error:
        raise _unusable(home, error) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        pid = lock.read().strip() or "unknown"
        lock.close()
        raise DataInUseError(
            f"a server (process {pid}) runs on {home} already; use it (`skep status`), stop it (Ctrl-C there, or `kill {pid}`),"
            f" or {otherwise}"
        ) from None
    lock.truncate(0)
    lock.write(f"{os.getpid()}\n")
    lock.flush()
    return lock


def make_private(folder: Path) -> None:
    """The data directory, readable by its owner only: it holds inputs and outputs. Raises RecordError."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / "engines").mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise _unusable(folder, error) from None


def try_lock(path: Path) -> IO[str] | None:
    """The lock, when nobody holds it. Raises RecordError."""
    try:
        lock = path.open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            lock.close()
            raise
    except BlockingIOError:
        return None
    except OSError as error:
        raise _unusable(path.parent.parent, error) from None
    return lock


def unlock(lock: IO[str]) -> None:
    """Frees the lock and removes its file."""
    Path(lock.name).unlink(missing_ok=True)
    lock.close()


def _unusable(folder: Path, error: OSError) -> RecordError:
    return RecordError(f"the data directory {folder} cannot be used: {error}. Choose another with --data or SKEP_HOME")
