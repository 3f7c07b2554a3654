"""How calls reach the database: a writer thread, a few reader threads, or the thread that calls.

Writes go to the writer thread, reads to a few reader threads with connections of their own. In memory there is one connection,
so reads take the writer's way too; inline, everything runs on the thread that calls and no method ever suspends.
"""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Concatenate, Final, ParamSpec, TypeVar

from skep.errors import RecordError
from skep.record import artifacts, migrations
from skep.record.check import check_record
from skep.record.connection import Patience, Readers, told
from skep.record.dialect import Transaction
from skep.record.places import dialect_of
from skep.record.sqlite import Sqlite, damaged
from skep.record.writer import Writer

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

READERS: Final = 2
"""Reader threads: a long listing does not hold up a short question."""


class Doors:
    """A record in a SQLite file, or in the PostgreSQL database of a URL; None: in memory, gone at close.

    `folder`: of artifacts; by default `artifacts` beside the file. `inline`: no threads at all, for tests on virtual time.
    Raises RecordError for a URL that cannot be read, or for want of the extra `skep[postgres]`.
    """

    def __init__(self, where: Path | str | None = None, *, folder: Path | None = None, inline: bool = False) -> None:
        self._dialect = dialect_of(where)
        path = self._path = self._dialect.path if isinstance(self._dialect, Sqlite) else None
        self._folder = folder or (path.parent / "artifacts" if path else None)
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self.files = artifacts.Files(self._folder or Path(os.devnull))
        """Where artifacts are, unless they are rows."""
        self._inline = inline
        self.writer = Writer(self._dialect, inline=inline)
        """Its `calls`, `commits` and `commit_ms` are counted since the start."""
        self._readers: Readers | None = None
        self._threads: ThreadPoolExecutor | None = None

    @property
    def where(self) -> str:
        """The file, or the URL without a password."""
        return str(self._path) if self._path is not None else str(getattr(self._dialect, "shown", "memory"))

    def call(self, fn: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """The blocking door, for threads without an event loop: `call(kept.put_state, …).result()`. Runs a function of this
        package in the writer's next transaction; the future is done after the commit, or carries a SkepError."""
        return self.writer.call(lambda tx: fn(tx, *args, **kwargs))

    async def _write(self, fn: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.writer.ask(lambda tx: fn(tx, *args, **kwargs))

    async def _write_small(self, fn: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.writer.ask(lambda tx: fn(tx, *args, **kwargs), small=True)

    async def _read(self, fn: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._readers is None:
            return await self._write(fn, *args, **kwargs)
        return await self._aside(self._readers.read, lambda tx: fn(tx, *args, **kwargs))

    async def _read_small(self, fn: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """A look at a few rows: on the thread that asks, if it has nothing else to do. A thread of its own costs more than the
        look (0.1 to 0.3 ms against 0.03)."""
        if self._readers is None or self._dialect.far or not self.writer.idle(asyncio.get_running_loop()):
            return await self._read(fn, *args, **kwargs)
        return self._readers.read(lambda tx: fn(tx, *args, **kwargs))

    async def _aside(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs what blocks on a thread, unless inline."""
        if self._inline:
            return fn(*args, **kwargs)
        if self._threads is None:
            raise RecordError("the record is not open; open it first, and make no calls after close")
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(fn, *args, **kwargs))

    def _own(self, engine: str) -> None:
        patience = Patience(self._dialect, 1)
        while True:
            try:
                return self._dialect.own(engine)
            except Exception as error:
                if not patience.again(error):
                    raise told(self._dialect, error) from error

    async def open(self) -> None:
        if self._threads is None and not self._inline:
            self._threads = ThreadPoolExecutor(READERS, "skep-reader")
        try:
            await self._aside(self.writer.open)
            await self._write(migrations.ensure)
        except RecordError as error:
            told = await self._aside(self._with_what_is_left, error)
            await self.close()
            raise told from error.__cause__
        except BaseException:
            await self.close()
            raise
        if self._readers is None and self._dialect.shared and not self._inline:
            self._readers = Readers(self._dialect)
        for concern in await self._read(self._dialect.concerns):
            log.warning("the record's database: %s; %s", concern.found, concern.advice)
        if self._folder is None and self._temporary is None and not self._dialect.far:
            self._temporary = tempfile.TemporaryDirectory(prefix="skep-artifacts-")
            self.files = artifacts.Files(Path(self._temporary.name))

    def _with_what_is_left(self, error: RecordError) -> RecordError:
        """Of a file that is damaged, also what of it can be read."""
        if self._path is None or not damaged(error.__cause__) or not self._path.is_file():
            return error
        return RecordError(f"{error}. What is left of it: {check_record(self._path).summary()}; `skep doctor` says more")

    def give_up(self) -> None:
        """Every write fails at once from now on, so that nothing which is to end waits for a disk; only `close` may follow."""
        self.writer.give_up()

    async def close(self) -> None:
        """Finishes what is queued. Harmless when repeated, and after an `open` that failed."""
        if self._inline or self._threads is not None:
            await self._aside(self.writer.close)
        if self._threads is not None:
            self._threads.shutdown()
            self._threads = None
        self._dialect.disown()
        if self._readers is not None:
            self._readers.close()
            self._readers = None
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = None
