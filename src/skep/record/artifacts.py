"""Artifacts: files by content, with rows that tell which runs refer to them. (`chunks`: where they are no files.)

The row is committed before the file is written. So a file always has a row, `prune` unlinks a file only under the write lock
after deleting its row, and a writer that comes later finds the file gone and writes it anew.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from pathlib import Path

from skep.errors import NotFoundError, RecordError
from skep.record.dialect import Transaction

_ID = re.compile(r"sha256:[0-9a-f]{64}")


def artifact_id(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def link(tx: Transaction, artifact: str, run: str, size: int, now_ms: int) -> None:
    """Notes that the run refers to the artifact."""
    with tx.savepoint():
        sql = "INSERT INTO artifacts (id, size, touched_ms) VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET touched_ms = ?"
        tx.tell(sql, artifact, size, now_ms, now_ms)
        tx.tell("INSERT INTO artifact_runs (artifact, run_id) VALUES (?, ?) ON CONFLICT DO NOTHING", artifact, run)


class Files:
    """A folder of artifacts: `ab/cdef…` for `sha256:abcdef…`. All of it blocks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._new = folder / "new"

    def path(self, artifact: str) -> Path:
        """Raises NotFoundError for what is no artifact's id."""
        if not _ID.fullmatch(artifact):
            raise NotFoundError(f"{artifact!r} is not the id of an artifact; expected sha256: and 64 hexadecimal digits")
        return self.folder / artifact[7:9] / artifact[9:]

    def write(self, artifact: str, data: bytes) -> None:
        """Whole or not at all, and on disk when it returns. Raises RecordError."""
        path = self.path(artifact)
        try:
            if path.exists() and path.stat().st_size == len(data):
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            self._new.mkdir(exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._new, delete=False) as file:
                try:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                    os.replace(file.name, path)
                except BaseException:
                    os.unlink(file.name)
                    raise
            _sync(path.parent)
            _sync(self.folder)
        except OSError as error:
            raise RecordError(f"artifact {artifact} was not stored: {error}; check the disk of {self.folder}") from error

    def read(self, artifact: str) -> bytes:
        """Raises NotFoundError; RecordError for a file that is damaged."""
        try:
            data = self.path(artifact).read_bytes()
        except FileNotFoundError:
            raise NotFoundError(f"there is no artifact {artifact}") from None
        except OSError as error:
            raise RecordError(f"artifact {artifact} cannot be read: {error}") from error
        if artifact_id(data) != artifact:
            raise RecordError(f"artifact {artifact} is damaged on disk; restore {self.path(artifact)} from a backup")
        return data

    def remove(self, artifact: str) -> None:
        self.path(artifact).unlink(missing_ok=True)

    def sweep(self, before_ms: int) -> None:
        """Removes what a process that died left half-written before then."""
        for file in self._new.glob("*"):
            if file.stat().st_mtime_ns // 1_000_000 < before_ms:
                file.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
