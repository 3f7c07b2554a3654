"""`http` tasks against real servers that answer well, badly, late, or not at all."""

from __future__ import annotations

import asyncio
import base64
import gzip
import logging
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from skep.model.node import Call, Outcome
from skep.node.executors.http import HttpExecutor
from skep.node.executors.request import MAX_RETRY_AFTER_MS, asked, retry_after_ms
from skep.node.secrets import Failed

Handler = Callable[["Heard"], Awaitable[bytes | None]]


class Heard:
    """One request as the server got it, and the way back."""

    def __init__(self, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        lines = head.decode("latin-1").split("\r\n")
        self.method, self.target, _ = lines[0].split(" ", 2)
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)}
        self.body = body
        self.writer = writer


class Server:
    """Answers with what `handler` gives: bytes as they are; None closes the connection."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self.heard: list[Heard] = []
        self.connections = 0
        self.lost = asyncio.Event()
        """A client went away before its answer was complete."""
        self.came = asyncio.Event()
        self.tasks: set[asyncio.Task[Any]] = set()

    async def open(self, tls: ssl.SSLContext | None = None) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"

    async def close(self) -> None:
        self._server.close()
        for task in tuple(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        try:
            while (head := await reader.readuntil(b"\r\n\r\n")) is not None:
                length = next((line[15:] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), b"0")
                heard = Heard(head, await reader.readexactly(int(length)), writer)
                self.heard.append(heard)
                self.came.set()
                answering = asyncio.ensure_future(self._handler(heard))
                gone = asyncio.ensure_future(reader.read(1))
                await asyncio.wait((answering, gone), return_when=asyncio.FIRST_COMPLETED)
                if not answering.done():
                    answering.cancel()
                    self.lost.set()
                    return
                gone.cancel()
                await asyncio.gather(gone, return_exceptions=True)
                answer = answering.result()
                if answer is None:
                    return
                writer.write(answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            self.lost.set()
        except asyncio.CancelledError:  # by close
            pass
        finally:
            self.tasks.discard(task)
            writer.close()


def answer(body: bytes | str = b"", status: int = 200, kind: str = "", **headers: str) -> bytes:
    data = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status} Whatever", f"content-length: {len(data)}", *([f"content-type: {kind}"] if kind else [])]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + data


class Bench:
    def __init__(self, executor: HttpExecutor, host: Any, trial: Any) -> None:
        self.executor, self.host, self._trial = executor, host, trial
        self.servers: list[Server] = []

    async def serve(self, handler: Handler | bytes, tls: ssl.SSLContext | None = None) -> tuple[Server, str]:
        async def same(heard: Heard) -> bytes | None:
            assert isinstance(handler, bytes)
            return handler

        server = Server(same if isinstance(handler, bytes) else handler)
        self.servers.append(server)
        return server, await server.open(tls)

    def __call__(self, url: str, *, needs_secrets: bool = False, timeout_ms: int = 0, **request: Any) -> Any:
        call = Call("http", {"url": url, **request}, needs_secrets=needs_secrets)
        return self._trial(self.executor, call, timeout_ms=timeout_ms)


@pytest.fixture
async def bench(host: Any, trial: Any) -> AsyncIterator[Bench]:
    executor = HttpExecutor({"KEY": "s3cr3t/value", "OTHER": "blue moon"})
    await executor.open(host)
    made = Bench(executor, host, trial)
    yield made
    await executor.close()
    for server in made.servers:
        await server.close()


# -- what is sent


async def test_a_plain_request(bench: Bench) -> None:
    server, url = await bench.serve(answer("hello", kind="text/plain", x_kind="a"))
    output = await bench(url).output()
    assert output == {
        "status": 200,
        "headers": {"content-length": "5", "content-type": "text/plain", "x-kind": "a"},
        "body": "hello",
    }
    (heard,) = server.heard
    assert (heard.method, heard.target, heard.body) == ("GET", "/", b"")
    assert heard.headers["user-agent"] == "skep"
    assert "cookie" not in heard.headers
    log = bytes(bench.host.logs["log"]).decode()
    assert log.startswith(f"skep: GET {url}/: 200 OK, 5B in ")


async def test_everything_that_a_request_may_say(bench: Bench) -> None:
    server, url = await bench.serve(answer("[]", status=201, kind="application/json"))
    request: dict[str, Any] = {
        "method": "post",
        "headers": {"Accept": "application/json", "X-Number": 3},
        "query": {"q": "a b&c", "many": [1, "x"], "none": None, "yes": True, "all": {"a": 1}},
        "json": {"ü": [1, None]},
        "expect": [201, "3xx"],
    }
    assert (await bench(f"{url}/a b/ü?first=1#part", **request).output())["body"] == []
    (heard,) = server.heard
    assert heard.method == "POST"
    assert heard.target == "/a%20b/%C3%BC?first=1&q=a+b%26c&many=1&many=x&yes=true&all=%7B%22a%22%3A1%7D"
    assert heard.headers["accept"] == "application/json"
    assert heard.headers["x-number"] == "3"
    assert heard.headers["content-type"] == "application/json"
    assert heard.body == '{"ü":[1,null]}'.encode()


async def test_a_body_of_text_and_a_type_of_ones_own(bench: Bench) -> None:
    server, url = await bench.serve(answer())
    await bench(url, method="PUT", body="grün").output()
    await bench(url, method="PUT", body="<a/>", headers={"Content-Type": "text/xml"}).output()
    await bench(url, method="POST", json=None).output()
    assert [heard.body for heard in server.heard] == ["grün".encode(), b"<a/>", b"null"]
    assert [heard.headers["content-type"] for heard in server.heard] == [
        "text/plain; charset=utf-8",
        "text/xml",
        "application/json",
    ]


async def test_secrets_are_filled_in_and_masked(bench: Bench) -> None:
    server, url = await bench.serve(answer('{"you sent": "s3cr3t/value"}', kind="application/json", echo="blue moon"))
    request: dict[str, Any] = {
        "headers": {"Authorization": "Bearer ${{ secrets.KEY }}"},
        "query": {"token": "${{ secrets.OTHER }}"},
        "json": {"key": "${{ secrets.KEY }}"},
        "method": "POST",
    }
    output = await bench(url, needs_secrets=True, **request).output()
    (heard,) = server.heard
    assert heard.headers["authorization"] == "Bearer s3cr3t/value"
    assert heard.target == "/?token=blue+moon"
    assert heard.body == b'{"key":"s3cr3t/value"}'
    assert output["body"] == {"you sent": "***"}
    assert output["headers"]["echo"] == "***"


async def test_a_secret_in_the_url_is_masked_in_the_log_and_in_errors(bench: Bench) -> None:
    _, url = await bench.serve(answer("s3cr3t%2Fvalue s3cr3t/value", status=404))
    error = await bench(f"{url}/hook/${{{{ secrets.KEY }}}}?t=${{{{ secrets.KEY }}}}", needs_secrets=True).error()
    assert error.message == f"GET {url}/hook/*** answered 404 Not Found, expected 2xx\n*** ***"
    assert b"s3cr3t" not in bytes(bench.host.logs["log"])


async def test_no_other_log_tells_a_secret(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    _, url = await bench.serve(answer("done"))
    with caplog.at_level(logging.INFO):
        await bench(url, query={"token": "${{ secrets.OTHER }}"}, needs_secrets=True).output()
    assert "token" not in caplog.text


async def test_a_missing_secret(bench: Bench) -> None:
    error = await bench("http://x/${{ secrets.NONE }}", needs_secrets=True).error()
    assert (error.type, "no secret 'NONE'" in error.message) == ("Secrets", True)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"url": "ftp://x/"}, "the URL is not one"),
        ({"url": "http://"}, "the URL is not one"),
        ({"url": "http:///path"}, "the URL is not one"),
        ({"url": "http://x:y/"}, "the URL is not one"),
        ({"url": "http://x:99999/"}, "the URL is not one"),
        ({"url": "http://[x/"}, "the URL is not one"),
        ({"url": "http://x/\nHost: evil"}, "the URL is not one"),
        ({"url": 3}, "the URL is not one"),
        ({"url": "http://x/", "headers": {"a": "b\r\nc: d"}}, "`a` holds a line break"),
        ({"url": "http://x/", "method": "GET /other HTTP/1.1"}, "`method` is no HTTP method"),
        ({"url": "http://x/", "query": [1]}, "`query` gave no mapping"),
    ],
)
def test_what_cannot_be_sent(request_: dict[str, Any], message: str) -> None:
    with pytest.raises(Failed) as caught:
        asked(request_)
    assert caught.value.info.type == "Request"
    assert message in caught.value.info.message


# -- what comes back


@pytest.mark.parametrize(
    ("kind", "body", "expected"),
    [
        ("application/json", b' {"a": 12345678901234567890123, "b": 1.10} ', {"a": 12345678901234567890123, "b": 1.1}),
        ("application/problem+json; charset=utf-8", b"[1]", [1]),
        ("application/json", b"", None),
        ("application/json", b"{not json", "{not json"),
        ("application/json", b"[" * 100_000, "[" * 100_000),
        ("text/plain", b'{"a": 1}', '{"a": 1}'),
        ("text/plain; charset=latin-1", b"gr\xfcn", "grün"),
        ("", b"plain", "plain"),
        ("", "grün".encode(), "grün"),
    ],
)
async def test_bodies(bench: Bench, kind: str, body: bytes, expected: Any) -> None:
    _, url = await bench.serve(answer(body, kind=kind))
    output = await bench(url).output()
    assert output["body"] == expected
    assert "encoding" not in output


@pytest.mark.parametrize(
    "kind", ["image/png", "text/plain", "text/plain; charset=nonsense", "application/json", 'x/y; charset="', "/", ";;;"]
)
async def test_what_is_no_text_comes_in_base64(bench: Bench, kind: str) -> None:
    data = bytes(range(256))
    _, url = await bench.serve(answer(data, kind=kind))
    output = await bench(url).output()
    assert output["encoding"] == "base64"
    assert base64.b64decode(output["body"]) == data


async def test_compressed_and_chunked(bench: Bench) -> None:
    data = gzip.compress(b"x" * 1000)
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (data[:5], data[5:])) + b"0\r\n\r\n"
    _, url = await bench.serve(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-encoding: gzip\r\n\r\n" + chunks)
    assert (await bench(url).output())["body"] == "x" * 1000


async def test_head_and_no_content(bench: Bench) -> None:
    _, url = await bench.serve(b"HTTP/1.1 200 OK\r\ncontent-length: 999999999\r\n\r\n")
    assert (await bench(url, method="HEAD").output())["body"] == ""
    _, url = await bench.serve(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert (await bench(url).output())["status"] == 204


async def test_headers_that_come_twice_and_cookies_that_nobody_else_gets(bench: Bench) -> None:
    raw = b"HTTP/1.1 200 OK\r\nset-cookie: a=1\r\nset-cookie: b=2\r\ncontent-length: 0\r\n\r\n"
    server, url = await bench.serve(raw)
    assert (await bench(url).output())["headers"]["set-cookie"] == "a=1, b=2"
    await bench(url).output()
    assert ["cookie" in heard.headers for heard in server.heard] == [False, False]


async def test_connections_are_used_again(bench: Bench) -> None:
    server, url = await bench.serve(answer("x"))
    for _ in range(5):
        await bench(url).output()
    assert server.connections == 1


async def test_many_at_once(bench: Bench) -> None:
    server, url = await bench.serve(answer("x"))
    trials = [bench(f"{url}/{n}") for n in range(200)]
    assert {(await trial.output())["body"] for trial in trials} == {"x"}
    assert len(server.heard) == 200


# -- what is too much


@pytest.mark.parametrize("told", [True, False])
async def test_a_response_that_is_too_large(bench: Bench, told: bool) -> None:
    body = b"x" * 2_000
    raw = answer(body) if told else b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n" + body
    _, url = await bench.serve(raw)
    error = await bench(url, max_bytes=1_000).error()
    assert error.type == "Response"
    assert error.message.startswith(f"GET {url}/ answered with more than 1KB: raise `max_bytes`")
    if told:
        assert (await bench(url, max_bytes=2_000).output())["body"] == "x" * 2_000


async def test_a_small_response_that_grows(bench: Bench) -> None:
    data = gzip.compress(b"x" * 50_000_000)
    _, url = await bench.serve(answer(data, content_encoding="gzip"))
    assert "answered with more than 16MiB" in (await bench(url).error()).message


async def test_a_server_that_never_stops(bench: Bench) -> None:
    async def endless(heard: Heard) -> bytes | None:
        heard.writer.write(b"HTTP/1.1 500 Oh\r\n\r\n")
        while True:
            heard.writer.write(b"x" * 10_000)
            await heard.writer.drain()

    server, url = await bench.serve(endless)
    error = await bench(url).error()
    assert error.type == "Status"
    assert len(error.message) < 700
    async with asyncio.timeout(10):
        await server.lost.wait()


# -- what is not wanted


@pytest.mark.parametrize(
    ("status", "kind", "parents"),
    [
        (404, "Status", ()),
        (500, "Status", ()),
        (429, "Busy", ("Status",)),
        (503, "Busy", ("Status",)),
        (502, "Gateway", ("Status",)),
    ],
)
async def test_a_status_that_was_not_expected(bench: Bench, status: int, kind: str, parents: tuple[str, ...]) -> None:
    _, url = await bench.serve(answer("why\0not", status=status))
    error = await bench(f"{url.replace('//', '//user:pass@')}/x?key=1").error()
    assert (error.type, error.parents) == (kind, parents)
    assert error.message.startswith(f"GET {url}/x answered {status} ")
    assert error.message.endswith(", expected 2xx\nwhy\ufffdnot")


async def test_the_server_says_when_to_come_again(bench: Bench) -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=600), usegmt=True)
    expected = [
        ("7", 7_000, 7_000),
        (later, 500_000, 600_000),
        ("99999999", 3_600_000, 3_600_000),
        ("soon", 0, 0),
        ("-5", 0, 0),
    ]
    for written, least, most in expected:
        _, url = await bench.serve(answer(status=429, retry_after=written))
        outcome: Outcome = await bench(url).outcome()
        assert least <= outcome.delay_ms <= most, written
    _, url = await bench.serve(answer(status=500, retry_after="7"))
    assert (await bench(url).outcome()).delay_ms == 0


def test_retry_after_that_is_odd() -> None:
    for written in (
        "",
        "Mon",
        "Mon, 99 Foo 2026 99:99:99 GMT",
        "1" * 5_000,
        "٣",
        "1.5",
        "inf",
        "Fri, 01 Jan 0001 00:00:00 GMT",
    ):
        assert 0 <= retry_after_ms([("retry-after", written)], 0.0) <= MAX_RETRY_AFTER_MS
    assert retry_after_ms([], 0.0) == 0


async def test_another_status_may_be_expected(bench: Bench) -> None:
    _, url = await bench.serve(answer("gone", status=404))
    assert (await bench(url, expect=[200, "4xx"]).output())["status"] == 404
    error = await bench(url, expect=[200, 201]).error()
    assert "expected 200, 201" in error.message


# -- redirects


async def test_redirects_are_followed(bench: Bench) -> None:
    async def handler(heard: Heard) -> bytes | None:
        if heard.target == "/new":
            return answer(f"{heard.method} {heard.body.decode()}")
        return answer(status=int(heard.target[1:]), location="/new")

    _, url = await bench.serve(handler)
    assert (await bench(f"{url}/302").output())["body"] == "GET "
    assert (await bench(f"{url}/303", method="POST", body="x").output())["body"] == "GET "
    assert (await bench(f"{url}/307", method="POST", body="x").output())["body"] == "POST x"
    error = await bench(f"{url}/302", follow_redirects=False).error()
    assert "answered 302 Found" in error.message
    assert (await bench(f"{url}/302", expect=[302]).output())["headers"]["location"] == "/new"


async def test_redirects_that_never_end(bench: Bench) -> None:
    server, url = await bench.serve(answer(status=302, location="/again"))
    error = await bench(url).error()
    assert (error.type, "more than 20 redirects" in error.message) == ("Response", True)
    assert len(server.heard) == 21


@pytest.mark.parametrize("place", ["ftp://x/", "file:///etc/passwd", "javascript:alert(1)", "http://", "http://[", "//:x:y"])
async def test_redirects_to_odd_places(bench: Bench, place: str) -> None:
    _, url = await bench.serve(answer(status=302, location=place))
    error = await bench(url).error()
    assert error.type in ("Response", "Request", "Connect", "Status"), error


async def test_another_server_does_not_see_what_is_private(bench: Bench) -> None:
    other, there = await bench.serve(answer("there"))
    _, here = await bench.serve(answer(status=307, location=there))
    headers = {"Authorization": "Basic x", "X-Api-Key": "${{ secrets.KEY }}", "X-Plain": "plain"}
    await bench(here, headers=headers, needs_secrets=True).output()
    (heard,) = other.heard
    assert heard.headers["x-plain"] == "plain"
    assert heard.headers.keys().isdisjoint({"authorization", "x-api-key"})


# -- what breaks


async def closed(heard: Heard) -> bytes | None:
    return None


async def cut(heard: Heard) -> bytes | None:
    heard.writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
    return None


@pytest.mark.parametrize(
    "handler", [closed, cut, b"garbage\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n"]
)
async def test_a_server_that_breaks_off(bench: Bench, handler: Any) -> None:
    _, url = await bench.serve(handler)
    error = await bench(url).error()
    assert error.type == "Connection", error
    assert error.message.startswith(f"GET {url}/: ")


async def test_no_server(bench: Bench) -> None:
    server, url = await bench.serve(closed)
    await server.close()
    error = await bench(url).error()
    assert (error.type, error.parents) == ("Connect", ("Connection",))
    error = await bench("http://no-such-host.invalid/").error()
    assert error.type == "Connect"


async def test_a_body_that_is_not_what_it_says(bench: Bench) -> None:
    _, url = await bench.serve(answer("no gzip", content_encoding="gzip"))
    assert (await bench(url).error()).type == "Response"


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A server's key and certificate in one file, signed by itself."""
    made, key = tmp_path / "server.pem", tmp_path / "key.pem"
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1", "-subj", "/CN=x"]
    command = [
        "openssl",
        "req",
        "-x509",
        *kind,
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        "-keyout",
        str(key),
        "-out",
        str(made),
    ]
    subprocess.run(command, check=True, capture_output=True)
    made.write_text(made.read_text() + key.read_text())
    return made


async def test_a_certificate_that_nobody_vouches_for(bench: Bench, host: Any, trial: Any, certificate: Path) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)
    _, url = await bench.serve(answer("private"), tls)
    error = await bench(url).error()
    assert error.type == "Connect"
    assert "certificate" in error.message.lower()
    trusting = HttpExecutor(trust=ssl.create_default_context(cafile=str(certificate)))
    await trusting.open(host)
    try:
        assert (await trial(trusting, Call("http", {"url": url})).output())["body"] == "private"
    finally:
        await trusting.close()


# -- being stopped


async def never(heard: Heard) -> bytes | None:
    await asyncio.Event().wait()
    return None


async def drip(heard: Heard) -> bytes | None:
    heard.writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nsome")
    return await never(heard)


@pytest.mark.parametrize("handler", [never, drip])
@pytest.mark.parametrize(("reason", "result", "kind"), [("cancel", "cancelled", "Cancelled"), ("timeout", "failed", "Timeout")])
async def test_a_stopped_request_closes_its_connection(
    bench: Bench, handler: Handler, reason: str, result: str, kind: str
) -> None:
    server, url = await bench.serve(handler)
    trial = bench(url, timeout_ms=50)
    async with asyncio.timeout(10):
        await server.came.wait()
        trial.stop(reason)
        outcome = await trial.outcome()
        await server.lost.wait()
    assert (outcome.result, outcome.error.type) == (result, kind)
    trial.stop(reason)  # harmless


async def test_stopped_before_it_began(bench: Bench) -> None:
    trial = bench("http://127.0.0.1:9/")
    trial.stop("cancel")
    assert (await trial.outcome()).result == "cancelled"


async def test_closing_ends_what_runs(bench: Bench) -> None:
    server, url = await bench.serve(never)
    trial = bench(url)
    await server.came.wait()
    await bench.executor.close()
    assert (await trial.error()).type == "Cancelled"
    async with asyncio.timeout(10):
        await server.lost.wait()


async def test_closing_what_was_never_used(host: Any) -> None:
    executor = HttpExecutor()
    await executor.open(host)
    await executor.close()
    await executor.close()


def test_the_client_is_not_loaded_before_it_is_needed() -> None:
    code = "import sys, skep.node.executors.http; sys.exit(bool({'httpx2', 'http.client', 'email'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
