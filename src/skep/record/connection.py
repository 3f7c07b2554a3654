"""Connecting, reading, and errors as callers meet them: what the writer and the readers share."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Final, TypeVar

from skep.errors import SkepError
from skep.record.dialect import Dialect, Spoiled, Transaction, Trouble

T = TypeVar("T")


def told(dialect: Dialect, error: Exception) -> SkepError:
    """The error as callers may meet it: one of Skep's, which keeps the cause."""
    if isinstance(error, SkepError):
        return error
    refusal = dialect.explain(error)
    refusal.__cause__ = error
    return refusal


PATIENCE_S: Final = 2.0
"""How long a database that went is waited for: one that is started anew is back by then."""
PAUSE_S: Final = 0.05
ASIDE_S: Final = 0.02


class Patience:
    """Whether what failed is worth another try, for a limited time or number. It waits where that helps."""

    def __init__(self, dialect: Dialect, tries: int) -> None:
        self._dialect = dialect
        self._tries = tries
        self._end = 0.0

    def again(self, error: Exception) -> bool:
        match self._dialect.trouble(error):
            case Trouble.BUSY:
                self._tries -= 1
                if not isinstance(error, Spoiled):
                    # The one that was in the way goes first; or both would meet again, as they did.
                    time.sleep(random.uniform(0.5, 1.5) * ASIDE_S)
                return self._tries > 0
            case Trouble.GONE:
                now = time.monotonic()
                self._end = self._end or now + PATIENCE_S
                if now >= self._end:
                    return False
                time.sleep(PAUSE_S)
                return True
        return False


def connect(dialect: Dialect, *, read_only: bool = False) -> Transaction:
    patience = Patience(dialect, 100)
    while True:
        try:
            return dialect.connect(read_only=read_only)
        except Exception as error:
            # Two processes that create the same file at once: switching to WAL does not wait for the lock by itself.
            if not patience.again(error):
                raise told(dialect, error) from error


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
        patience = Patience(self._dialect, 1)
        while True:
            try:
                return call(tx)
            except SkepError:
                raise
            except Exception as error:
                if not patience.again(error):
                    raise told(self._dialect, error) from error
            finally:
                tx.rollback()

    def close(self) -> None:
        """Disconnects; the threads that read have ended."""
        with self._door:
            while self._all:
                self._all.pop().close()
