"""The server on the network: a listener on TCP behind keys, perhaps with TLS, and a file that says where it is."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final, NamedTuple

from starlette.types import ASGIApp

from skep.errors import RefusedError
from skep.hub.keys import Keys
from skep.server.guard import MAKE, Guard, is_loopback
from skep.server.listen import Address, Listener

URL_FILE: Final = "server.url"
"""In the data directory: the URL of its server, for as long as it listens to the network."""


class Tls(NamedTuple):
    """Files of a server that speaks TLS, as PEM."""

    cert: Path
    """Its certificate, and those between it and its authority."""
    key: Path
    client_ca: Path | None = None
    """Authorities: only who shows a certificate of theirs comes in."""

    def context(self) -> ssl.SSLContext:
        """Raises RefusedError."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self.cert, self.key, password=_no_password)
        except OSError as error:
            raise _unusable(f"{self.cert} and {self.key}", "--tls-cert and --tls-key", error) from None
        if self.client_ca is not None:
            try:
                context.load_verify_locations(self.client_ca)
            except OSError as error:
                raise _unusable(str(self.client_ca), "--tls-client-ca", error) from None
            context.verify_mode = ssl.CERT_REQUIRED
        return context


def _no_password() -> str:
    raise RefusedError("the key of --tls-key has a password; give one without, which only its owner can read")


def _unusable(files: str, options: str, error: OSError) -> RefusedError:
    why = error.reason if isinstance(error, ssl.SSLError) and error.reason else error.strerror or error
    return RefusedError(f"{files} cannot be used for {options}: {why}; expected PEM files that belong together")


class Network:
    """One listener on TCP. Everything that may be wrong with it shows before anything starts."""

    def __init__(self, at: Address, tls: Tls | None = None) -> None:
        """Raises RefusedError."""
        self._at = at
        self._tls = tls.context() if tls is not None else None
        self._guard: Guard | None = None
        self._listener: Listener | None = None
        self._file: Path | None = None
        self.url = ""

    async def bind(self, keys: Keys, max_message: int) -> None:
        """Takes the port, and answers nothing yet. Raises RefusedError."""
        await keys.refresh()
        guard = self._guard = Guard(keys)
        listener = self._listener = Listener(guard, self._at, max_message, self._tls)
        at = listener.address
        guard.loopback = is_loopback(at.host)
        if not guard.loopback and not keys.usable:
            await self.stop()
            raise RefusedError(
                f"{self._at} can be reached from other machines, and there is no key yet: {MAKE}. Then start again"
            )
        self.url = f"{'http' if self._tls is None else 'https'}://{at}"

    async def start(self, app: ASGIApp, home: Path) -> None:
        """Returns when it answers."""
        assert self._guard is not None
        assert self._listener is not None
        self._guard.app = app
        self._guard.keys.loop.start()
        await self._listener.start()
        self._file = home / URL_FILE
        self._file.write_text(f"{self.url}\n")

    async def stop(self) -> None:
        """Harmless before `bind` and when repeated."""
        listener, self._listener = self._listener, None
        if self._file is not None:
            self._file.unlink(missing_ok=True)
        if self._guard is not None:
            await self._guard.keys.loop.stop()
        if listener is not None:
            await listener.stop()


def parse_address(text: str) -> Address:
    """`HOST:PORT`, or `[HOST]:PORT` for IPv6. Raises ValueError."""
    host, colon, port = text.strip().rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if not colon or not host or not (port.isascii() and port.isdecimal()) or int(port) > 65_535:
        raise ValueError(f"found {text!r}, expected HOST:PORT such as 0.0.0.0:7420, or 127.0.0.1:0 for any free port")
    return Address(host, int(port))
