"""HTTP whose clients have to make up their minds: who connects and does not finish a request's head in time is cut off."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_S: Final = 10.0
"""For the first byte of the first request, and for the head of each."""
MOST_HEAD: Final = 64 * 1024
"""Bytes of a head."""


class PatientProtocol(HttpToolsProtocol):
    """One connection. Between two requests the keep-alive of uvicorn watches."""

    head_s = HEAD_S
    _late: asyncio.TimerHandle | None = None
    _size = 0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._begin()

    def data_received(self, data: bytes) -> None:
        if self._late is None and (self.cycle is None or self.cycle.response_complete):
            self._begin()
        super().data_received(data)
        if self._late is not None:
            self._size += len(data)
            if self._size > MOST_HEAD:
                self.transport.close()

    def on_headers_complete(self) -> None:
        self._end()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()
        super().connection_lost(exc)

    def _begin(self) -> None:
        self._size = 0
        self._late = asyncio.get_running_loop().call_later(self.head_s, self.transport.close)

    def _end(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
