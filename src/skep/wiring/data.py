"""The data directory: who may read it, and who owns what in it."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import IO, Final

from skep.errors import RecordError

RECORD_FILE: Final = "record.sqlite"


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
