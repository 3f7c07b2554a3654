"""The HTTP client of a node, and what its errors mean. Loaded with the first request."""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final, NamedTuple

import httpx2

from skep.model.node import ErrorInfo
from skep.model.units import format_bytes, format_duration
from skep.node.executors.request import (
    Answer,
    Asked,
    asked,
    bare,
    named,
    output_of,
    retry_after_ms,
    too_large,
    unexpected,
)
from skep.node.functions import clean
from skep.node.secrets import Failed

CONNECT_S: Final = 30.0
IDLE_S: Final = 300.0
"""How long a connection may stand still."""
KEEP_S: Final = 30.0
"""How long an idle connection is kept for the next request."""
KEEP: Final = 100
"""Idle connections that are kept."""
MAX_REDIRECTS: Final = 20
MAX_REFUSAL: Final = 64 * 1024
"""Bytes read of a response that fails the task."""

logging.getLogger("httpx2").setLevel(logging.WARNING)  # below that it writes whole URLs, and secrets stand in those

_PRIVATE: Final = frozenset({"authorization", "cookie", "proxy-authorization"})


class Exchanged(NamedTuple):
    """How a request ended: one line for the log, and either the output or why it failed the task."""

    line: str
    output: bytes
    error: ErrorInfo | None = None
    delay_ms: int = 0
    """How long the server asks to be left alone."""


class Client:
    """Sends requests and reuses connections. It is made in a thread, because it reads the system's certificates."""

    def __init__(self, trust: ssl.SSLContext | None = None) -> None:
        self._client = httpx2.AsyncClient(
            verify=trust or True,
            timeout=httpx2.Timeout(IDLE_S, connect=CONNECT_S, pool=None),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=KEEP, keepalive_expiry=KEEP_S),
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),  # no task sees what another one was given
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def exchange(self, call: Mapping[str, Any], private: frozenset[str]) -> Exchanged:
        """Does what an `http` task says. `private`: headers that another server must not see. Raises Failed."""
        request, began = asked(call), time.monotonic()
        answer = await self._send(request, private | _PRIVATE)
        took = format_duration(int((time.monotonic() - began) * 1000))
        line = f"{request.shown}: {named(answer.status)}, {format_bytes(len(answer.body))} in {took}"
        if request.wants(answer.status):
            return Exchanged(line, output_of(answer))
        delay_ms = retry_after_ms(answer.headers, time.time()) if answer.status in (429, 503) else 0
        return Exchanged(line, b"", unexpected(request, answer), delay_ms)

    async def _send(self, wanted: Asked, private: frozenset[str]) -> Answer:
        """The answer at the end of all redirects. Raises Failed."""
        try:
            request = self._client.build_request(wanted.method, wanted.url, headers=wanted.headers, content=wanted.body)
            for _ in range(MAX_REDIRECTS + 1):
                answer, following = await self._one(request, wanted)
                if following is None:
                    return answer
                request = _redirected(request, following, private)
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError) as error:
            problem = f"{wanted.shown}: no connection: {_reason(error, CONNECT_S)}"
            raise Failed(ErrorInfo("Connect", clean(problem), parents=("Connection",))) from None
        except (httpx2.UnsupportedProtocol, httpx2.LocalProtocolError, httpx2.InvalidURL) as error:
            raise Failed(ErrorInfo("Request", clean(f"{wanted.shown}: {_reason(error)}"))) from None
        except httpx2.DecodingError as error:
            raise Failed(ErrorInfo("Response", clean(f"{wanted.shown}: {_reason(error)}"))) from None
        except httpx2.TransportError as error:
            raise Failed(ErrorInfo("Connection", clean(f"{wanted.shown}: {_reason(error, IDLE_S)}"))) from None
        raise Failed(ErrorInfo("Response", f"{wanted.shown}: more than {MAX_REDIRECTS} redirects"))

    async def _one(self, request: httpx2.Request, wanted: Asked) -> tuple[Answer, httpx2.Request | None]:
        """One answer; and the request that follows when it points elsewhere."""
        response = await self._client.send(request, stream=True)
        try:
            headers = [(name.lower(), value) for name, value in response.headers.multi_items()]
            if wanted.follow and not wanted.wants(response.status_code) and response.next_request is not None:
                return Answer(response.status_code, headers, b""), response.next_request
            return Answer(response.status_code, headers, await _body(response, wanted)), None
        finally:
            await response.aclose()


async def _body(response: httpx2.Response, wanted: Asked) -> bytes:
    """All of it; of one that fails the task the beginning. Raises Failed when there is too much."""
    right = wanted.wants(response.status_code)
    most = wanted.max_bytes if right else MAX_REFUSAL
    length = response.headers.get("content-length", "")
    if right and wanted.method != "HEAD" and length.isdigit() and int(length) > most:
        raise Failed(too_large(wanted))
    body = bytearray()
    async for data in response.aiter_bytes():
        body += data
        if len(body) > most:
            if right:
                raise Failed(too_large(wanted))
            break
    return bytes(body[:most])


def _redirected(request: httpx2.Request, following: httpx2.Request, private: frozenset[str]) -> httpx2.Request:
    """The next request, without what only the first server was to know. Raises Failed for a place that is none."""
    if following.url.scheme not in ("http", "https") or not following.url.host:
        problem = f"{bare(str(request.url))} points to a place that is no http:// or https:// URL"
        raise Failed(ErrorInfo("Response", clean(problem)))
    if following.url.origin != request.url.origin:
        for name in private:
            following.headers.pop(name, None)
    return following


def _reason(error: Exception, limit_s: float = 0) -> str:
    if isinstance(error, httpx2.TimeoutException):
        return f"nothing came for {limit_s:g} s"
    text = str(error) or type(error).__name__
    return text if len(text) <= 300 else text[:300] + "…"
