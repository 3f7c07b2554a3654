"""Serves the application on a Unix socket, on the loop that runs already; signals are for whoever calls."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import uvicorn
from starlette.applications import Starlette

from skep.errors import RecordError

BACKLOG: Final = 256
STOP_S: Final = 2.0
"""How long requests that are being answered may take once the server stops."""


class Listener:
    """One socket."""

    def __init__(self, app: Starlette, path: Path, max_message: int) -> None:
        """`max_message`: bytes of one WebSocket message."""
        self._path = path
        self._socket = _bind(path)
        config = uvicorn.Config(
            app,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            ws="websockets-sansio",
            ws_max_size=max_message,
            ws_ping_interval=None,
            ws_per_message_deflate=False,
            timeout_graceful_shutdown=round(STOP_S),
            timeout_keep_alive=600,
        )
        self._server = _Server(config)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns when it answers."""
        self._task = asyncio.get_running_loop().create_task(self._server.serve([self._socket]), name="skep-http")
        while not self._server.started:
            if self._task.done():
                await self._task
                raise RecordError(f"the server cannot listen on {self._path}")
            await asyncio.sleep(0.001)

    async def stop(self) -> None:
        """Answers nothing new, lets what is being answered end for a moment, and removes the socket."""
        self._path.unlink(missing_ok=True)
        if self._task is not None:
            self._server.should_exit = True
            await asyncio.wait([self._task], timeout=STOP_S + 1)
            if not self._task.done():
                self._server.force_exit = True
                self._task.cancel()
                await asyncio.wait([self._task])
            self._task = None
        self._socket.close()


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
