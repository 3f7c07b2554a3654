"""Records of every shape, and a builder of numbered events."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest

from skep.model.event import Event
from skep.record.protocol import EngineRow, NewRun, Record
from skep.record.sql import SqlRecord
from skep.testing.servers import PostgresServer

EPOCH = 1_750_000_000
NOW = 1_750_000_000_000


class Story:
    """Events of one epoch, numbered as they are told; `take` hands over those not yet taken, with their `after`."""

    def __init__(self, run: str = "r1", node: str = "n1") -> None:
        self.run, self.node = run, node
        self.events: list[Event] = []
        self.taken = 0

    def tell(self, kind: str, **fields: Any) -> Event:
        n = len(self.events) + 1
        event = Event(n=n, at_ms=NOW + n, kind=kind, **({"run": self.run} | fields))
        self.events.append(event)
        return event

    def grant(self, task: int, attempt: int = 1, **fields: Any) -> Event:
        n = len(self.events) + 1
        return self.tell("granted", task=task, attempt=attempt, token=n, token_epoch=EPOCH, node=self.node, **fields)

    def end(self, kind: str, grant: Event, **fields: Any) -> Event:
        times = {"started_ms": grant.at_ms, "ran_ms": 7}
        lease = {"task": grant.task, "attempt": grant.attempt, "token": grant.token, "token_epoch": grant.token_epoch}
        return self.tell(kind, **(lease | times | {"run": grant.run} | fields))

    def take(self) -> tuple[int, list[Event]]:
        after, self.taken = self.taken, len(self.events)
        return after, self.events[after:]


@pytest.fixture
def story() -> Story:
    return Story()


@pytest.fixture
def new_run() -> Callable[..., NewRun]:
    def make(id: str = "r1", **fields: Any) -> NewRun:
        given: dict[str, Any] = {
            "engine": "e1",
            "workflow": "w",
            "definition": b'{"name":"w"}',
            "digest": "d1",
            "accepted_ms": NOW,
        }
        return NewRun(id=id, **(given | fields))

    return make


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One for all tests of a process; nothing of it must outlive a crash, so that it is quick."""
    with PostgresServer(fsync="off", full_page_writes="off") as server:
        yield server


@pytest.fixture
def postgres(postgres_server: PostgresServer) -> str:
    """The URL of a record that nobody has used."""
    return fresh(postgres_server)


def fresh(server: PostgresServer) -> str:
    """A schema of its own in the server's one database."""
    name = f"test_{next(_numbers)}"
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}")
    return f"{server.url}?options=-csearch_path%3D{name}"


_numbers = count(1)


@pytest.fixture(params=["file", "memory", "inline", "postgres"])
async def record(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SqlRecord]:
    made = {
        "file": lambda: SqlRecord(tmp_path / "skep.db"),
        "memory": lambda: SqlRecord(),
        "inline": lambda: SqlRecord(inline=True),
        "postgres": lambda: SqlRecord(request.getfixturevalue("postgres")),
    }[request.param]()
    await made.open()
    yield made
    await made.close()


@pytest.fixture
async def ready_record(record: SqlRecord, new_run: Callable[..., NewRun]) -> SqlRecord:
    """With an engine `e1` opened at `EPOCH` and an accepted run `r1`."""
    seam: Record = record  # the class fits the Protocol
    assert await seam.open_engine(EngineRow("e1", EPOCH, 0, "p1", False), after_epoch=0)
    assert await seam.accept([new_run()]) == [("r1", True)]
    return record
