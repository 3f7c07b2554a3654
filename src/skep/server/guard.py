"""Who comes in over the network: the application behind keys.

The Unix socket is its owner's, and needs none of this. A listener on TCP asks for a key in `Authorization: Bearer skep_…`; one
on a loopback address does without for as long as no key was ever made. Then any user of this machine may use it, and still no
web page: what a browser sends for a page of another site says so in `Origin` or `Sec-Fetch-Site`, and a name that was bound
to this machine only to fool a browser stands in `Host`.
"""

from __future__ import annotations

import ipaddress
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from starlette.types import ASGIApp

from skep.client import Refusal
from skep.errors import SkepError
from skep.hub.keys import NODE, Keys
from skep.node.dial import LINK_PATH
from skep.server.answers import answer, refusal

log = logging.getLogger(__name__)

KEY: Final = "skep.key"
"""In the scope of what came in with a key: its id."""
QUIET_S: Final = 1.0
"""Between two lines of the log about what was refused."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

MAKE: Final = "`skep keys create --role node` on the server's machine makes one for a node, `--role admin` one for everything"


class Guard:
    """An ASGI application in front of another."""

    def __init__(self, keys: Keys, app: ASGIApp | None = None) -> None:
        self.keys = keys
        self.app = app
        """To be set before anything comes in."""
        self.loopback = False
        """Whether only this machine reaches it."""
        self._told_s = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            refused = await self._judge(scope)
        except SkepError as error:  # the record cannot say which keys there are
            await refusal(error)(scope, receive, send)
            return
        if refused is None:
            assert self.app is not None
            await self.app(scope, receive, send)
            return
        self._tell(scope, refused)
        response = answer(refused, refused.status)
        response.headers["Content-Type"] = "application/problem+json"
        if refused.status == 401:
            response.headers["WWW-Authenticate"] = "Bearer"
        await response(scope, receive, send)

    async def _judge(self, scope: Scope) -> Refusal | None:
        headers = _Headers(scope)
        if headers.foreign:
            return _refused(403, "Not from other sites", "a page of another site may not use this server")
        if not self.keys.any and headers.key:
            await self.keys.who(headers.key)  # it may have been made by way of another server, a moment ago
        if not self.keys.any and self.loopback:
            if not headers.local:
                return _refused(403, "Not under this name", "without keys this server is only there as localhost or 127.0.0.1")
            return None
        if not headers.key:
            return _refused(401, "A key is needed", f"no key came with this; set SKEP_TOKEN, or give --token. {MAKE}")
        row = await self.keys.who(headers.key)
        if row is None:
            return _refused(401, "The key does not fit", f"nobody has this key, or it was revoked. {MAKE}")
        if row.role == NODE and not (scope["type"] == "websocket" and scope["path"] == LINK_PATH):
            detail = f"the key {row.id} is for nodes, and may only be used by `skep node`. {MAKE}"
            return _refused(403, "The key is for nodes", detail)
        scope[KEY] = row.id
        return None

    def _tell(self, scope: Scope, refused: Refusal) -> None:
        now_s = time.monotonic()
        if now_s - self._told_s >= QUIET_S:
            self._told_s = now_s
            client = scope.get("client")
            log.warning("refused %s, %d: %s", client[0] if client else "somebody", refused.status, refused.title.lower())


class _Headers:
    """What the headers of a request say of where it comes from."""

    def __init__(self, scope: Scope) -> None:
        found: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            found.setdefault(name.lower(), value)
        self._host = found.get(b"host", b"").decode("latin-1").lower()
        self._origin = found.get(b"origin", b"").decode("latin-1").lower()
        self._site = found.get(b"sec-fetch-site", b"")
        scheme, _, rest = found.get(b"authorization", b"").decode("latin-1").partition(" ")
        self.key = rest.strip() if scheme.lower() == "bearer" else ""

    @property
    def foreign(self) -> bool:
        """Whether a browser sends it for a page that did not come from here."""
        if self._site in (b"cross-site", b"same-site"):
            return True
        return bool(self._origin) and self._origin.partition("://")[2] != self._host

    @property
    def local(self) -> bool:
        """Whether it asks for this machine by one of its own names."""
        name = self._host.rpartition(":")[0] if self._host.rpartition(":")[2].isdecimal() else self._host
        return name == "localhost" or is_loopback(name.strip("[]"))


def is_loopback(address: str) -> bool:
    """Whether only this machine is at an address."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _refused(status: int, title: str, detail: str) -> Refusal:
    return Refusal(title=title, status=status, detail=detail, code="RefusedError")
