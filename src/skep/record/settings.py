"""What is to be said of a PostgreSQL server that keeps a record: its settings, its speed, whether the record is there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import median
from typing import Final

import msgspec

from skep.record.dialect import Concern, Transaction

LEAST_CONNECTIONS: Final = 20
TRIES: Final = 9

_NAMES: Final = ("fsync", "full_page_writes", "synchronous_commit", "max_connections")


class PostgresReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was found in a database."""

    shown: str
    """Its URL without secrets."""
    server: str
    """The version of PostgreSQL."""
    version: int | None
    """Of the schema; None: there is no record yet."""
    runs: int
    bytes: int
    rejected: int
    """Events that could not be applied."""
    way_ms: float
    """There and back."""
    commit_ms: float
    """A commit of its own, until it is on disk."""
    concerns: list[Concern]


def concerns(tx: Transaction) -> list[Concern]:
    """Settings that lose what was acknowledged, the worst first; none: nothing is lost."""
    found: dict[str, str] = dict(
        tx.all(f"SELECT name::text, setting FROM pg_settings WHERE name IN ({', '.join('?' * len(_NAMES))})", *_NAMES)
    )
    return list(_judged(found))


def _judged(found: dict[str, str]) -> Iterator[Concern]:
    if found.get("fsync") == "off":
        told = "fsync is off: a power cut may destroy the whole record"
        yield Concern("fsync", told, "set `fsync = on` in postgresql.conf and restart PostgreSQL", True)
    if found.get("full_page_writes") == "off":
        told = "full_page_writes is off: a power cut may leave pages half-written"
        yield Concern("full_page_writes", told, "set `full_page_writes = on`, unless the file system never tears a page", True)
    if (commit := found.get("synchronous_commit")) == "off":
        told = "synchronous_commit is off: a crash loses the runs accepted in the last moments"
        advice = "set `synchronous_commit = on`, for the server or for this database (`ALTER DATABASE … SET …`)"
        yield Concern("synchronous_commit", told, advice, True)
    elif commit == "local":
        told = "synchronous_commit is local: a failover may lose what was accepted in the last moments"
        yield Concern("synchronous_commit", told, "set it to `on`, if a standby is to take over without loss", False)
    if (most := int(found.get("max_connections", "100"))) < LEAST_CONNECTIONS:
        told = f"max_connections is {most}: each server takes four, and one more for a moment"
        yield Concern("max_connections", told, f"set `max_connections` to {LEAST_CONNECTIONS} or more", False)


def report(tx: Transaction) -> PostgresReport:
    """Looks at a database, and writes nothing to it but a note to its log, to see how long that takes."""
    server = tx.one("SELECT split_part(current_setting('server_version'), ' ', 1)")
    tables = tx.dialect.tables(tx)
    version = tx.one("SELECT version FROM record_version") if "record_version" in tables else None
    runs = tx.one("SELECT COUNT(*) FROM runs") if "runs" in tables else None
    rejected = tx.one("SELECT COUNT(*) FROM rejected") if "rejected" in tables else None
    return PostgresReport(
        shown=tx.dialect.shown,
        server=server[0] if server else "",
        version=version[0] if version else None,
        runs=runs[0] if runs else 0,
        bytes=tx.dialect.size(tx),
        rejected=rejected[0] if rejected else 0,
        way_ms=_ms(tx, "SELECT 1"),
        commit_ms=_ms(tx, "SELECT pg_logical_emit_message(true, 'skep', 'doctor')"),
        concerns=concerns(tx),
    )


def _ms(tx: Transaction, sql: str) -> float:
    times = []
    for _ in range(TRIES):
        began = time.perf_counter()
        tx.all(sql)
        times.append((time.perf_counter() - began) * 1_000)
    return median(times)
