"""A transaction on PostgreSQL that goes there and back as seldom as it can.

    BEGIN ─► statement ─► statement ─► … COMMIT        sent as they come; waited for only where an answer is needed

In PostgreSQL a statement that fails spoils its transaction, unless a savepoint stands before it; and a savepoint is another way
there and back. Failures are rare, so there are none at first: the first failure undoes the whole transaction (`Spoiled`), and
the writer runs it again *with care*: savepoints, and every answer waited for.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from itertools import count
from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

import psycopg
from psycopg.pq import TransactionStatus

from skep.errors import RecordUnavailableError, SkepError
from skep.record.arrays import PACK
from skep.record.connection import PATIENCE_S, PAUSE_S
from skep.record.dialect import Bulk, Row, Spoiled, Trouble

if TYPE_CHECKING:
    from skep.record.postgres import Connection, Postgres

log = logging.getLogger(__name__)

BULK_ROWS: Final = 4_096
"""Rows in one statement at most."""
FEW_ROWS: Final = 4
"""So many stand one by one in their statement. Of an array PostgreSQL believes that it has a hundred: it plans the statement
anew each time, or looks through a whole table for the one."""
MANY_ROWS: Final = 64
"""A statement with more is sent at once: it is worked on while the next one is made ready."""
FETCHED: Final = (64, 512, 1_024)
"""Rows that `each` asks for, first and then."""
LOCKS: Final = 256
"""Different locks of one kind: names share them by chance, so that a large transaction does not use up the server's."""
_ARRAYS: Final = {"int": "bigint[]", "text": "text[]", "bytes": "bytea[]"}
Values = Sequence[Any] | Mapping[str, Any]


@cache
def _marked(sql: str) -> str:
    return sql.replace("%", "%%").replace("?", "%s")


@cache
def _bulk_text(bulk: Bulk, few: int) -> str:
    """For so many rows; 0: for any number. Its parameters are the columns, as arrays."""
    arrays = [f"%(c{at})s::{_ARRAYS[column]}" for at, column in enumerate(bulk.columns.split())]
    rows = ", ".join(f"({', '.join(f'({array})[{row}]' for array in arrays)})" for row in range(1, few + 1))
    source = f"VALUES {rows}" if few else f"SELECT * FROM unnest({', '.join(arrays)})"
    return f"{bulk.head} {source} {bulk.tail}"


@cache
def _packers(bulk: Bulk) -> list[tuple[str, Any]]:
    return [(f"c{at}", PACK[column]) for at, column in enumerate(bulk.columns.split())]


class PostgresTransaction:
    """A connection to PostgreSQL, made again when it broke. A reader's is never begun: each statement stands for itself."""

    def __init__(self, dialect: Postgres, read_only: bool) -> None:
        self.dialect = dialect
        self._read_only = read_only
        self._connection: Connection | None = dialect.dial(read_only)
        self._pipeline: Any = None
        self._begun = self._lost = self._careful = self._spoiled = False
        self._sent = 0
        """Statements so far."""
        self._ticket: psycopg.Cursor[Row] | None = None
        self._cursors = count(1)

    def _live(self) -> Connection:
        if self._connection is None or self._connection.closed:
            if self._begun:
                raise psycopg.OperationalError("the connection was lost")
            self._connection = self.dialect.dial(self._read_only)
        return self._connection

    # -- statements

    def _execute(self, text: str, values: Values = ()) -> psycopg.Cursor[Row]:
        self._sent += 1
        with self._failing():
            return self._live().cursor(binary=True).execute(text, values or None)

    def _rows(self, text: str, values: Values) -> list[Row]:
        cursor = self._execute(text, values)
        with self._failing():
            return cursor.fetchall()

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """Without care, a failure is the whole transaction's."""
        try:
            yield
        except psycopg.Error as error:
            trouble = self.dialect.trouble(error)
            self._lost = self._lost or trouble is Trouble.GONE
            if self._begun and not self._careful and trouble is Trouble.DATA:
                self._spoiled = True
                raise Spoiled(str(error)) from error
            raise

    def run(self, sql: str, *values: Any) -> int:
        cursor = self._execute(_marked(sql), values)
        if self._pipeline is not None:
            with self._failing():
                self._pipeline[1].sync()
        return cursor.rowcount

    def tell(self, sql: str, *values: Any) -> None:
        self._execute(_marked(sql), values)

    def one(self, sql: str, *values: Any) -> Row | None:
        rows = self._rows(_marked(sql), values)
        return rows[0] if rows else None

    def all(self, sql: str, *values: Any) -> list[Row]:
        return self._rows(_marked(sql), values)

    def each(self, sql: str, *values: Any) -> Iterator[Row]:
        """In portions. A reader is in a transaction from here on, until its `rollback`."""
        if not self._begun and self._live().info.transaction_status == TransactionStatus.IDLE:
            self._execute("BEGIN")
        name = f"skep_{next(self._cursors)}"
        self._execute(f"DECLARE {name} NO SCROLL CURSOR FOR {_marked(sql)}", values)
        portions = iter(FETCHED)
        size = FETCHED[-1]
        while True:
            size = next(portions, size)
            rows = self._rows(f"FETCH {size} FROM {name}", ())
            yield from rows
            if len(rows) < size:
                self._execute(f"CLOSE {name}")
                return

    def many(self, bulk: Bulk, rows: Sequence[Row]) -> None:
        for start in range(0, len(rows), BULK_ROWS):
            self._execute(*self._bulk(bulk, rows[start : start + BULK_ROWS]))

    def back(self, bulk: Bulk, rows: Sequence[Row]) -> list[Row]:
        found: list[Row] = []
        for start in range(0, len(rows), BULK_ROWS):
            found += self._rows(*self._bulk(bulk, rows[start : start + BULK_ROWS]))
        return found

    def _bulk(self, bulk: Bulk, rows: Sequence[Row]) -> tuple[str, dict[str, Any]]:
        """The statement and its parameters."""
        if len(rows) > MANY_ROWS and self._pipeline is not None:
            self._pipeline[1].waits = False
        packed = {name: pack(column) for (name, pack), column in zip(_packers(bulk), zip(*rows, strict=True), strict=True)}
        return _bulk_text(bulk, len(rows) if len(rows) <= FEW_ROWS else 0), packed

    def lock(self, *names: str, shared: bool = False) -> None:
        kind, *rest = names
        how = "pg_advisory_xact_lock_shared" if shared else "pg_advisory_xact_lock"
        # The slots of a kind begin anywhere; that of two kinds fall together is possible, and only costs a wait.
        slot = crc32(f"skep {kind}".encode()) * LOCKS + crc32("\0".join(rest).encode("utf-8", "replace")) % LOCKS
        self._execute(f"SELECT {how}(%s)", (slot,))

    # -- savepoints

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        if self._careful:
            self._execute("SAVEPOINT step")
        sent = self._sent
        try:
            yield
        except Spoiled:
            raise
        except Exception as error:
            if self._careful:
                self._back_to_step()
            elif self._sent > sent:  # what it wrote before it raised must be undone
                self._spoiled = True
                raise Spoiled(str(error)) from error
            raise
        if self._careful:
            self._execute("RELEASE step")

    def guard(self) -> AbstractContextManager[None]:
        return self._guarded() if self._careful else nullcontext()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """What a call wrote before it refused stays, as with SQLite: where that matters it has a savepoint of its own."""
        self._execute("SAVEPOINT step")
        try:
            yield
        except SkepError:
            self._execute("RELEASE step")
            raise
        except Exception:
            self._back_to_step()
            raise
        self._execute("RELEASE step")

    def _back_to_step(self) -> None:
        if not self._lost:
            self._execute("ROLLBACK TO step")
            self._execute("RELEASE step")

    # -- its course

    def begin(self) -> None:
        connection = self._live()
        self._begun, self._lost = True, False
        self._careful, self._spoiled = self._spoiled, False
        if not self._careful:
            block = connection.pipeline()
            self._pipeline = (block, block.__enter__())
        self._execute("BEGIN")
        self._ticket = self._execute("SELECT pg_current_xact_id()::text")

    def begin_at_once(self) -> bool:
        return False  # it is never known how long the way takes

    def commit(self) -> None:
        try:
            cursor = self._execute("COMMIT")
            with self._failing():
                self._leave()
            if cursor.statusmessage != "COMMIT":
                raise psycopg.InternalError(f"the transaction ended with {cursor.statusmessage}")
        except psycopg.Error as error:
            if not self._lost:
                raise
            self._look_again(error)
        self._begun = False

    def _leave(self) -> None:
        """Out of the pipeline, when all answers are there."""
        if self._pipeline is not None:
            (block, _), self._pipeline = self._pipeline, None
            block.__exit__(None, None, None)

    def _look_again(self, error: psycopg.Error) -> None:
        """The connection was lost while it committed: whether that came to be is asked on another one. Raises if not."""
        result = self._ticket.pgresult if self._ticket is not None else None
        number = result.get_value(0, 0) if result is not None else None
        end = time.monotonic() + PATIENCE_S
        self._hang_up()
        while number is not None and time.monotonic() < end:
            try:
                connection = self._connection = self._connection or self.dialect.dial(self._read_only)
                found = connection.execute("SELECT pg_xact_status(%s::text::xid8)", (number.decode(),)).fetchone()
            except psycopg.Error as still:
                self._hang_up()
                if self.dialect.trouble(still) is not Trouble.GONE:
                    break  # another server took its place, which never heard of the transaction
                found = None
            match found:
                case ("committed",):
                    return
                case ("aborted",):
                    raise error
            time.sleep(PAUSE_S)
        raise RecordUnavailableError(
            f"record {self.dialect.shown}: PostgreSQL went away while this was being recorded: it may be recorded or not."
            " Look, or ask for the same again"
        ) from error

    def rollback(self) -> None:
        """Never raises: a connection of which nothing is known is given up."""
        connection, begun, self._begun = self._connection, self._begun, False
        try:
            if begun and not self._lost:
                self._leave_quietly()
            if connection is not None and not connection.closed and not self._lost:
                if connection.info.transaction_status != TransactionStatus.IDLE:
                    connection.execute("ROLLBACK")
                return
        except psycopg.Error as error:
            log.info("the record's connection is made anew, for it could not roll back: %s", error)
        self._hang_up()

    def _leave_quietly(self) -> None:
        """What failed in the pipeline was told before, or is told by the way in which the transaction ends."""
        try:
            self._leave()
        except psycopg.Error as error:
            log.debug("left the pipeline with %s", error)

    def _hang_up(self) -> None:
        connection, self._connection, self._pipeline, self._lost = self._connection, None, None, False
        if connection is not None:
            connection.close()

    def close(self) -> None:
        self._hang_up()
