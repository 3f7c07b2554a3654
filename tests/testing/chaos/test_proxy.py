"""Lines that are slow, silent, cut, and open again."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from skep.testing.chaos.proxy import CUT, OPEN, SILENT, SLOW, Line, Lines


@pytest.fixture
def line() -> Iterator[Line]:
    """To a server that says everything again."""
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_echo, args=(listener,), daemon=True).start()
    lines = Lines()
    made = Line(lines, listener.getsockname()[1])
    try:
        yield made
    finally:
        made.close()
        lines.close()
        listener.close()


def _echo(listener: socket.socket) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return  # it is over
        threading.Thread(target=_answer, args=(connection,), daemon=True).start()


def _answer(connection: socket.socket) -> None:
    with connection:
        try:
            while data := connection.recv(1024):
                connection.sendall(data)
        except OSError:
            return  # it was cut


def call(line: Line) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", line.port), 5)
    connection.settimeout(5)
    return connection


def heard(connection: socket.socket, text: bytes) -> bool:
    connection.sendall(text)
    return connection.recv(1024) == text


def test_what_is_said_comes_through(line: Line) -> None:
    with call(line) as one, call(line) as other:
        assert heard(one, b"hello")
        assert heard(other, b"you")
        assert heard(one, b"again")


def test_on_a_silent_line_nothing_comes_until_it_is_open_again(line: Line) -> None:
    with call(line) as connection:
        assert heard(connection, b"hello")
        line.set(SILENT)
        connection.sendall(b"later")
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            connection.recv(1024)
        line.set(OPEN)
        connection.settimeout(5)
        assert connection.recv(1024) == b"later"


def test_a_cut_line_resets_what_there_is_and_what_comes(line: Line) -> None:
    with call(line) as connection:
        assert heard(connection, b"hello")
        line.set(CUT)
        assert gone(connection)
    with call(line) as another:
        assert gone(another)
    line.set(OPEN)
    with call(line) as third:
        assert heard(third, b"hello")


def gone(connection: socket.socket) -> bool:
    try:
        return connection.recv(1024) == b""
    except ConnectionResetError:
        return True


def test_a_slow_line_takes_its_time_both_ways(line: Line) -> None:
    with call(line) as connection:
        line.set(SLOW, 0.1)
        began = time.monotonic()
        assert heard(connection, b"hello")
        assert time.monotonic() - began >= 0.2
