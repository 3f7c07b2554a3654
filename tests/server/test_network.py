"""A server on the network: who comes in, who does not, and what those do who mean no good."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from skep.clock import SystemClock
from skep.errors import RefusedError
from skep.hub.keys import Keys
from skep.model.node import NodeInfo
from skep.node.attempt import Executor
from skep.node.dial import LINK_PATH, dial_url, node_tls
from skep.node.frames import PROTOCOL, Hello, messages
from skep.node.node import Node
from skep.node.remote import RemoteLink
from skep.record.sql import SqlRecord
from skep.server.guard import Guard
from skep.server.link import MAX_MESSAGE, Links
from skep.server.listen import Address, Listener
from skep.server.network import Network, Tls, parse_address
from skep.server.patience import PatientProtocol
from tests.server.links import FakeWork
from tests.server.tls import make_certificate

HERE = Address("127.0.0.1", 0)


class Heard(NamedTuple):
    status: int
    headers: dict[str, str]
    body: Any


class Site:
    """A server on the network, with an application that answers `/hello`, and the link of nodes."""

    def __init__(self, home: Path, record: SqlRecord) -> None:
        self.home = home
        self.keys = Keys(record, SystemClock())
        self.work = FakeWork()
        self.links = Links(self.work, back_s=0.2, all_back_s=0.4)  # type: ignore[arg-type]
        self.keys.on_revoked = self.links.dismiss
        self.network: Network

    async def start(self, at: Address = HERE, tls: Tls | None = None) -> Site:
        async def hello(request: Request) -> Response:
            return Response(b'"hello"', media_type="application/json")

        self.network = Network(at, tls)
        await self.network.bind(self.keys, MAX_MESSAGE)
        app = Starlette(routes=[Route("/hello", hello, methods=["GET", "POST"]), *self.links.routes])
        await self.network.start(app, self.home)
        return self

    async def stop(self) -> None:
        await self.links.close()
        await self.network.stop()

    @property
    def port(self) -> int:
        return int(self.network.url.rpartition(":")[2])

    async def ask(self, path: str = "/hello", key: str = "", **headers: str) -> Heard:
        """One request, as it stands."""
        lines = {"Host": f"127.0.0.1:{self.port}", "Connection": "close"}
        lines |= {name.replace("_", "-"): value for name, value in headers.items()}
        if key:
            lines["Authorization"] = f"Bearer {key}"
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        writer.write(f"GET {path} HTTP/1.1\r\n{head}\r\n".encode())
        async with asyncio.timeout(10):
            data = await reader.read()
        writer.close()
        top, _, body = data.partition(b"\r\n\r\n")
        status, *given = top.decode().split("\r\n")
        found = {name.lower(): value for name, _, value in (line.partition(": ") for line in given)}
        return Heard(int(status.split()[1]), found, msgspec.json.decode(body) if body else None)

    def link(self, key: str = "", **given: Any) -> Any:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return connect(
            f"ws://127.0.0.1:{self.port}{LINK_PATH}", additional_headers=headers, compression=None, proxy=None, **given
        )

    def node(self, key: str = "", name: str = "n", tls: ssl.SSLContext | None = None, **given: Any) -> Node:
        link = RemoteLink(dial_url(self.network.url, key, tls))
        executors: list[Executor] = []
        node = link.holder = Node(NodeInfo(name, slots=4, **given), link, executors, SystemClock())
        return node


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    record = SqlRecord(None)
    await record.open()
    made = Site(tmp_path, record)
    yield made
    if hasattr(made, "network"):
        await made.stop()
    await record.close()


# -- keys


async def test_loopback_needs_no_key_until_there_is_one(site: Site) -> None:
    await site.start()
    assert (await site.ask()).status == 200
    admin = await site.keys.create("admin")
    refused = await site.ask()
    assert refused.status == 401
    assert refused.headers["www-authenticate"] == "Bearer"
    assert refused.headers["content-type"] == "application/problem+json"
    assert "skep keys create" in refused.body["detail"]
    assert (await site.ask(key=admin.key)).status == 200
    await site.keys.revoke(admin.id)
    gone = await site.ask(key=admin.key)
    assert gone.status == 401
    assert "revoked" in gone.body["detail"]
    assert (await site.ask()).status == 401, "that there was one counts"


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer skep_1_2", "Basic abc", "Bearer \xff", "Bearer " + "x" * 5_000])
async def test_a_wrong_key_is_told_what_to_do(site: Site, header: str, caplog: pytest.LogCaptureFixture) -> None:
    await site.start()
    await site.keys.create("admin")
    heard = await site.ask(Authorization=header)
    assert heard.status == 401
    assert "skep keys create" in heard.body["detail"]
    assert "skep_1_2" not in caplog.text + str(heard.body)


async def test_a_node_key_is_only_for_the_link(site: Site) -> None:
    await site.start()
    node, admin = await site.keys.create("node"), await site.keys.create("admin")
    heard = await site.ask(key=node.key)
    assert heard.status == 403
    assert node.id in heard.body["detail"]
    assert (await site.ask(LINK_PATH, key=node.key)).status == 403, "as plain HTTP it is no link"
    for key in (node.key, admin.key):
        async with site.link(key) as opened:
            await opened.send(next(messages([Hello(PROTOCOL, NodeInfo("n"))])))
            await opened.recv()


async def test_the_link_is_refused_at_its_handshake(site: Site) -> None:
    await site.start()
    await site.keys.create("node")
    for key in ("", "skep_1_2"):
        with pytest.raises(InvalidStatus) as refused:
            async with site.link(key):
                pass
        assert refused.value.response.status_code == 401
        assert b"skep keys create" in (refused.value.response.body or b"")
    assert not site.work.registered


async def test_a_node_with_a_wrong_key_ends_and_says_why(site: Site) -> None:
    await site.start()
    await site.keys.create("node")
    with pytest.raises(RefusedError, match="nobody has this key"):
        await site.node("skep_1_2").open()


async def test_a_node_whose_key_is_revoked_ends_and_is_lost_at_once(site: Site) -> None:
    await site.start()
    made, other = await site.keys.create("node"), await site.keys.create("node")
    node, stays = site.node(made.key), site.node(other.key, "m")
    await node.open()
    await stays.open()
    link: Any = node._link
    await site.keys.revoke(made.id)
    assert "revoked" in await asyncio.wait_for(link.ended, 5)
    await site.work.until(lambda: ("n", True) in site.work.retired)
    assert site.work.registered == {"m": 1}
    await node.close(give_back=True)
    await stays.close(give_back=True)


async def test_one_that_does_not_listen_to_that_is_cut(site: Site) -> None:
    await site.start()
    made = await site.keys.create("node")
    async with site.link(made.key) as opened:
        await opened.send(next(messages([Hello(PROTOCOL, NodeInfo("n"))])))
        await opened.recv()
        await site.keys.revoke(made.id)
        try:
            async with asyncio.timeout(5):
                while True:
                    await opened.recv()
        except ConnectionClosed:
            pass
    await site.work.until(lambda: ("n", True) in site.work.retired)


async def test_beyond_loopback_nothing_starts_without_a_key(site: Site) -> None:
    with pytest.raises(RefusedError, match="skep keys create"):
        await site.start(Address("0.0.0.0", 0))
    made = await site.keys.create("admin")
    await site.keys.revoke(made.id)
    with pytest.raises(RefusedError, match="no key"):
        await site.start(Address("0.0.0.0", 0))
    made = await site.keys.create("admin")
    await site.start(Address("0.0.0.0", 0))
    assert (await site.ask()).status == 401
    assert (await site.ask(key=made.key)).status == 200


# -- pages in a browser of this machine


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example:80"},
        {"Host": ""},
    ],
)
async def test_a_page_of_another_site_may_not_use_it(site: Site, headers: dict[str, str]) -> None:
    await site.start()
    assert (await site.ask(**headers)).status == 403


async def test_pages_of_its_own_may(site: Site) -> None:
    await site.start()
    own = f"127.0.0.1:{site.port}"
    assert (await site.ask(Origin=f"http://{own}")).status == 200
    assert (await site.ask(Host=f"localhost:{site.port}")).status == 200
    assert (await site.ask(Host=f"[::1]:{site.port}", Sec_Fetch_Site="same-origin")).status == 200


async def test_a_page_of_another_site_may_not_be_a_node(site: Site) -> None:
    await site.start()
    with pytest.raises(InvalidStatus) as refused:
        async with site.link(origin="https://evil.example"):
            pass
    assert refused.value.response.status_code == 403


# -- on the way


async def test_a_node_passes_the_proxy_of_its_environment(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    await site.start()
    asked: list[str] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0].decode())
        to, away = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await asyncio.gather(pump(reader, away), pump(to, writer), return_exceptions=True)

    proxy = await asyncio.start_server(serve, "127.0.0.1", 0)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}")
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "ws_proxy", "socks_proxy"):
        monkeypatch.delenv(name, raising=False)
    node = site.node()
    await node.open()
    assert site.work.registered == {"n": 1}
    assert asked == [f"CONNECT 127.0.0.1:{site.port} HTTP/1.1"]
    await node.close(give_back=True)
    proxy.close()


# -- those who mean no good


@pytest.mark.parametrize(
    "said",
    [b"", b"GET /hello HTTP/1.1\r\n", b"GET /hello HTTP/1.1\r\nHost: x\r\nX: ", b"POST /hello HTTP/1.1\r\n"],
)
async def test_who_does_not_finish_a_head_is_cut(site: Site, said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PatientProtocol, "head_s", 0.3)
    await site.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(said)

    async def drip() -> None:
        while True:
            await asyncio.sleep(0.05)
            writer.write(b"x" if said else b"")

    dripping = asyncio.create_task(drip())
    async with asyncio.timeout(5):
        try:
            assert await reader.read() == b""
        except ConnectionError:
            pass  # it was cut while more came
    dripping.cancel()
    writer.close()
    assert (await site.ask()).status == 200


async def test_a_second_request_has_to_come_whole_too(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PatientProtocol, "head_s", 0.3)
    await site.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    host = f"Host: 127.0.0.1:{site.port}\r\n".encode()
    writer.write(b"GET /hello HTTP/1.1\r\n" + host + b"\r\n")
    assert (await reader.readuntil(b'"hello"')).startswith(b"HTTP/1.1 200")
    await asyncio.sleep(0.5)  # between two requests it may rest
    writer.write(b"GET /hello HTTP/1.1\r\n")
    async with asyncio.timeout(5):
        assert await reader.read() == b""
    writer.close()


async def test_a_head_without_end_is_cut(site: Site) -> None:
    await site.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(b"GET /hello HTTP/1.1\r\n" + b"X: y\r\n" * 20_000)
    async with asyncio.timeout(5):
        try:
            while await reader.read(65_536):
                pass
        except ConnectionError:
            pass
    writer.close()
    assert (await site.ask()).status == 200


async def test_garbage_is_answered_and_the_server_goes_on(site: Site) -> None:
    await site.start()
    for said in (b"\x00\xff\x13" * 100, b"\x16\x03\x01\x02\x00", b"HELO there\r\n\r\n"):
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(said)
        async with asyncio.timeout(5):
            assert b"400" in await reader.read()
        writer.close()
    assert (await site.ask()).status == 200


async def test_an_oversized_message_ends_the_connection_only(site: Site) -> None:
    await site.start()
    async with site.link(max_size=None) as opened:
        with pytest.raises(ConnectionClosed, match="too big"):
            await asyncio.gather(opened.send(b"x" * (MAX_MESSAGE + 1)), opened.recv())
    assert (await site.ask()).status == 200


# -- addresses and certificates


def test_addresses_are_read() -> None:
    assert parse_address("0.0.0.0:80") == Address("0.0.0.0", 80)
    assert parse_address("[::1]:0") == Address("::1", 0)
    assert str(Address("::1", 7)) == "[::1]:7"
    for odd in ("", "80", ":80", "host:", "host:x", "host:70000", "::1:80", "host:-1"):
        with pytest.raises(ValueError, match="expected HOST:PORT"):
            parse_address(odd)


async def test_a_port_that_is_taken_and_an_address_of_another_machine_are_refused(site: Site) -> None:
    await site.start()
    for at, why in ((Address("127.0.0.1", site.port), "in use.*another port"), (Address("192.0.2.1", 0), "assign")):
        with pytest.raises(RefusedError, match=why):
            Listener(Guard(site.keys), at, MAX_MESSAGE)
    with pytest.raises(RefusedError, match="no address of this machine"):
        Listener(Guard(site.keys), Address("no.such.host.invalid", 0), MAX_MESSAGE)


async def test_a_file_says_where_it_is_while_it_is(site: Site) -> None:
    await site.start()
    file = site.home / "server.url"
    assert file.read_text() == f"http://127.0.0.1:{site.port}\n"
    await site.network.stop()
    assert not file.exists()


async def test_nodes_come_in_over_tls(site: Site) -> None:
    made = make_certificate(site.home)
    await site.start(tls=Tls(made.cert, made.key))
    assert site.network.url.startswith("https://")
    key = await site.keys.create("node")
    node = site.node(key.key, tls=node_tls(made.cert))
    await node.open()
    assert site.work.registered == {"n": 1}
    await node.close(give_back=True)
    with pytest.raises(Exception, match="not trusted"):
        await dial_url(site.network.url, key.key)()


async def test_with_client_authorities_only_their_own_come_in(site: Site) -> None:
    ours, theirs = make_certificate(site.home), make_certificate(site.home, "other")
    member = make_certificate(site.home, "member", ours)
    await site.start(tls=Tls(ours.cert, ours.key, client_ca=ours.cert))
    node = site.node(tls=node_tls(ours.cert, member.cert, member.key))
    await node.open()
    assert site.work.registered == {"n": 1}
    await node.close(give_back=True)
    for tls in (node_tls(ours.cert), node_tls(ours.cert, theirs.cert, theirs.key)):
        with pytest.raises(Exception, match=r"TLS failed|does not answer"):
            await dial_url(site.network.url, tls=tls)()


def test_bad_files_for_tls_are_refused_with_their_option(tmp_path: Path) -> None:
    made, other = make_certificate(tmp_path), make_certificate(tmp_path, "other")
    junk = tmp_path / "junk.pem"
    junk.write_text("no certificate")
    for tls, option in (
        (Tls(tmp_path / "none.pem", made.key), "--tls-cert"),
        (Tls(junk, made.key), "--tls-cert"),
        (Tls(made.cert, other.key), "belong together"),
        (Tls(made.cert, made.key, junk), "--tls-client-ca"),
    ):
        with pytest.raises(RefusedError, match=option):
            tls.context()
