"""The line to Redis on which all commands of a process go, one behind the other: an answer belongs to the oldest that waits.

The client library connects (address, login, encryption, sentinels, which process it is) and hands the connection over. From
there on each command is packed, written and answered here: that takes a third of the time that the library takes for it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Final

import hiredis
from redis._parsers import BaseParser
from redis.exceptions import ConnectionError as Broken
from redis.exceptions import ReadOnlyError
from redis.exceptions import TimeoutError as Overdue

CLOSED: Final = "the connection is closed"


class Line(asyncio.Protocol):
    """Takes over the transport of a connection that the client library made."""

    def __init__(self, connection: Any, answer_s: float) -> None:
        """`connection`: the library's, connected. `answer_s`: how long an answer may take; then the line is given up, and all
        that wait on it fail."""
        self._answer_s = answer_s
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(replyError=BaseParser.parse_error)
        self._waiting: deque[tuple[asyncio.Future[Any], float]] = deque()
        """Who waits, and until when."""
        self._watch: asyncio.TimerHandle | None = None
        self.closed = False
        self._transport: Any = connection._writer.transport
        self._transport.set_protocol(self)
        self._streams = connection._reader, connection._writer  # they would close it, were they forgotten; and so would
        connection._reader = connection._writer = None  # the library's connection, if it had them still
        if self._transport.is_closing():
            self._give_up(Broken(CLOSED))

    def ask(self, parts: tuple[Any, ...]) -> asyncio.Future[Any]:
        """The answer to be; an exception where Redis refuses, or the line ends."""
        answer: asyncio.Future[Any] = self._loop.create_future()
        if self.closed:
            answer.set_exception(Broken(CLOSED))
            return answer
        self._transport.write(hiredis.pack_command(parts))
        self._waiting.append((answer, self._loop.time() + self._answer_s))
        if self._watch is None:
            self._watch = self._loop.call_later(self._answer_s, self._look)
        return answer

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        try:
            reader.feed(data)
            while (said := reader.gets()) is not False:
                answer, _ = self._waiting.popleft()
                if answer.done():
                    continue  # nobody waits any more
                if isinstance(said, Exception):
                    answer.set_exception(said)
                    if isinstance(said, ReadOnlyError):
                        self._give_up(said)  # it is a replica by now: the next line leads to the master
                else:
                    answer.set_result(said)
        except (hiredis.HiredisError, IndexError) as error:
            self._give_up(Broken(f"Redis cannot be understood: {error}"))

    def connection_lost(self, error: Exception | None) -> None:
        self._give_up(error or Broken("Redis closed the connection"))

    def _look(self) -> None:
        """Whether an answer is overdue."""
        self._watch = None
        if self._waiting:
            left_s = self._waiting[0][1] - self._loop.time()
            if left_s <= 0:
                self._give_up(Overdue(f"no answer for {self._answer_s:g} s"))
            else:
                self._watch = self._loop.call_later(left_s, self._look)

    def close(self) -> None:
        """Harmless when repeated."""
        self._give_up(Broken(CLOSED))

    def _give_up(self, error: Exception) -> None:
        self.closed = True
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        self._transport.abort()
        while self._waiting:
            answer, _ = self._waiting.popleft()
            if not answer.done():
                answer.set_exception(error)
