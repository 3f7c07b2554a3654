"""Requests as data and answers as JSON: msgspec in and out, refusals as problem details (RFC 9457)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from skep.client import PROTOCOL, Refusal
from skep.errors import (
    ConflictError,
    EngineUnavailableError,
    NotFoundError,
    RecordError,
    RefusedError,
    SkepError,
    SpecError,
    StaleEpochError,
    WrongStateError,
)
from skep.hub.hub import Hub
from skep.ids import is_id

log = logging.getLogger(__name__)

T = TypeVar("T")
Endpoint = Callable[[Request], Awaitable[Response]]

MAX_BODY: Final = 96 << 20
"""Bytes of a request: a workflow of 200,000 tasks has some 40 MB."""
BODY_S: Final = 30.0
"""For a body, and one more second for each `BODY_RATE` bytes of it."""
BODY_RATE: Final = 64 * 1024
RETRY_AFTER_S: Final = "2"
_STATUS: Final = (
    (SpecError, 422, "The request is wrong"),
    (NotFoundError, 404, "There is no such thing"),
    (WrongStateError, 409, "Not in this state"),
    (ConflictError, 409, "Another version"),
    (RecordError, 503, "The record does not answer"),
    (EngineUnavailableError, 503, "The engine does not answer"),
    (StaleEpochError, 503, "The engine is being opened anew"),
    (RefusedError, 422, "Refused"),
)

_encode = msgspec.json.Encoder().encode


class TooLargeError(RefusedError):
    """A body beyond the bound."""


class TooSlowError(RefusedError):
    """A body that does not come."""


def answer(value: Any, status: int = 200) -> Response:
    """A value as JSON."""
    return Response(_encode(value), status, media_type="application/json")


def hub_of(request: Request) -> Hub:
    hub: Hub = request.app.state.hub
    return hub


async def body_of(request: Request, kind: type[T]) -> T:
    """The body, checked. Raises SpecError with the path of the field."""
    data = bytearray()
    until_s = asyncio.get_running_loop().time() + BODY_S
    try:
        async with asyncio.timeout_at(until_s) as limit:
            async for part in request.stream():
                data += part
                if len(data) > MAX_BODY:
                    raise TooLargeError(f"the body has more than {MAX_BODY >> 20} MiB")
                limit.reschedule(until_s + len(data) / BODY_RATE)
    except TimeoutError:
        raise TooSlowError(f"only {len(data):,} bytes of the body came in {BODY_S:g} s") from None
    return parse(bytes(data or b"{}"), kind)


def size_of(request: Request) -> int:
    """Bytes of the body, as its client says; 0 when it does not."""
    said = request.headers.get("content-length", "")
    return int(said) if said.isascii() and said.isdecimal() and len(said) < 20 else 0


def parse(data: bytes, kind: type[T]) -> T:
    """JSON as that type. Raises SpecError with the path of the field."""
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at ")
        raise SpecError.at(place.strip("`").removeprefix("$").removeprefix("."), message[:1].lower() + message[1:]) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SpecError.at("", f"is not JSON: {error}") from None


def check_id(given: str | None) -> None:
    """The id of a run that its client has made, if it has. Raises SpecError."""
    if given is not None and not is_id(given):
        raise SpecError.at("id", f"found {given[:60]!r}, expected a UUID (version 7: it sorts by time)")


def is_given(raw: msgspec.Raw) -> bool:
    """Whether a field that is left as it came was sent at all."""
    return bytes(raw) not in (b"", b"null")


class Query:
    """The query of a request, word by word."""

    def __init__(self, request: Request) -> None:
        self._given = request.query_params

    def text(self, name: str) -> str:
        return self._given.get(name, "")

    def texts(self, name: str) -> list[str]:
        return [word for text in self._given.getlist(name) for word in text.split(",") if word]

    def flag(self, name: str) -> bool:
        return self.text(name).lower() in ("1", "true", "yes", "on")

    def number(self, name: str, default: int = 0, most: int = 1 << 62) -> int:
        text = self.text(name)
        if not text:
            return default
        if not (text.isascii() and text.isdecimal()) or len(text) > 20 or int(text) > most:
            raise SpecError.at(
                name, f"found {text[:40]!r}, expected a whole number" + (f" up to {most}" if most < 1 << 62 else "")
            )
        return int(text)

    def seconds(self, name: str, most: float) -> float:
        text = self.text(name)
        try:
            return min(max(float(text or 0), 0.0), most)
        except ValueError:
            raise SpecError.at(name, f"found {text[:40]!r}, expected seconds") from None


def lines(batches: AsyncIterator[Sequence[Any]]) -> Response:
    """An endless answer: a line of JSON for each item, an empty one for a batch without any."""

    async def write() -> AsyncIterator[bytes]:
        async for batch in batches:
            yield b"".join([_encode(item) + b"\n" for item in batch]) or b"\n"

    return StreamingResponse(write(), media_type="application/x-ndjson")


def refusal(error: SkepError) -> Response:
    """The problem document of an error."""
    status, title = next(((status, title) for kind, status, title in _STATUS if isinstance(error, kind)), (500, "It failed"))
    if isinstance(error, TooLargeError):
        status = 413
    elif isinstance(error, TooSlowError):
        status = 408
    code = next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "skep.errors")
    problems = [{"path": p.path, "message": p.message, "line": p.line} for p in error.problems]
    told = Refusal(title=title, status=status, detail=str(error), code=code, problems=problems)
    headers = {"retry-after": RETRY_AFTER_S} if status == 503 else None
    return Response(_encode(told), status, headers, media_type="application/problem+json")


def told(endpoint: Endpoint) -> Endpoint:
    """Answers errors as problems, and a client of another version before it asks for anything."""

    async def guarded(request: Request) -> Response:
        try:
            spoken = request.headers.get("skep-protocol", str(PROTOCOL))
            if spoken != str(PROTOCOL):
                raise RefusedError(
                    f"this server speaks protocol {PROTOCOL}, the client {spoken[:20]}; use the same version of Skep for both"
                )
            return await endpoint(request)
        except SkepError as error:
            return refusal(error)
        except (ClientDisconnect, asyncio.CancelledError):
            raise
        except Exception as error:
            log.exception("%s %s", request.method, request.url.path)
            return refusal(SkepError(f"{type(error).__name__}; it is a fault of Skep's own and stands in the server's log"))

    return guarded
