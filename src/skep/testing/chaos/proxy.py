"""A line between two programs that can be made slow, silent or cut: one TCP proxy, in a thread that all of them share."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

T = TypeVar("T")

BLOCK: Final = 64 * 1024
CALL_S: Final = 10.0
CONNECT_S: Final = 5.0

OPEN: Final = "open"
SLOW: Final = "slow"
SILENT: Final = "silent"
"""Connections stay and nothing comes through, in either direction; it comes when the line is open again."""
CUT: Final = "cut"
"""Connections are reset and new ones too."""


class Lines:
    """The thread in which lines are served."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="lines", daemon=True)
        self._thread.start()

    def call(self, what: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(CALL_S)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CALL_S)
        if not self._thread.is_alive():
            self._loop.close()


class Line:
    """From a port of its own to another one, both of this machine."""

    def __init__(self, lines: Lines, target: int, host: str = "127.0.0.1", port: int = 0) -> None:
        """`host`, `port`: where it listens; 0 takes a free one."""
        self._lines = lines
        self._target = target
        self._mode = OPEN
        self._delay_s = 0.0
        self._flows = asyncio.Event()
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server = lines.call(self._listen(host, port))
        self.port: int = self._server.sockets[0].getsockname()[1]

    async def _listen(self, host: str, port: int) -> asyncio.Server:
        self._flows.set()
        return await asyncio.start_server(self._serve, host, port)

    def set(self, mode: str, delay_s: float = 0.0) -> None:
        """`delay_s`: for SLOW, what each block waits, in each direction."""
        self._lines.call(self._set(mode, delay_s))

    async def _set(self, mode: str, delay_s: float) -> None:
        self._mode, self._delay_s = mode, delay_s
        self._flows.clear() if mode == SILENT else self._flows.set()
        if mode == CUT:
            self._reset()

    def _reset(self) -> None:
        for writer in tuple(self._open):
            writer.transport.abort()

    def close(self) -> None:
        self._lines.call(self._close())

    async def _close(self) -> None:
        self._server.close()
        self._flows.set()
        self._mode = CUT
        self._reset()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CONNECT_S)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        me = asyncio.current_task()
        assert me is not None
        self._tasks.add(me)
        self._open.add(writer)
        try:
            await self._join(reader, writer)
        except (OSError, TimeoutError):
            pass  # one of the two ends is gone
        finally:
            self._tasks.discard(me)
            self._open.discard(writer)
            writer.transport.abort()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._mode == CUT:
            return
        await self._flows.wait()
        there_reader, there = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", self._target), CONNECT_S)
        self._open.add(there)
        try:
            both = [asyncio.ensure_future(self._pump(reader, there)), asyncio.ensure_future(self._pump(there_reader, writer))]
            _, left = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            for task in left:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)
        finally:
            self._open.discard(there)
            there.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(BLOCK):
            if self._mode == SLOW:
                await asyncio.sleep(self._delay_s)
            await self._flows.wait()
            if self._mode == CUT:
                return
            writer.write(data)
            await writer.drain()
