"""Connecting, reading, and errors as callers meet them: what the writer and the readers share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from skep.errors import SkepError
from skep.record.dialect import Dialect, Transaction, Trouble

T = TypeVar("T")


def told(dialect: Dialect, error: Exception) -> SkepError:
    """The error as callers may meet it: one of Skep's, which keeps the cause."""
    if isinstance(error, SkepError):
        return error
    refusal = dialect.explain(error)
    refusal.__cause__ = error
    return refusal


def connect(dialect: Dialect, *, read_only: bool = False) -> Transaction:
    tries = 0
    while True:
        try:
            return dialect.connect(read_only=read_only)
        except Exception as error:
            tries += 1
            # Two processes that create the same file at once: switching to WAL does not wait for the lock by itself.
            if dialect.trouble(error) is not Trouble.BUSY or tries >= 100:
                raise told(dialect, error) from error
            time.sleep(0.02)


class Readers:
    """Connections that only read, one per thread that asks."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._local = threading.local()
        self._all: list[Transaction] = []
        self._door = threading.Lock()

    def read(self, call: Callable[[Transaction], T]) -> T:
        """Runs a call that only reads, on this thread. It sees everything that is committed."""
        tx: Transaction | None = getattr(self._local, "tx", None)
        if tx is None:
            tx = self._local.tx = connect(self._dialect, read_only=True)
            with self._door:
                self._all.append(tx)
        try:
            return call(tx)
        except SkepError:
            raise
        except Exception as error:
            raise told(self._dialect, error) from error

    def close(self) -> None:
        """Disconnects; the threads that read have ended."""
        with self._door:
            while self._all:
                self._all.pop().close()
