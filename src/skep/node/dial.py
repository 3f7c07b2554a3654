"""How a node reaches its server. What the link needs of a connection is little, so that another transport can stand in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, Protocol

from websockets.asyncio.client import ClientConnection, unix_connect
from websockets.exceptions import WebSocketException

from skep.node.frames import MESSAGE

LINK_PATH: Final = "/api/distributed/link"
OPEN_S: Final = 5.0
"""For a server to answer a call."""


class ConnectionEnded(Exception):
    """There is no connection, or no longer; the text says why."""


class Connection(Protocol):
    """One connection to a server. All of it raises ConnectionEnded."""

    async def send(self, message: bytes) -> None:
        """Returns when the message is on its way; waits while the server does not read."""
        ...

    async def receive(self) -> bytes: ...

    async def close(self) -> None:
        """Raises nothing."""
        ...


Dial = Callable[[], Awaitable[Connection]]
"""Connects once. Raises ConnectionEnded."""


def dial_unix(path: Path) -> Dial:
    """The server that listens on this socket."""

    async def dial() -> Connection:
        try:
            opened = await unix_connect(
                str(path),
                f"ws://localhost{LINK_PATH}",
                compression=None,
                max_size=MESSAGE,
                ping_interval=None,  # beats do this, and more
                open_timeout=OPEN_S,
                close_timeout=1.0,
                user_agent_header=None,
            )
        except (OSError, TimeoutError, WebSocketException) as error:
            raise ConnectionEnded(str(error)) from None
        return _WebSocket(opened)

    return dial


class _WebSocket:
    def __init__(self, opened: ClientConnection) -> None:
        self._opened = opened

    async def send(self, message: bytes) -> None:
        try:
            await self._opened.send(message)
        except (OSError, WebSocketException) as error:
            raise ConnectionEnded(str(error)) from None

    async def receive(self) -> bytes:
        try:
            return await self._opened.recv(decode=False)
        except (OSError, WebSocketException) as error:
            raise ConnectionEnded(str(error)) from None

    async def close(self) -> None:
        try:
            await self._opened.close()
        except (OSError, WebSocketException):
            pass  # it has ended all the same
