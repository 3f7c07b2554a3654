"""Looks at a record without changing it: version, soundness, and what of a damaged one can still be read."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import msgspec

from skep.errors import NotFoundError, RecordError
from skep.record.connection import connect, told
from skep.record.places import dialect_of
from skep.record.schema import VERSION
from skep.record.settings import PostgresReport, report


class RecordReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was found."""

    path: str
    bytes: int
    version: int | None
    """Of the schema; None when it cannot be told."""
    problems: list[str]
    """What is wrong, the worst first; none: it is sound."""
    runs: int
    """How many can be read."""
    tasks: int

    @property
    def sound(self) -> bool:
        return not self.problems

    def summary(self) -> str:
        """In one sentence."""
        found = f"{self.runs:,} runs and {self.tasks:,} tasks"
        if self.sound:
            return f"sound: schema version {self.version}, {found}"
        return f"{found} can still be read" if self.runs or self.tasks else "nothing that can be read"


def check_database(url: str) -> PostgresReport:
    """Looks at a record in PostgreSQL, beside servers that use it. Blocks; raises RecordError, also for a newer schema."""
    dialect = dialect_of(url)
    try:
        tx = connect(dialect)
        try:
            found = report(tx)
        finally:
            tx.close()
    except Exception as error:
        raise told(dialect, error) from error
    if (found.version or 0) > VERSION:
        raise RecordError(
            f"record {found.shown} has schema version {found.version}, newer than version {VERSION} of this Skep: run the Skep"
            " that wrote it"
        )
    return found


PROBLEMS: Final = 5
"""How many are told."""


def check_record(path: Path, *, whole: bool = False) -> RecordReport:
    """Opens the file read-only and looks at it; beside a process that writes to it, too. Blocks, long for a large file.

    `whole`: also whether every index agrees with its table, which takes several times as long. Raises NotFoundError.
    """
    if not path.is_file():
        raise NotFoundError(f"there is no record at {path}")
    problems: list[str] = []
    version: int | None = None
    runs = tasks = 0
    try:
        with _opened(path) as connection:
            version = _version(connection, problems)
            problems += _unsound(connection, "integrity_check" if whole else "quick_check")
            runs, tasks = _readable(connection, "runs"), _readable(connection, "tasks")
    except sqlite3.Error as error:
        problems.append(f"it cannot be opened: {error}")
    size = sum(file.stat().st_size for suffix in ("", "-wal") if (file := Path(f"{path}{suffix}")).exists())
    return RecordReport(path=str(path), bytes=size, version=version, problems=problems, runs=runs, tasks=tasks)


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    """Read-only; where not even the files beside it can be made, as a file that nobody writes to."""
    uri = path.absolute().as_uri()
    with closing(sqlite3.connect(f"{uri}?mode=ro", uri=True, timeout=5)) as connection:
        try:
            connection.execute("SELECT COUNT(*) FROM sqlite_master")
        except sqlite3.OperationalError:
            with closing(sqlite3.connect(f"{uri}?mode=ro&immutable=1", uri=True)) as still:
                yield still
            return
        yield connection


def _version(connection: sqlite3.Connection, problems: list[str]) -> int | None:
    try:
        version = int(connection.execute("SELECT version FROM record_version").fetchone()[0])
    except (sqlite3.Error, TypeError) as error:
        problems.append(f"its version cannot be read: {error}")
        return None
    if version > VERSION:
        problems.append(
            f"it has schema version {version}, newer than version {VERSION} of this Skep: run the Skep that wrote it"
        )
    return version


def _unsound(connection: sqlite3.Connection, pragma: str) -> list[str]:
    try:
        found = [line for (text,) in connection.execute(f"PRAGMA {pragma}({PROBLEMS})") for line in text.splitlines()]
    except sqlite3.Error as error:
        return [f"it is damaged: {error}"]
    return [] if found == ["ok"] else [f"it is damaged: {line}" for line in found[:PROBLEMS]]


def _readable(connection: sqlite3.Connection, table: str) -> int:
    """Rows that can be read, from both ends of the table up to the damage."""
    key = {"runs": "rowid", "tasks": "run_id, idx"}[table]
    columns = {"runs": "id, state, labels", "tasks": "run_id, idx, output"}[table]
    back = ", ".join(f"{column} DESC" for column in key.split(", "))
    ahead, whole = _count(connection, f"SELECT {columns} FROM {table} NOT INDEXED ORDER BY {key}")
    return ahead if whole else ahead + _count(connection, f"SELECT {columns} FROM {table} NOT INDEXED ORDER BY {back}")[0]


def _count(connection: sqlite3.Connection, sql: str) -> tuple[int, bool]:
    """How many rows come, and whether that is all."""
    count = 0
    try:
        for _ in connection.execute(sql):
            count += 1
    except (sqlite3.Error, UnicodeDecodeError):
        return count, False
    return count, True
