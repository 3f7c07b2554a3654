"""Lists that wait for the writer and go to it as one: many small requests cost as little as one large."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, TypeVar

from skep.record.dialect import Transaction

T = TypeVar("T")
A = TypeVar("A")

MOST: Final = 1_000
"""Items in one."""


class Batch(Generic[T, A]):
    """A call of the writer that takes more until the writer begins with it. Answers an item each."""

    def __init__(self, call: Callable[[Transaction, Sequence[T]], list[A]], loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.answers: asyncio.Future[list[A]]
        """Set by who hands it to the writer."""
        self._call = call
        self._items: list[T] = []
        self._open = True
        self._door = threading.Lock()

    def add(self, items: Sequence[T]) -> int | None:
        """Where in the answers theirs begin; None: it takes no more."""
        with self._door:
            if not self._open or len(self._items) >= MOST:
                return None
            place = len(self._items)
            self._items += items
            return place

    def __call__(self, tx: Transaction) -> Any:
        with self._door:
            self._open = False
        return self._call(tx, self._items)
