"""What the functions of this package need of a database, and what differs between databases.

Every statement elsewhere in this package is written with `?` and valid on SQLite 3.40 and PostgreSQL 15. The two dialects are
`sqlite` and `postgres`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from skep.errors import RecordError

Row = tuple[Any, ...]


class Trouble(Enum):
    """Whose fault an error is, and so what to do about it."""

    DATA = "data"
    """Of the one call: its neighbours go on."""
    BUSY = "busy"
    """Another process is in the way: the whole transaction is tried again."""
    GONE = "gone"
    """The database does not answer, and nothing of the transaction was kept: it is tried again on a new connection."""
    STORE = "store"
    """Of the database or its disk: every call of the transaction fails."""


class Spoiled(Exception):
    """A statement failed in a transaction without savepoints: all of it is undone, and tried again with them.

    Raised by a `Transaction`, met by the writer; nothing between them may take it for an error of its own.
    """


class Concern(NamedTuple):
    """A setting of the database that does not do."""

    what: str
    """Its name."""
    found: str
    advice: str
    wrong: bool
    """What was acknowledged may be lost; else it could only be better."""


class Bulk(NamedTuple):
    """A statement over many rows: `head`, the rows in the place of a SELECT, `tail`."""

    head: str
    columns: str
    """The type of each: `text`, `int` or `bytes`."""
    tail: str = ""


class Transaction(Protocol):
    """One connection, as the functions of this package use it. Begun and ended by its owner."""

    @property
    def dialect(self) -> Dialect: ...

    def run(self, sql: str, *values: Any) -> int:
        """Executes a statement; answers how many rows it changed."""
        ...

    def tell(self, sql: str, *values: Any) -> None:
        """Executes a statement of which nobody wants to hear: what is wrong with it may come up later."""
        ...

    def one(self, sql: str, *values: Any) -> Row | None:
        """The first row."""
        ...

    def all(self, sql: str, *values: Any) -> list[Row]: ...

    def each(self, sql: str, *values: Any) -> Iterator[Row]:
        """Rows as they are read: for large ones of which the caller may not want all."""
        ...

    def many(self, bulk: Bulk, rows: Sequence[Row]) -> None:
        """Executes a statement over rows, as `tell` does."""
        ...

    def back(self, bulk: Bulk, rows: Sequence[Row]) -> list[Row]:
        """The same with a statement that returns rows."""
        ...

    def savepoint(self) -> AbstractContextManager[None]:
        """All or nothing of what the block writes; for what can fail half-way."""
        ...

    def guard(self) -> AbstractContextManager[None]:
        """Around one call among others, so that a failing statement of it harms none of them."""
        ...

    def lock(self, *names: str, shared: bool = False) -> None:
        """Until the commit nobody else is past here under one of these names, but for others who share them.

        For what is read and then written, where several servers may do so at the same time.
        """
        ...

    def begin(self) -> None: ...

    def begin_at_once(self) -> bool:
        """Begins if that takes no time: no lock to wait for, no way to go."""
        ...

    def commit(self) -> None: ...

    def rollback(self) -> None: ...

    def close(self) -> None: ...


class Dialect(Protocol):
    """One database."""

    words: Mapping[str, str]
    """Column types and table endings for `schema`."""
    shared: bool
    """True when a second connection sees the same data."""
    far: bool
    """True when it is reached over a network: nothing is asked of it on an event loop's own thread, and artifacts are rows."""

    @property
    def shown(self) -> str:
        """Where it is, for people; without secrets."""
        ...

    def connect(self, *, read_only: bool = False) -> Transaction: ...

    def trouble(self, error: BaseException) -> Trouble: ...

    def explain(self, error: BaseException) -> RecordError:
        """The error for people: what happened and what to do."""
        ...

    def tables(self, tx: Transaction) -> set[str]: ...

    def concerns(self, tx: Transaction) -> list[Concern]:
        """Settings that do not do, the worst first."""
        ...

    def size(self, tx: Transaction) -> int:
        """Bytes that the database takes."""
        ...

    def own(self, engine: str) -> None:
        """Makes this process the engine's one owner, until `disown` or its end. Blocks; raises DataInUseError."""
        ...

    def disown(self) -> None: ...

    def copy(self, target: Path) -> None:
        """Writes what is committed now to a new file, while others go on writing. Blocks; raises RecordError."""
        ...
