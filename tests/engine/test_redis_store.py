"""The store: what is refused at the start, and that another process is always noticed."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from skep.engine.redis import RedisEngine, RedisStore
from skep.engine.redis.line import Line
from skep.engine.redis.store import sentinel_parts
from skep.errors import EngineGoneError, EngineUnavailableError, SkepError
from skep.testing.servers import RedisServer, free_port
from tests.engine.servers import IDS, PROGRAMS, server, until
from tests.server.tls import make_certificate

pytestmark = pytest.mark.parametrize("program", PROGRAMS, ids=IDS)


def line_of(store: RedisStore) -> Line:
    assert store._line is not None
    return store._line


@pytest.fixture
def redis(program: Path) -> Iterator[RedisServer]:
    """One of the test's own, to do harm to."""
    with RedisServer(program=program) as started:
        yield started


async def test_a_store_says_which_process_it_is(program: Path) -> None:
    store = await RedisStore.connect(server(program).url)
    assert len(await store.process()) == 40
    assert await store.process() == await store.process()
    used, most = await store.memory()
    assert 0 < used < most
    await store.close()
    await store.close()


@pytest.mark.parametrize(
    ("options", "setting"),
    [
        (("--maxmemory", "256mb", "--maxmemory-policy", "allkeys-lru"), "maxmemory-policy noeviction"),
        (("--maxmemory", "32mb"), "maxmemory to at least 64mb"),
    ],
)
async def test_what_would_lose_work_is_refused_and_the_setting_named(
    program: Path, options: tuple[str, ...], setting: str
) -> None:
    with RedisServer(None, *options, program=program) as wrong, pytest.raises(SkepError, match=setting):
        await RedisStore.connect(wrong.url)


async def test_no_limit_and_a_large_one_are_fine(program: Path) -> None:
    with RedisServer(None, "--maxmemory", "64mb", program=program) as small:
        store = await RedisStore.connect(small.url)
        assert (await store.memory())[1] == 64 * 2**20
        await store.close()


async def test_nobody_there_is_said_without_the_password(program: Path) -> None:
    with pytest.raises(EngineUnavailableError) as caught:
        await RedisStore.connect(f"redis://user:hunter2@127.0.0.1:{free_port()}/0")
    assert "hunter2" not in str(caught.value)


async def test_a_wrong_password_is_said(program: Path, redis: RedisServer) -> None:
    opened = await RedisStore.connect(redis.url)
    await opened.command("CONFIG", "SET", "requirepass", "right")
    await opened.close()
    for url in (redis.url, redis.url.replace("127", ":hunter2@127")):
        with pytest.raises(SkepError, match="password"):
            await RedisStore.connect(url)
    store = await RedisStore.connect(redis.url.replace("127", ":right@127"))
    await store.process()
    await store.close()


@pytest.mark.parametrize(
    "url", ["http://host", "redis+sentinel://host:1", "redis+sentinel://host:x/main", "redis+sentinel://host/main/0/1"]
)
async def test_a_wrong_url_is_refused(program: Path, url: str) -> None:
    with pytest.raises(SkepError, match=r"redis\+sentinel://"):
        await RedisStore.connect(url)


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("redis+sentinel://a:1,b:2/main/3", ([("a", 1), ("b", 2)], "main", 3)),
        ("redis+sentinel://user:pass@a/main", ([("a", 26379)], "main", 0)),
        ("redis+sentinel://[::1]:5/my%20name", ([("::1", 5)], "my name", 0)),
    ],
)
def test_sentinels_are_named_in_the_url(program: Path, url: str, parts: object) -> None:
    assert sentinel_parts(url) == parts


async def test_another_process_is_refused(program: Path, redis: RedisServer) -> None:
    store = await RedisStore.connect(redis.url)
    store.bind(await store.process())
    redis.kill()
    with pytest.raises(EngineUnavailableError):
        await store.command("PING")
    redis.start()
    for _ in range(3):
        with pytest.raises(EngineGoneError, match="another process"):
            await store.command("PING")
    store.bind("")
    assert await store.command("PING") == b"PONG"
    await store.close()


async def test_a_frozen_server_does_not_hold_a_caller_for_ever(
    program: Path, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skep.engine.redis.store.ANSWER_S", 0.3)
    store = await RedisStore.connect(redis.url)
    redis.freeze()
    with pytest.raises(EngineUnavailableError):
        await asyncio.wait_for(store.command("PING"), 5)
    redis.thaw()
    assert await store.command("PING") == b"PONG"
    await store.close()


async def test_after_a_failover_the_new_master_is_another_process(program: Path, redis: RedisServer, tmp_path: Path) -> None:
    """A real sentinel moves the service to the replica."""
    replica = RedisServer(None, "--replicaof", "127.0.0.1", str(redis.port), program=program)
    port = free_port()
    config = tmp_path / "sentinel.conf"
    config.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {tmp_path}\nsentinel monitor main 127.0.0.1 {redis.port} 1\n"
        "sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 3000\n"
    )
    watcher = await asyncio.create_subprocess_exec(
        str(program), str(config), "--sentinel", stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        with replica:
            url = f"redis+sentinel://127.0.0.1:{port}/main/0"
            store = await until(lambda: RedisStore.connect(url))
            store.bind(await store.process())
            await until(lambda: _known(port, "slaves=1"))
            redis.kill()
            with pytest.raises(EngineGoneError):
                await until(lambda: store.command("PING"), passing=EngineUnavailableError)
            await store.close()
            again = await until(lambda: RedisStore.connect(url))
            assert await again.process() != store.bound
            await again.close()
    finally:
        watcher.kill()
        await watcher.wait()


async def _known(port: int, word: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"INFO sentinel\r\n")
    said = (await reader.read(4096)).decode()
    writer.close()
    await writer.wait_closed()
    if word not in said:
        raise EngineUnavailableError(said)


async def test_a_cancellation_that_the_client_library_swallows_is_heeded(
    program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`asyncio.wait_for` of Python 3.11 does that when its answer comes at the same moment."""
    store = await RedisStore.connect(server(program).url)
    asked = asyncio.Event()
    kind = store.client.connection_pool.connection_class
    connects = kind.connect

    async def swallows(connection: Any) -> None:
        asked.set()
        try:
            await asyncio.sleep(3_600)
        except asyncio.CancelledError:
            pass
        await connects(connection)  # type: ignore[no-untyped-call]

    monkeypatch.setattr(kind, "connect", swallows)
    line_of(store).close()
    task = asyncio.create_task(store.command("PING"))
    await asked.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    line_of(store).close()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await store.command("PING")
    monkeypatch.undo()
    assert await store.command("PING") == b"PONG"
    await store.close()


async def test_a_connection_that_was_closed_under_a_command_counts_as_away(
    program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """uvloop says so with a RuntimeError."""
    store = await RedisStore.connect(server(program).url)

    def closed(data: bytes) -> None:
        raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")

    monkeypatch.setattr(line_of(store), "_transport", SimpleNamespace(write=closed))
    with pytest.raises(EngineUnavailableError, match="the handler is closed"):
        await store.command("PING")
    monkeypatch.undo()
    await store.close()


async def test_an_answer_belongs_to_who_asked_whoever_gives_up(program: Path) -> None:
    store = await RedisStore.connect(server(program).url)
    tasks = [asyncio.create_task(store.command("ECHO", str(at))) for at in range(50)]
    await asyncio.sleep(0)
    for task in tasks[::3]:
        task.cancel()
    await asyncio.wait(tasks)
    assert [None if task.cancelled() else int(task.result()) for task in tasks] == [at if at % 3 else None for at in range(50)]
    with pytest.raises(SkepError, match="unknown command"):
        await store.command("NONSENSE")
    assert await store.command("ECHO", "x" * 2_000_000) == b"x" * 2_000_000
    await store.close()


async def test_a_line_that_breaks_fails_all_who_wait_and_the_next_command_has_another(
    program: Path, redis: RedisServer
) -> None:
    store = await RedisStore.connect(redis.url)
    first = line_of(store)
    redis.freeze()
    tasks = [asyncio.create_task(store.command("PING")) for _ in range(5)]
    await asyncio.sleep(0)
    assert redis.process is not None
    redis.process.kill()
    redis.process.wait()
    for answer in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(answer, EngineUnavailableError)
    assert first.closed
    redis.start()
    assert await asyncio.gather(*(store.command("PING") for _ in range(5))) == [b"PONG"] * 5
    assert line_of(store) is not first
    await store.close()


async def test_a_line_is_encrypted_where_the_url_says_so(program: Path, tmp_path: Path) -> None:
    """A server with TLS is made of a plain one and a door before it."""
    made = make_certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(made.cert, made.key)
    pumps: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(2**16):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, to_there = await asyncio.open_connection("127.0.0.1", server(program).port)
        both = [asyncio.create_task(pump(reader, to_there)), asyncio.create_task(pump(there, writer))]
        pumps.update(both)
        await asyncio.wait(both)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as listening:
        port = listening.sockets[0].getsockname()[1]
        store = await RedisStore.connect(f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={made.cert}")
        assert await store.command("ECHO", "x" * 1_000_000) == b"x" * 1_000_000
        await store.close()
        await asyncio.gather(*pumps)


async def test_hearing_ends_though_the_client_library_goes_on(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that opens its engine anew waits for that."""
    store = await RedisStore.connect(server(program).url)
    engine = RedisEngine(store, "e", 1)
    await engine.start()
    store.bind("another process")
    calls = 0

    async def swallows(connection: object) -> None:
        nonlocal calls
        calls += 1
        try:
            await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            if calls > 1:
                raise
        raise EngineGoneError("gone")

    monkeypatch.setattr(store.client.connection_pool.connection_class, "connect", swallows)
    (heard,) = [task for task in asyncio.all_tasks() if task.get_name() == "engine topics"]
    connection = store.client.connection_pool._in_use_connections
    await next(iter(connection)).disconnect()
    async with asyncio.timeout(10):
        while not calls:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await engine.close()
    assert heard.done()
    await store.close()
