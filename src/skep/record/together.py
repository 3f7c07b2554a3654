"""Small statements that go to PostgreSQL in one packet, when an answer is wanted.

psycopg sends each statement of a pipeline at once. That is right for large ones, on which PostgreSQL works while the next is
made ready. But a small transaction of seven statements is seven packets so, and seven times a server wakes up for one. What is
built upon here is psycopg's own: should that change, the tests of the record show it.
"""

from __future__ import annotations

from typing import Any, Final

import psycopg
from psycopg.abc import PQGen
from psycopg.generators import send

MOST: Final = 64
"""Statements that are kept back."""


class Together(psycopg.Pipeline):
    """A pipeline that keeps statements back while `waits`."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        super().__init__(connection)
        self.waits = True
        self._ends = False

    def _enqueue_sync(self) -> None:
        super()._enqueue_sync()
        self._ends = True

    def _communicate_gen(self) -> PQGen[None]:
        """After each statement, and at the end."""
        if not self.waits or len(self.command_queue) > MOST:
            yield from super()._communicate_gen()
        elif self._ends:
            self._ends = False
            yield from self._send_gen()

    def _fetch_gen(self, *, flush: bool) -> PQGen[None]:
        """When an answer is wanted."""
        if self.command_queue:
            yield from self._send_gen()
        yield from super()._fetch_gen(flush=flush)

    def _send_gen(self) -> PQGen[None]:
        while self.command_queue:
            self.command_queue.popleft()()
        yield from send(self.pgconn)
