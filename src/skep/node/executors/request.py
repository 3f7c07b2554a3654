"""What an `http` task sends, and what becomes of the answer. Pure: the clock is handed in."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from email.message import Message
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

import msgspec

from skep.flow.functions import to_text
from skep.model.calls import DEFAULT_BODY
from skep.model.node import ErrorInfo
from skep.model.units import format_bytes
from skep.node.functions import clean
from skep.node.secrets import Failed

MAX_RETRY_AFTER_MS: Final = 3_600_000
"""The longest wait that a server may ask for; it is cut to that."""
SHOWN: Final = 500
"""Characters of an unexpected response in an error message."""

_KINDS: Final = {429: "Busy", 503: "Busy", 502: "Gateway", 504: "Gateway"}
_JSON: Final = re.compile(r"application/(?:[\w.+-]+\+)?json")
_TEXT: Final = re.compile(r"[^\x00-\x1f\x7f]*")


class Asked(NamedTuple):
    """A request, ready to be sent."""

    method: str
    url: str
    headers: dict[str, str]
    body: bytes | None
    expect: tuple[int | str, ...]
    max_bytes: int
    follow: bool

    @property
    def shown(self) -> str:
        """Method and URL for people: without what may be private in it, the user and the query."""
        return f"{self.method} {bare(self.url)}"

    def wants(self, status: int) -> bool:
        return status in self.expect or f"{status // 100}xx" in self.expect


class Answer(NamedTuple):
    """A response, read to its end, or as far as it may go."""

    status: int
    headers: Sequence[tuple[str, str]]
    body: bytes


def asked(call: Mapping[str, Any]) -> Asked:
    """The request of a task, its expressions filled in. Raises Failed (`Request`) for what cannot be sent."""
    url = _with_query(to_text(call["url"]), call.get("query") or {})
    method = to_text(call.get("method", "GET")).upper()
    if not re.fullmatch("[A-Z]{1,20}", method):
        raise Failed(ErrorInfo("Request", "`method` is no HTTP method, expected GET, POST or the like"))
    headers = {"user-agent": "skep", **{name.lower(): to_text(value) for name, value in (call.get("headers") or {}).items()}}
    for name, value in headers.items():
        if not _TEXT.fullmatch(value):
            raise Failed(ErrorInfo("Request", f"the header `{name}` holds a line break or another control character"))
    body: bytes | None = None
    if "json" in call:
        body = msgspec.json.encode(call["json"])
        headers.setdefault("content-type", "application/json")
    elif "body" in call:
        body = to_text(call["body"]).encode(errors="replace")
        headers.setdefault("content-type", "text/plain; charset=utf-8")
    expect, most = tuple(call.get("expect", ("2xx",))), call.get("max_bytes", DEFAULT_BODY)
    return Asked(method, url, headers, body, expect, most, call.get("follow_redirects", True))


def _with_query(url: str, query: Any) -> str:
    if not isinstance(query, Mapping):
        raise Failed(ErrorInfo("Request", "`query` gave no mapping from names to values"))
    try:
        parts = urlsplit(url)
        right = parts.scheme.lower() in ("http", "https") and bool(parts.hostname) and (parts.port or 0) >= 0
    except ValueError:
        right = False
    if not right or not _TEXT.fullmatch(url) or " " in parts.netloc:
        raise Failed(ErrorInfo("Request", "the URL is not one, expected http://HOST/… or https://HOST/…"))
    pairs = [
        (name, to_text(one))
        for name, value in query.items()
        for one in (value if isinstance(value, list | tuple) else [value])
        if one is not None
    ]
    path = quote(parts.path, safe="/%:@!$&'()*+,;=~[]")
    given = quote(parts.query, safe="/%:@!$&'()*+,;=~?[]")
    return urlunsplit((parts.scheme.lower(), parts.netloc, path or "/", "&".join(filter(None, (given, urlencode(pairs)))), ""))


def bare(url: str) -> str:
    """A URL without user, query and fragment."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def output_of(answer: Answer) -> bytes:
    """The output of the task, as JSON: `status`, `headers` and `body`; of what is no text `encoding` says how it is written."""
    headers: dict[str, str] = {}
    for name, value in answer.headers:
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    body, encoding = _body(answer.body, headers.get("content-type", ""))
    made = {"status": answer.status, "headers": headers, "body": body}
    return msgspec.json.encode(made | ({"encoding": encoding} if encoding else {}))


def _body(data: bytes, content_type: str) -> tuple[Any, str]:
    kind, charset = _media(content_type)
    if _JSON.fullmatch(kind) and (found := _json(data)) is not None:
        return found, ""
    try:
        return data.decode(charset), ""
    except (UnicodeDecodeError, LookupError):
        return base64.b64encode(data).decode(), "base64"


def _json(data: bytes) -> msgspec.Raw | None:
    """The text as it is, when it is JSON: numbers keep every digit."""
    if not data.strip():
        return msgspec.Raw(b"null")
    try:
        msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return msgspec.Raw(data.strip())


def _media(content_type: str) -> tuple[str, str]:
    """The media type, and the charset or UTF-8."""
    message = Message()
    message["content-type"] = content_type or "application/octet-stream"
    return message.get_content_type(), str(message.get_param("charset", "utf-8"))


def unexpected(request: Asked, answer: Answer) -> ErrorInfo:
    """Why a response fails the task. Its type says what another attempt may do about it."""
    expected = ", ".join(map(str, request.expect))
    message = f"{request.shown} answered {named(answer.status)}, expected {expected}"
    start = answer.body[: 4 * SHOWN].decode(errors="replace").strip()[:SHOWN]
    kind = _KINDS.get(answer.status, "Status")
    text = clean(f"{message}\n{start}" if start else message)
    return ErrorInfo(kind, text, parents=() if kind == "Status" else ("Status",))


def named(status: int) -> str:
    """`404 Not Found`."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def too_large(request: Asked) -> ErrorInfo:
    most = format_bytes(request.max_bytes)
    advice = "raise `max_bytes`, or fetch it with a command that writes a file"
    return ErrorInfo("Response", f"{request.shown} answered with more than {most}: {advice}")


def retry_after_ms(headers: Iterable[tuple[str, str]], now_s: float) -> int:
    """How long the server asks to be left alone: seconds, or a date that is compared with `now_s`, seconds since 1970."""
    written = next((value.strip() for name, value in headers if name == "retry-after"), "")
    if written.isascii() and written.isdigit():
        seconds = float(written[:12])
    else:
        try:
            seconds = parsedate_to_datetime(written).timestamp() - now_s
        except (ValueError, OverflowError, TypeError):
            return 0
    return min(max(int(seconds * 1000), 0), MAX_RETRY_AFTER_MS)
