"""`skep up`: serves until it is told to stop, by signals.

first SIGINT or SIGTERM    drain: nothing more is started, what runs may end; then nodes and server end
second                     stop: what runs is ended, and begins again at the next start
third                      kill
SIGHUP                     the server ends at once and leaves its nodes at work, for one that is about to be started again
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import psutil
import uvloop

from skep.errors import RefusedError
from skep.model.node import NodeInfo
from skep.node.detached import listed
from skep.process import tune
from skep.record.sql import SqlRecord
from skep.server.network import Network
from skep.wiring.data import RECORD_FILE
from skep.wiring.engines import EngineSource
from skep.wiring.server import Server

SCHEMES: Final = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")
STOP_S: Final = 10.0
"""How long nodes may take to end once they are told to."""


def serve(
    home: Path,
    *,
    nodes: Sequence[NodeInfo],
    keep_ms: int,
    quiet: bool,
    engine: str = "",
    record: str = "",
    network: Network | None = None,
) -> int:
    """Answers the exit code. `engine`, `record`: URLs; empty: here. Raises RefusedError, RecordError, what an engine raises."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("skep")
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    server = Server(home, nodes, keep_ms=keep_ms, source=source_of(engine), record=record_of(record, home), network=network)
    tune()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_Up(server, quiet).run())


def source_of(url: str) -> EngineSource | None:
    """Of the engine at this URL; None for none. Raises RefusedError."""
    if not url:
        return None
    if url.partition(":")[0] not in SCHEMES:
        raise RefusedError(f"engine: expected a URL that begins with one of {', '.join(f'{one}:' for one in SCHEMES)}")
    from skep.wiring.shared import RedisSource  # noqa: PLC0415  nothing of Redis is loaded where there is none

    return RedisSource(url)


def record_of(url: str, home: Path) -> SqlRecord:
    """The record at this URL, else the one of the data directory. Raises RecordError."""
    return SqlRecord(url or home / RECORD_FILE)


class _Up:
    """One server and what it was told."""

    def __init__(self, server: Server, quiet: bool) -> None:
        self._server = server
        self._quiet = quiet
        self._presses = 0
        self._leave = False
        self._stirred = asyncio.Event()

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._on_signal, number)
        await self._server.open()
        try:
            took_s = time.time() - psutil.Process().create_time()
            if self._server.network is not None:
                self._say(f"listens on {self._server.network.url}")
            self._say(f"up on {self._server.home} after {took_s:.2f} s; process {os.getpid()}. Ctrl-C drains it")
            await self._stirred.wait()
            if not self._leave:
                await self._end_nodes()
        finally:
            await self._server.close()
        self._say("the server has ended" + (" and left its nodes at work" if self._leave else ""))
        return 0

    def _on_signal(self, number: int) -> None:
        if number == signal.SIGHUP:
            self._leave = True
        else:
            self._presses += 1
        self._stirred.set()

    async def _end_nodes(self) -> None:
        """Each further signal shortens it."""
        server = self._server
        running = sum(node.running for node in await server.hub.nodes.list())
        self._say(f"draining: {running} running, nothing more is started; once more stops what runs" if running else "ending")
        await server.hold()
        self._tell(signal.SIGTERM)
        await self._until(lambda: not listed(server.home), 2, None if running else STOP_S)
        if self._presses == 2:
            self._say("stopping: what runs is ended, and begins again at the next start; once more kills it")
            self._tell(signal.SIGTERM)
            await self._until(lambda: not listed(server.home), 3, STOP_S)
        if left := listed(server.home):
            self._say(f"killing {', '.join(node.id for node in left)}")
            self._tell(signal.SIGKILL)

    def _tell(self, number: signal.Signals) -> None:
        for node in listed(self._server.home):
            try:
                os.kill(node.pid, number)
            except ProcessLookupError:
                pass  # it has just ended

    async def _until(self, is_over: Callable[[], bool], presses: int, limit_s: float | None) -> None:
        """Waits until it is over, or so many signals came, or so long."""
        until = None if limit_s is None else time.monotonic() + limit_s
        while not is_over() and self._presses < presses and not (until and time.monotonic() > until):
            self._stirred.clear()
            try:
                async with asyncio.timeout(0.05):
                    await self._stirred.wait()
            except TimeoutError:
                pass

    def _say(self, text: str) -> None:
        if not self._quiet:
            print(f"skep: {text}", file=sys.stderr, flush=True)
