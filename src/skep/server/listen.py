"""Serves the application on a socket, on the loop that runs already; signals are for whoever calls."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import ssl
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import uvicorn
from starlette.types import ASGIApp

from skep.errors import RecordError, RefusedError
from skep.server.patience import PatientProtocol

BACKLOG: Final = 256
STOP_S: Final = 2.0
"""How long requests that are being answered may take once the server stops."""


class Address(NamedTuple):
    """Where on the network."""

    host: str
    port: int
    """0: any that is free."""

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Listener:
    """One socket."""

    def __init__(self, app: ASGIApp, at: Path | Address, max_message: int, tls: ssl.SSLContext | None = None) -> None:
        """`at`: the path of a Unix socket, or an address. `max_message`: bytes of one WebSocket message. Raises RecordError,
        RefusedError."""
        self._at = at
        self._socket = _bind(at) if isinstance(at, Path) else _bind_address(at)
        config = uvicorn.Config(
            app,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            http=PatientProtocol,
            ws="websockets-sansio",
            ws_max_size=max_message,
            ws_ping_interval=None,
            ws_per_message_deflate=False,
            timeout_graceful_shutdown=round(STOP_S),
            timeout_keep_alive=600,
            ssl_context_factory=None if tls is None else lambda config, default: tls,
        )
        self._server = _Server(config)
        self._task: asyncio.Task[None] | None = None

    @property
    def address(self) -> Address:
        """The address of a listener on the network, with the port that it has."""
        return Address(*self._socket.getsockname()[:2])

    async def start(self) -> None:
        """Returns when it answers."""
        self._task = asyncio.get_running_loop().create_task(self._server.serve([self._socket]), name="skep-http")
        while not self._server.started:
            if self._task.done():
                await self._task
                raise RecordError(f"the server cannot listen on {self._at}")
            await asyncio.sleep(0.001)

    async def stop(self) -> None:
        """Answers nothing new, lets what is being answered end for a moment, and removes the socket."""
        if isinstance(self._at, Path):
            self._at.unlink(missing_ok=True)
        if self._task is not None:
            self._server.should_exit = True
            await asyncio.wait([self._task], timeout=STOP_S + 1)
            if not self._task.done():
                self._server.force_exit = True
                self._task.cancel()
                await asyncio.wait([self._task])
            self._task = None
        self._socket.close()


def _is_news(record: logging.LogRecord) -> bool:
    """Uvicorn takes it for a fault when a WebSocket is refused with an answer."""
    return record.msg != "ASGI callable returned without completing handshake."


logging.getLogger("uvicorn.error").addFilter(_is_news)


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _bind(path: Path) -> socket.socket:
    """Whoever owns the data directory owns the socket: one that is left behind is removed. Raises RecordError."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o077)
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        if path.parent.stat().st_uid != os.getuid():
            raise RecordError(f"{path.parent} belongs to somebody else; choose another data directory with a shorter path")
        if path.exists() and not stat.S_ISSOCK(path.stat().st_mode):
            raise RecordError(f"{path} is no socket; move it away")
        path.unlink(missing_ok=True)
        made.bind(str(path))
        made.listen(BACKLOG)
        made.setblocking(False)
    except OSError as error:
        made.close()
        raise RecordError(f"the server cannot listen on {path}: {error.strerror or error}") from None
    except RecordError:
        made.close()
        raise
    finally:
        os.umask(mask)
    return made


def _bind_address(at: Address) -> socket.socket:
    """Raises RefusedError."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            at.host, at.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        made = socket.socket(family, kind, protocol)
    except OSError as error:
        raise RefusedError(f"{at} is no address of this machine: {error.strerror or error}") from None
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(place)
        made.listen(BACKLOG)
        made.setblocking(False)
    except OSError as error:
        made.close()
        advice = "; choose another port, or 0 for any" if error.errno == errno.EADDRINUSE else ""
        raise RefusedError(f"the server cannot listen on {at}: {error.strerror or error}{advice}") from None
    return made
