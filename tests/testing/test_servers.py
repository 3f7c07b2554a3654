"""The servers that tests, benchmarks and drills start: they come up, keep what they hold, and go."""

from __future__ import annotations

import socket

import pytest

from skep.errors import SkepError
from skep.testing.servers import PostgresServer, RedisServer, Server, free_port


def ask(server: Server, words: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(words)
        return connection.recv(100)


def test_redis_keeps_its_port_and_what_was_on_disk() -> None:
    with RedisServer(None, "--appendfsync", "always") as redis:
        assert ask(redis, b"SET a 1\r\n") == b"+OK\r\n"
        redis.kill()
        assert not redis.running
        redis.start()
        assert ask(redis, b"GET a\r\n") == b"$1\r\n1\r\n"
        folder = redis.folder
    assert not redis.running
    assert not folder.exists()


def test_postgres_comes_back_after_a_kill() -> None:
    psycopg = pytest.importorskip("psycopg")
    with PostgresServer() as postgres:
        with psycopg.connect(postgres.url, autocommit=True) as connection:
            connection.execute("CREATE TABLE a AS SELECT 7 AS b")
        postgres.kill()
        postgres.start()
        with psycopg.connect(postgres.url) as connection:
            assert connection.execute("SELECT b FROM a").fetchone() == (7,)


def test_a_server_that_does_not_start_says_why() -> None:
    redis = RedisServer(None, "--no-such-option", "1")
    try:
        with pytest.raises(SkepError, match="no-such-option"):
            redis.start()
    finally:
        redis.close()


def test_a_free_port_is_free() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", free_port()))
