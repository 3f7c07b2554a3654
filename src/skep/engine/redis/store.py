"""The connection to Redis or Valkey: checked at the start, never repeating by itself, and always the same process.

Which process it is (`run_id`) is asked on every new connection before it is used; once `bind` was called, another one is
refused with EngineGoneError: a failover, a restart and a restored backup are always noticed.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoScriptError, OutOfMemoryError, ReadOnlyError, RedisError, ResponseError

from skep.engine.redis.line import Line
from skep.engine.redis.scripts import Script
from skep.errors import EngineGoneError, EngineUnavailableError, SkepError, StaleEpochError

ANSWER_S: Final = 10.0
"""How long a reply may take."""
CONNECT_S: Final = 3.0
CONNECTIONS: Final = 8
"""One for all commands, one for each who listens."""
ASKED: Final = 256
"""Commands under way."""
OLDEST: Final = (6, 2)
SMALLEST_MEMORY: Final = 64 * 2**20
SENTINEL: Final = "redis+sentinel"
SENTINEL_PORT: Final = 26_379
HOST: Final = re.compile(r"(\[[^\]]+\]|[^:\[\]]+)(?::(\d+))?")


AWAY: Final = (RedisError, OSError, TimeoutError, RuntimeError)
"""What the client library raises; the last is the event loop's word for a connection that has just been closed."""


class RedisStore:
    """One Redis or Valkey, as every engine, bus and test of this process uses it."""

    def __init__(self, url: str) -> None:
        """Use `connect`."""
        self.where = place_of(url)
        """The URL without its password, for messages."""
        self.client, self._sentinel = _client(url, self._greet)
        self._run_id = ""
        self._slots = asyncio.Semaphore(ASKED)
        self._line: Line | None = None
        self._door = asyncio.Lock()

    @classmethod
    async def connect(cls, url: str) -> RedisStore:
        """A store at `redis://`, `rediss://`, `unix://` or `redis+sentinel://host:port,host:port/service/db`.

        Raises EngineUnavailableError when it does not answer, SkepError when it must not be used as it is.
        """
        store = cls(url)
        try:
            await store._check()
        except BaseException:
            await store.close()
            raise
        return store

    async def close(self) -> None:
        """Harmless when repeated."""
        if self._line is not None:
            self._line.close()
            await asyncio.sleep(0)  # the event loop closes it in its next turn
        await self.client.aclose()
        for one in self._sentinel.sentinels if self._sentinel is not None else ():
            await one.aclose()

    # -- which process it is

    @property
    def bound(self) -> str:
        """The process to which all connections must lead; empty before `bind`."""
        return self._run_id

    async def process(self) -> str:
        """The store's process, as it says itself (`run_id`): another one after every restart and failover."""
        return _run_id(await self.info("server"), self.where)

    def bind(self, process: str) -> None:
        """From now on connections to another process are refused."""
        self._run_id = process

    async def _greet(self, connection: Any) -> None:
        """Runs on each new connection, before it is used."""
        try:
            await connection.on_connect()
            await connection.send_command("INFO", "server")
            self._same(_run_id(_info(await connection.read_response()), self.where))
        except BaseException:
            await connection.disconnect(nowait=True)
            raise

    def _same(self, found: str) -> None:
        if self._run_id and found != self._run_id:
            raise EngineGoneError(
                f"Redis at {self.where} is another process than before (run_id {found[:8]}, was {self._run_id[:8]}):"
                " the engine is opened anew"
            )

    # -- what may be used

    async def _check(self) -> None:
        server, memory = await self.info("server"), await self.info("memory")
        _run_id(server, self.where)
        name = "Valkey" if "valkey_version" in server else "Redis"
        version = server.get("valkey_version") or server.get("redis_version", "0")
        if _version(version) < OLDEST:
            raise SkepError(f"{name} at {self.where} is {version}; Skep needs at least {OLDEST[0]}.{OLDEST[1]}: upgrade it")
        limit, policy = int(memory.get("maxmemory", 0)), memory.get("maxmemory_policy", "noeviction")
        if limit and policy != "noeviction":
            raise SkepError(
                f"{name} at {self.where} may throw keys away (maxmemory-policy {policy}), and accepted work with them:"
                " set maxmemory-policy noeviction"
            )
        if 0 < limit < SMALLEST_MEMORY:
            raise SkepError(
                f"{name} at {self.where} has too little memory (maxmemory {limit} bytes): set maxmemory to at least"
                f" {SMALLEST_MEMORY // 2**20}mb, or to 0 for no limit"
            )

    async def memory(self) -> tuple[int, int]:
        """Bytes used and the limit; the machine's memory where none is set, 0 where that is not told either."""
        found = await self.info("memory")
        return int(found.get("used_memory", 0)), int(found.get("maxmemory", 0)) or int(found.get("total_system_memory", 0))

    async def info(self, section: str) -> Mapping[str, str]:
        """One section of INFO."""
        return _info(await self.command("INFO", section))

    # -- saying something to it

    async def run(self, script: Script, key: str, *args: Any) -> bytes:
        """One script, in one round trip; it is sent in whole only when the store does not know it."""
        try:
            answer = await self.command("EVALSHA", script.sha, 1, key, *args)
        except NoScriptError:
            answer = await self.command("EVAL", script.text, 1, key, *args)
        assert isinstance(answer, bytes)
        return answer

    async def command(self, *parts: Any) -> Any:
        """One command, said once. Raises EngineUnavailableError, StaleEpochError, EngineGoneError."""
        async with self._slots:
            try:
                line = self._line
                if line is None or line.closed:
                    line = await self._connected()
                return await line.ask(parts)
            except NoScriptError:
                raise
            except AWAY as error:
                raise self.translated(error) from error

    async def _connected(self) -> Line:
        task = asyncio.current_task()
        asked = task.cancelling() if task is not None else 0
        async with self._door:
            if self._line is None or self._line.closed:
                connection = self.client.connection_pool.make_connection()  # type: ignore[no-untyped-call]
                try:
                    await connection.connect()
                    self._line = Line(connection, ANSWER_S)
                except BaseException:
                    await connection.disconnect(nowait=True)
                    raise
                finally:
                    if task is not None and task.cancelling() > asked:
                        raise asyncio.CancelledError  # the client library may have swallowed it (see `skep.loop.end`)
            return self._line

    def translated(self, error: Exception) -> SkepError:
        if isinstance(error, AuthenticationError):
            return SkepError(f"Redis at {self.where} refuses the user or the password: {error}")
        text = str(error)
        word = text.split(" ", 1)[0]
        if word == "STALE":
            return StaleEpochError(f"the engine was opened anew (epoch {text.split(' ', 1)[-1]})")
        if word == "GONE":
            return EngineGoneError(f"Redis at {self.where} has lost the engine: it is opened anew")
        if isinstance(error, OutOfMemoryError) or "OOM command" in text:
            return EngineUnavailableError(f"Redis at {self.where} is full: raise its maxmemory")
        if isinstance(error, ResponseError) and not isinstance(error, ReadOnlyError) and "READONLY" not in text:
            return SkepError(f"Redis at {self.where} refused: {text}")
        return EngineUnavailableError(f"Redis at {self.where} does not answer: {text or type(error).__name__}")

    def listener(self) -> PubSub:
        """A connection of its own on which to subscribe."""
        return self.client.pubsub()


def _options(greet: Any) -> dict[str, Any]:
    return {
        "protocol": 2,
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": ANSWER_S,
        "socket_connect_timeout": CONNECT_S,
        "socket_keepalive": True,
        "redis_connect_func": greet,
    }


def _client(url: str, greet: Any) -> tuple[Redis, Sentinel | None]:
    parts = urlsplit(url)
    if parts.scheme in ("redis", "rediss", "unix"):
        return Redis.from_url(url, max_connections=CONNECTIONS, **_options(greet)), None
    if parts.scheme != SENTINEL:
        raise SkepError(
            f"an engine's URL begins with redis://, rediss://, unix:// or {SENTINEL}://, not {parts.scheme or url[:8]!r}"
        )
    hosts, service, db = sentinel_parts(url)
    asks = {"socket_timeout": CONNECT_S, "socket_connect_timeout": CONNECT_S, "protocol": 2}
    query = parse_qs(parts.query)
    if password := query.get("sentinel_password"):
        asks["password"] = password[0]  # type: ignore[assignment]
    login: dict[str, Any] = {"username": unquote(parts.username) if parts.username else None}
    login["password"] = unquote(parts.password) if parts.password else None
    sentinel = Sentinel(hosts, sentinel_kwargs=asks)  # type: ignore[no-untyped-call]
    client: Redis = sentinel.master_for(service, db=db, max_connections=CONNECTIONS, **login, **_options(greet))
    return client, sentinel


def sentinel_parts(url: str) -> tuple[list[tuple[str, int]], str, int]:
    """Hosts, service and database of `redis+sentinel://[user:password@]host:port,host:port/service/db`. Raises SkepError."""
    parts = urlsplit(url)
    names = parts.netloc.rpartition("@")[2]
    path = [unquote(part) for part in parts.path.split("/") if part]
    hosts = []
    for name in names.split(","):
        match = HOST.fullmatch(name)
        if match is None:
            raise SkepError(f"expected {SENTINEL}://host:port,host:port/service/db, found {place_of(url)}")
        hosts.append((match[1].strip("[]"), int(match[2] or SENTINEL_PORT)))
    if not 1 <= len(path) <= 2 or (len(path) == 2 and not path[1].isdigit()):
        raise SkepError(f"expected {SENTINEL}://host:port,host:port/service/db, found {place_of(url)}: name the service")
    return hosts, path[0], int(path[1]) if len(path) == 2 else 0


def place_of(url: str) -> str:
    """The URL without user and password."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _info(answer: bytes | str) -> dict[str, str]:
    text = answer.decode(errors="replace") if isinstance(answer, bytes) else answer
    pairs = (line.partition(":") for line in text.splitlines() if ":" in line and not line.startswith("#"))
    return {name: value.strip() for name, _, value in pairs}


def _run_id(server: Mapping[str, str], where: str) -> str:
    found = server.get("run_id", "")
    if not found:
        raise SkepError(
            f"Redis at {where} does not say which process it is (INFO server has no run_id), as behind some proxies:"
            " connect to the server itself"
        )
    return found


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2] if part.isdigit())
