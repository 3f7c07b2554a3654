"""How a node reaches its server. What the link needs of a connection is little, so that another transport can stand in."""

from __future__ import annotations

import random
import ssl
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
from websockets.asyncio.client import ClientConnection, connect, unix_connect
from websockets.exceptions import InvalidStatus, WebSocketException

from skep.client import Refusal
from skep.client.reach import authorization, connect_trouble, split_url, tls_client
from skep.errors import RefusedError
from skep.node.frames import MESSAGE

LINK_PATH: Final = "/api/distributed/link"
OPEN_S: Final = 5.0
"""For a server to answer a call."""


class ConnectionEnded(Exception):
    """There is no connection, or no longer; the text says why."""


class NotAdmitted(ConnectionEnded):
    """The server does not let this node in, and need not be asked again."""


class Connection(Protocol):
    """One connection to a server. All of it raises ConnectionEnded."""

    place: str
    """Where that is, for people."""

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
            opened = await unix_connect(str(path), f"ws://localhost{LINK_PATH}", **_SETTINGS)
        except (OSError, TimeoutError, WebSocketException) as error:
            raise ConnectionEnded(str(error)) from None
        return _WebSocket(opened, str(path))

    return dial


def dial_url(url: str, token: str | None = None, tls: ssl.SSLContext | None = None) -> Dial:
    """The server at a URL, through the proxy that the environment names, if any. Raises RefusedError for what is no URL."""
    secure, host, port, prefix = split_url(url)
    headers = authorization(token)
    name = f"[{host}]" if ":" in host else host
    target = f"{'wss' if secure else 'ws'}://{name}:{port}{prefix}{LINK_PATH}"
    given: dict[str, Any] = {**_SETTINGS, "additional_headers": headers}
    if secure:
        given["ssl"] = tls or tls_client(None)

    async def dial() -> Connection:
        try:
            opened = await connect(target, **given)
        except InvalidStatus as error:
            raise _refused(url, error) from None
        except (OSError, TimeoutError, WebSocketException) as error:
            raise ConnectionEnded(f"{url} does not answer: {connect_trouble(error)}") from None
        return _WebSocket(opened, url)

    return dial


def dial_in_turn(dials: Sequence[Dial]) -> Dial:
    """Several servers of one engine: each call goes to the next of them, the first to any."""
    turn = random.randrange(len(dials))

    async def dial() -> Connection:
        nonlocal turn
        turn = (turn + 1) % len(dials)
        return await dials[turn]()

    return dial


def node_tls(ca: Path | None, cert: Path | None = None, key: Path | None = None) -> ssl.SSLContext:
    """What a node trusts, and what it shows of itself to servers that ask. Raises RefusedError."""
    context = tls_client(ca)
    if cert is not None:
        try:
            context.load_cert_chain(cert, key)
        except OSError as error:
            raise RefusedError(f"{cert} cannot be used as --tls-cert: {error.strerror or error}") from None
    return context


_SETTINGS: Final[dict[str, Any]] = {
    "compression": None,
    "max_size": MESSAGE,
    "ping_interval": None,  # beats do this, and more
    "open_timeout": OPEN_S,
    "close_timeout": 1.0,
    "user_agent_header": None,
}


def _refused(url: str, error: InvalidStatus) -> ConnectionEnded:
    """Only Skep's own answer is final: one of a proxy on the way may be another in a moment."""
    status = error.response.status_code
    try:
        told = msgspec.json.decode(error.response.body or b"", type=Refusal)
    except msgspec.MsgspecError:
        return ConnectionEnded(f"{url} answers {status}, and not as a server of Skep; is it the right URL?")
    if status in (401, 403):
        return NotAdmitted(f"{url}: {told.detail}")
    return ConnectionEnded(f"{url} answers {status}: {told.detail or told.title}")


class _WebSocket:
    def __init__(self, opened: ClientConnection, place: str) -> None:
        self._opened = opened
        self.place = place

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
