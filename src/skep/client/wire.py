"""How requests reach a server, and how its refusals become errors again."""

from __future__ import annotations

import http.client
from collections.abc import Generator, Mapping
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from skep import errors
from skep.client.reach import Reach, UnreachableError
from skep.version import VERSION

T = TypeVar("T")

API: Final = "/api/distributed"
PROTOCOL: Final = 1
"""Version of what client and server say to each other."""
TRIES: Final = 3
WAIT_S: Final = 20.0
"""The longest that one request waits for the end of a run; then it is asked again."""
ANSWER_S: Final = 30.0
"""How long an answer may take beyond what was asked for."""


class Wire:
    """The connection to one server. For one thread at a time; it is kept open between calls."""

    def __init__(self, reach: Reach) -> None:
        self.reach = reach
        self._connection: http.client.HTTPConnection | None = None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def ask(
        self,
        kind: type[T],
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        patience_s: float = 0.0,
    ) -> T:
        """The answer, decoded. Raises what the server refuses with, UnreachableError."""
        return msgspec.json.decode(self._answer(method, url_of(path, query), body, patience_s), type=kind)

    def stream(self, kind: type[T], path: str, *, query: Mapping[str, Any] | None = None) -> Generator[T, None, None]:
        """The lines of an endless answer, decoded, until it ends or the iterator is closed. Uses a connection of its own."""
        connection = self.reach.connection(ANSWER_S)
        try:
            response = self._send(connection, "GET", url_of(path, query), None)
            if response.status >= 400:
                raise refusal_of(response.status, response.read())
            decode = msgspec.json.Decoder(kind).decode
            try:
                while line := response.readline():
                    if line.strip():  # an empty one is a sign of life
                        yield decode(line)
            except (OSError, http.client.HTTPException) as error:
                raise UnreachableError(f"the server broke off: {error or type(error).__name__}") from None
        finally:
            connection.close()

    def _answer(self, method: str, url: str, body: Any, patience_s: float) -> bytes:
        data = None if body is None else msgspec.json.encode(body)
        for left in reversed(range(TRIES)):
            fresh = self._connection is None
            connection = self._connection = self._connection or self.reach.connection(ANSWER_S)
            if connection.sock is not None:
                connection.sock.settimeout(ANSWER_S + patience_s)
            connection.timeout = ANSWER_S + patience_s
            try:
                response = self._send(connection, method, url, data)
                answer = response.read()
            except (http.client.HTTPException, ConnectionError, TimeoutError, UnreachableError) as error:
                self.close()
                if fresh and isinstance(error, UnreachableError):
                    raise  # nobody listens; a kept connection may only have grown old
                if not left or isinstance(error, TimeoutError):
                    raise UnreachableError(f"the server did not answer: {error or type(error).__name__}") from None
                continue
            if response.status >= 400:
                raise refusal_of(response.status, answer)
            return answer
        raise AssertionError("not reached")

    def _send(
        self, connection: http.client.HTTPConnection, method: str, url: str, data: bytes | None
    ) -> http.client.HTTPResponse:
        headers = {"Skep-Protocol": str(PROTOCOL), "User-Agent": f"skep/{VERSION}", **self.reach.headers}
        if data is not None:
            headers["Content-Type"] = "application/json"
        try:
            if connection.sock is None:
                connection.connect()
        except OSError as error:
            raise self.reach.trouble(error) from None
        connection.request(method, self.reach.prefix + url, body=data, headers=headers)
        return connection.getresponse()


def url_of(path: str, query: Mapping[str, Any] | None) -> str:
    """A path with its query; what is empty is left out."""
    pairs: list[tuple[str, str]] = []
    for name, value in (query or {}).items():
        for one in value if isinstance(value, list | tuple) else (value,):
            if one is not None and one is not False and one != "":
                pairs.append((name, "1" if one is True else str(one)))
    return f"{path}?{urlencode(pairs)}" if pairs else path


class Refusal(msgspec.Struct):
    """An error as the server tells it (RFC 9457): `code` is the name of the class in `skep.errors`."""

    title: str
    status: int
    detail: str = ""
    code: str = "SkepError"
    problems: list[dict[str, Any]] = []


def refusal_of(status: int, body: bytes) -> errors.SkepError:
    """The error that a refusal stands for."""
    try:
        told = msgspec.json.decode(body, type=Refusal)
    except msgspec.MsgspecError:
        return errors.SkepError(f"the server answered {status}: {body[:200].decode('utf-8', 'replace')}")
    problems = [errors.Problem(p.get("path", ""), p.get("message", ""), p.get("line")) for p in told.problems]
    if told.code == "SpecError" and problems:
        return errors.SpecError(problems)
    kind = getattr(errors, told.code, errors.SkepError)
    if not (isinstance(kind, type) and issubclass(kind, errors.SkepError)) or kind is errors.RunFailedError:
        kind = errors.SkepError
    error = kind(told.detail or told.title) if kind is not errors.SpecError else errors.RefusedError(told.detail)
    error.problems = problems
    return error


def run_path(run: str, *rest: str) -> str:
    """Below a run."""
    return "/".join((f"{API}/workflows/{quote(run, safe='')}", *(quote(part, safe="") for part in rest)))
