"""SQLite: one file, or memory."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, Final

from skep.errors import RecordError
from skep.record.dialect import Bulk, Concern, Row, Transaction, Trouble

BULK_ROWS: Final = 512
"""Rows in one statement at most: 512 rows of 18 columns stay well below SQLite's 32,766 parameters."""


@cache
def _bulk_text(bulk: Bulk, count: int) -> str:
    row = f"({', '.join('?' * len(bulk.columns.split()))})"
    return f"{bulk.head} VALUES {', '.join([row] * count)} {bulk.tail}"


class SqliteTransaction:
    """A connection to SQLite. A statement that fails undoes itself alone, so a call needs no guard."""

    def __init__(self, connection: sqlite3.Connection, dialect: Sqlite) -> None:
        self._connection = connection
        self.dialect = dialect

    def run(self, sql: str, *values: Any) -> int:
        return self._connection.execute(sql, values).rowcount

    def tell(self, sql: str, *values: Any) -> None:
        self._connection.execute(sql, values)

    def one(self, sql: str, *values: Any) -> Row | None:
        """The statement is stepped to its end: a RETURNING that is not keeps the transaction open."""
        rows: list[Row] = self._connection.execute(sql, values).fetchall()
        return rows[0] if rows else None

    def all(self, sql: str, *values: Any) -> list[Row]:
        return self._connection.execute(sql, values).fetchall()

    def each(self, sql: str, *values: Any) -> Iterator[Row]:
        return iter(self._connection.execute(sql, values))

    def many(self, bulk: Bulk, rows: Sequence[Row]) -> None:
        self.back(bulk, rows)

    def back(self, bulk: Bulk, rows: Sequence[Row]) -> list[Row]:
        """In chunks of a power of two, so that few texts are ever prepared.

        Not `executemany`: that gives up the interpreter lock at every row, and beside one busy thread each return costs a
        switch interval: 1.4 ms a row, measured, against 0.1 here.
        """
        found: list[Row] = []
        start, left = 0, len(rows)
        while left:
            size = min(BULK_ROWS, 1 << (left.bit_length() - 1))
            values = list(chain.from_iterable(rows[start : start + size]))
            found += self._connection.execute(_bulk_text(bulk, size), values)
            start, left = start + size, left - size
        return found

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        self._connection.execute("SAVEPOINT step")
        try:
            yield
        except BaseException:
            if self._connection.in_transaction:  # a full disk ends the whole transaction by itself
                self._connection.execute("ROLLBACK TO step")
                self._connection.execute("RELEASE step")
            raise
        self._connection.execute("RELEASE step")

    def guard(self) -> nullcontext[None]:
        return nullcontext()

    def lock(self, *names: str, shared: bool = False) -> None:
        """A transaction that writes is the only one."""

    def begin(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def begin_at_once(self) -> bool:
        execute = self._connection.execute
        execute("PRAGMA busy_timeout=0")
        try:
            execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False  # whatever it is, the usual way meets it again
        finally:
            execute(f"PRAGMA busy_timeout={self.dialect.busy_ms}")
        return True

    def commit(self) -> None:
        self._connection.execute("COMMIT")

    def rollback(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def close(self) -> None:
        self._connection.close()


_PRAGMAS: Final = (
    "page_size=4096",  # a small commit touches some eight pages: with 8192 it took half as long again (0.48 against 0.34 ms)
    "journal_mode=WAL",
    "synchronous=FULL",
    "wal_autocheckpoint=1000",  # a log that is reused commits in 0.2 ms, one that grows in 0.34
    "cache_size=-32000",
    "temp_store=MEMORY",
)
_COPIED_PAGES: Final = 2_048
"""Pages copied in one step, for which the interpreter lock is released."""
_DATA_CODES: Final = {sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_RANGE}
_BUSY_CODES: Final = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_ADVICE: Final = {
    sqlite3.SQLITE_FULL: "the disk is full. Free some space; writing goes on by itself",
    sqlite3.SQLITE_IOERR: "the disk reported an error. Check it and its free space; writing goes on when it does",
    sqlite3.SQLITE_CORRUPT: "the file is damaged. Restore a backup, or move the file away to begin anew",
    sqlite3.SQLITE_NOTADB: "the file is not a database or is damaged. Restore a backup, or move the file away to begin anew",
    sqlite3.SQLITE_READONLY: "the file or its folder cannot be written, nothing is lost. Check their owner and permissions",
    sqlite3.SQLITE_CANTOPEN: "the file cannot be opened. Check that its folder exists and may be written",
    sqlite3.SQLITE_BUSY: "another process keeps it locked. Find who has it open (`lsof`), or use a data directory of your own",
}


def _code(error: BaseException) -> int | None:
    """SQLite's primary result code; None for errors that Python's module raised by itself."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def damaged(error: BaseException | None) -> bool:
    """Whether an error says that the file itself is broken."""
    return error is not None and _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class Sqlite:
    """SQLite in a file (WAL, every commit synced), or in memory when `path` is None."""

    words: Mapping[str, str] = {
        "text": "TEXT",
        "int": "INTEGER",
        "bytes": "BLOB",
        "serial": "INTEGER PRIMARY KEY",
        "end": "STRICT",
        "keyed": "STRICT, WITHOUT ROWID",
    }
    far = False

    def __init__(self, path: Path | None, *, busy_ms: int = 5_000) -> None:
        self.path = path
        self.shared = path is not None
        self.busy_ms = busy_ms
        """How long a transaction waits for the lock."""

    @property
    def shown(self) -> str:
        return str(self.path or "in memory")

    def connect(self, *, read_only: bool = False) -> SqliteTransaction:
        # Owned by one thread at a time, but opened and closed from others.
        connection = sqlite3.connect(
            ":memory:" if self.path is None else self.path,
            timeout=self.busy_ms / 1_000,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
        )
        try:
            for pragma in _PRAGMAS:
                connection.execute(f"PRAGMA {pragma}")
            if read_only:
                connection.execute("PRAGMA query_only=ON")
        except BaseException:
            connection.close()
            raise
        return SqliteTransaction(connection, self)

    def trouble(self, error: BaseException) -> Trouble:
        code = _code(error)
        if code in _BUSY_CODES:
            return Trouble.BUSY
        # MemoryError is SQLite's or Python's: either way not a property of the one call.
        if isinstance(error, MemoryError) or (code is not None and code not in _DATA_CODES):
            return Trouble.STORE
        return Trouble.DATA

    def explain(self, error: BaseException) -> RecordError:
        advice = _ADVICE.get(_code(error) or 0)
        if advice is None:
            return RecordError(f"the record refused this: {type(error).__name__}: {error}")
        return RecordError(f"record {self.shown}: {advice} (SQLite: {error})")

    def tables(self, tx: Transaction) -> set[str]:
        return {name for (name,) in tx.all("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'")}

    def concerns(self, tx: Transaction) -> list[Concern]:
        return []  # it has its settings from us

    def size(self, tx: Transaction) -> int:
        if self.path is None:
            row = tx.one("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size")
            return int(row[0]) if row else 0
        return sum(file.stat().st_size for suffix in ("", "-wal") if (file := Path(f"{self.path}{suffix}")).exists())

    def own(self, engine: str) -> None:
        """Its data directory has one owner."""

    def disown(self) -> None:
        """Nothing is held."""

    def copy(self, target: Path) -> None:
        if self.path is None:
            raise RecordError("a record in memory cannot be copied; give it a data directory")
        source = self.connect(read_only=True)
        copy = sqlite3.connect(target, isolation_level=None)
        try:
            for pragma in ("journal_mode=OFF", "synchronous=OFF"):  # a copy that is cut short is thrown away
                copy.execute(f"PRAGMA {pragma}")
            source._connection.execute("BEGIN")  # one snapshot; without it each write of others would begin the copy anew
            source.one("SELECT COUNT(*) FROM sqlite_master")
            source._connection.backup(copy, pages=_COPIED_PAGES)
        finally:
            copy.close()
            source.close()
