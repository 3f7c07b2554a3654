"""The one owner of an engine that lives in a server's memory and is recorded in PostgreSQL.

A connection of its own holds an advisory lock for each engine: it is free as soon as the process is gone, however it went.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import psycopg

from skep.errors import DataInUseError

if TYPE_CHECKING:
    from skep.record.postgres import Connection

_KEY: Final = "hashtextextended('skep ' || current_schema() || ' ' || %s::text, 0)"
_HOLDER: Final = (
    "SELECT host(a.client_addr), to_char(a.backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') FROM pg_locks l"
    " JOIN pg_stat_activity a ON a.pid = l.pid WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1"
    f" AND ((l.classid::bigint << 32) | l.objid::bigint) = {_KEY}"
)


class Owner:
    """Asked from any thread."""

    def __init__(self, dial: Callable[[], Connection], shown: str) -> None:
        self._dial = dial
        self._shown = shown
        self._connection: Connection | None = None
        self._owned: set[str] = set()
        self._door = threading.Lock()

    def own(self, engine: str) -> None:
        """Also an engine that it owns already: the connection may have been lost since, and its locks with it.

        Blocks; raises DataInUseError, psycopg.Error.
        """
        with self._door:
            if engine in self._owned and self._still_there():
                return
            if self._connection is None:
                self._connection = self._dial()
            found = self._connection.execute(f"SELECT pg_try_advisory_lock({_KEY})", (engine,)).fetchone()
            if found != (True,):
                holder = self._connection.execute(_HOLDER, (engine,)).fetchone()
                where = f" at {holder[0] or 'its own machine'}, connected since {holder[1]} UTC" if holder else ""
                raise DataInUseError(
                    f"engine {engine} of record {self._shown} is in use by another server{where}; stop that one, or name"
                    " another engine"
                )
            self._owned.add(engine)

    def _still_there(self) -> bool:
        try:
            if self._connection is not None:
                self._connection.execute("SELECT 1")
                return True
        except psycopg.Error:
            self._leave()
        return False

    def _leave(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None
        self._owned.clear()

    def close(self) -> None:
        """Everything is free; harmless when repeated."""
        with self._door:
            self._leave()
