"""Where a server is, and how it is reached: by the socket in its data directory, or by a URL over the network."""

from __future__ import annotations

import http.client
import os
import socket
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import urlsplit

from skep.config import data_home, socket_path
from skep.errors import RefusedError, SkepError

URL: Final = "SKEP_URL"
TOKEN: Final = "SKEP_TOKEN"
TLS_CA: Final = "SKEP_TLS_CA"
KEY: Final = "skep_"
"""How a key begins. What else stands in SKEP_TOKEN is no key: inside of a task it is the token of its lease."""


class UnreachableError(SkepError):
    """No server answers."""

    exit_code = 6


class Reach(Protocol):
    """One server."""

    prefix: str
    """Before every path."""
    headers: Mapping[str, str]
    """With every request."""
    elsewhere: bool
    """Whether its paths are perhaps not those of this machine."""

    def connection(self, timeout_s: float) -> http.client.HTTPConnection:
        """Not yet connected."""
        ...

    def trouble(self, error: OSError) -> UnreachableError:
        """Why it could not be connected, and what to do."""
        ...


class SocketReach:
    """The server of a data directory."""

    prefix = ""
    headers: Mapping[str, str] = {}
    elsewhere = False

    def __init__(self, home: Path) -> None:
        self.home = home
        self._path = socket_path(home)

    def connection(self, timeout_s: float) -> http.client.HTTPConnection:
        return _SocketConnection(self._path, timeout_s)

    def trouble(self, error: OSError) -> UnreachableError:
        if isinstance(error, FileNotFoundError | ConnectionRefusedError):
            where = "" if self.home == data_home() else f" --data {self.home}"
            return UnreachableError(f"no server runs on {self.home}; start one with `skep up{where}`")
        return UnreachableError(f"the server's socket {self._path} cannot be used: {error.strerror or error}")


class UrlReach:
    """A server at `http://host:port` or `https://host:port`, perhaps with a path before its own."""

    elsewhere = True

    def __init__(self, url: str, token: str | None = None, tls_ca: str | Path | None = None) -> None:
        """`tls_ca`: a file with the certificates to trust, in place of the system's. Raises RefusedError."""
        secure, self._host, self._port, self.prefix = split_url(url)
        self.url = url.rstrip("/")
        self.headers: Mapping[str, str] = authorization(token)
        self._tls = tls_client(tls_ca) if secure else None

    def connection(self, timeout_s: float) -> http.client.HTTPConnection:
        if self._tls is not None:
            return http.client.HTTPSConnection(self._host, self._port, timeout=timeout_s, context=self._tls)
        return http.client.HTTPConnection(self._host, self._port, timeout=timeout_s)

    def trouble(self, error: OSError) -> UnreachableError:
        return UnreachableError(f"no server answers at {self.url}: {connect_trouble(error)}")


class _SocketConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def find_reach(
    data: str | Path | None = None, url: str | None = None, token: str | None = None, tls_ca: str | Path | None = None
) -> Reach:
    """The server that is meant: at `url`; else that of `data`; else at SKEP_URL; else that of the usual data directory."""
    if url is None and data is None:
        url = os.environ.get(URL) or None
    if url is None:
        return SocketReach(data_home(data))
    return UrlReach(url, token or os.environ.get(TOKEN), tls_ca or os.environ.get(TLS_CA) or None)


def split_url(url: str) -> tuple[bool, str, int, str]:
    """(whether TLS, host, port, path) of a server's URL. Raises RefusedError."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise _odd(url, str(error)) from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise _odd(url, "it is no URL of a server")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise _odd(url, "it may have no user, query or fragment; a key goes into --token or SKEP_TOKEN")
    secure = parts.scheme == "https"
    return secure, parts.hostname, port or (443 if secure else 80), parts.path.rstrip("/")


def _odd(url: str, why: str) -> RefusedError:
    shown = url.rpartition("@")[2][:200]
    return RefusedError(f"{shown!r}: {why}; expected https://host:port or http://host:port")


def authorization(token: str | None) -> dict[str, str]:
    """The header that carries a key. Raises RefusedError for what cannot stand in one."""
    if not token or not token.startswith(KEY):
        return {}
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise RefusedError("the key has characters that no key has; `skep keys create` shows a key as one word")
    return {"Authorization": f"Bearer {token}"}


def tls_client(tls_ca: str | Path | None) -> ssl.SSLContext:
    """Checks the server's certificate and name. Raises RefusedError for a file that holds no certificates."""
    try:
        return ssl.create_default_context(cafile=str(tls_ca) if tls_ca else None)
    except (OSError, ssl.SSLError) as error:
        why = getattr(error, "strerror", None) or error
        raise RefusedError(f"{tls_ca} cannot be used as --tls-ca: {why}; expected a PEM file with certificates") from None


def connect_trouble(error: Exception) -> str:
    """Why a connection could not be made, and what to do, in words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message}); name its authority with --tls-ca or {TLS_CA}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({error.reason or error}); is it https there?"
    if isinstance(error, TimeoutError):
        return "it took too long"
    return str(getattr(error, "strerror", None) or error or type(error).__name__)
