"""The client from Python: a workflow handed to a real server, and what comes back."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

import skep
from skep import task, workflow
from skep.client import Client, Refusal, UnreachableError
from skep.client.wire import refusal_of, url_of
from skep.config import socket_path
from skep.errors import NotFoundError, RefusedError, RunFailedError, SkepError, SpecError
from skep.testing.up import Up


@task
def double(n: int) -> int:
    return n * 2


@task
def fail(n: int) -> int:
    raise ValueError(f"not {n}")


@workflow
def doubled(n: int, more: int = 1):  # type: ignore[no-untyped-def]
    return double(n)


@workflow
def failing(n: int):  # type: ignore[no-untyped-def]
    return fail(n)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with Up(tmp_path_factory.mktemp("client") / "home", "--node", "n:cpu;slots=8;cpu=8") as server:
        server.start()
        yield server


def test_a_workflow_is_handed_over_and_its_result_comes_back(up: Up) -> None:
    with skep.Client(up.home) as client:
        run = client.submit(doubled, n=21, labels={"from": "python"}, priority="high")
        assert run.result(timeout="20s") == 42
        status = run.status()
        assert (status.state, status.priority, status.labels) == ("succeeded", 8, {"from": "python"})


def test_a_failure_comes_with_the_traceback_of_the_task(up: Up) -> None:
    with Client(up.home) as client, pytest.raises(RunFailedError, match=r"raise ValueError[\s\S]*not 7"):
        client.submit(failing, n=7).result("20s")


def test_a_stored_one_by_its_name(up: Up) -> None:
    with Client(up.home) as client:
        client.definitions.put(doubled.spec)
        assert client.submit("doubled@1", n=4).result(20) == 8
        with pytest.raises(NotFoundError, match="tripled"):
            client.submit("tripled")


def test_wrong_inputs_are_refused_by_name(up: Up) -> None:
    with Client(up.home) as client, pytest.raises(SpecError, match=r"inputs\.m"):
        client.submit(doubled, m=1)


def test_a_run_that_takes_too_long(up: Up) -> None:
    with Client(up.home) as client:
        run = client.submit(doubled, n=1, delay="1h")
        with pytest.raises(TimeoutError, match=run.id):
            run.wait("50ms")
        run.cancel()
        assert run.wait(20).state == "cancelled"


def test_a_kept_connection_that_the_server_closed_is_made_anew(up: Up) -> None:
    with Client(up.home) as client:
        assert client.insight.status()
        assert client._connection is not None
        assert client._connection.sock is not None
        client._connection.sock.shutdown(socket.SHUT_RDWR)
        assert client.insight.status()


def test_a_server_that_hangs_up_is_not_asked_for_ever(tmp_path: Path) -> None:
    calls = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(socket_path(tmp_path)))
        listener.listen()

        def hang_up() -> None:
            while True:
                try:
                    caller, _ = listener.accept()
                except OSError:
                    return
                calls.append(caller.recv(65_536))
                caller.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with Client(tmp_path) as client, pytest.raises(UnreachableError, match="did not answer"):
            client.insight.status()
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert len(calls) == 3


# -- words


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("NotFoundError", NotFoundError),
        ("RefusedError", RefusedError),
        ("SpecError", SpecError),
        ("Exception", SkepError),
        ("RunFailedError", SkepError),
        ("Sequence", SkepError),
    ],
)
def test_a_refusal_is_the_error_that_it_names(code: str, kind: type[SkepError]) -> None:
    told = Refusal(title="t", status=422, detail="d", code=code, problems=[{"path": "a.b", "message": "m", "line": None}])
    error = refusal_of(422, msgspec.json.encode(told))
    assert type(error) is kind
    assert error.problems[0].path == "a.b"


def test_an_answer_that_is_no_refusal() -> None:
    assert "502" in str(refusal_of(502, b"<html>"))


def test_queries_leave_out_what_is_empty() -> None:
    query = {"a": None, "b": "", "c": False, "d": True, "e": ["x", "y z"], "f": 0, "g": ()}
    assert url_of("/p", query) == "/p?d=1&e=x&e=y+z&f=0"
    assert url_of("/p", {}) == "/p"
