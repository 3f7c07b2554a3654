"""The record: whether it is whole, and what of a damaged one can be had."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from skep.cli import remote
from skep.cli.doctor.finding import Finding, judged
from skep.errors import RecordError
from skep.model.units import format_bytes
from skep.record.check import check_database, check_record
from skep.wiring.data import RECORD_FILE

LARGE: Final = 500 << 20

RESCUE: Final = (
    "stop the server, keep a copy of the directory, and put a backup in its place (`skep restore DIR --force`); without one,"
    " `sqlite3 record.sqlite .recover` saves what can be read"
)


SLOW_MS: Final = 10
"""A commit; what is accepted waits for one."""
FAR_MS: Final = 3
"""The way there and back."""


def look(home: Path, url: str = "") -> Iterator[Finding]:
    """Everything about the record, where there is one: in the database of a URL, else in the data directory."""
    if url:
        yield from _database(url)
        return
    path = home / RECORD_FILE
    if not path.exists():
        yield judged("record", "none yet")
        return
    if not os.access(path, os.R_OK):
        yield judged("record", f"{path} cannot be read", wrong=True, advice=f"`chmod u+rw {path}`, or run skep as its owner")
        return
    if path.stat().st_size > LARGE:
        remote.note(f"reading {format_bytes(path.stat().st_size)} of record …")
    report = check_record(path)
    if report.sound:
        yield judged("record", f"{report.summary()}, {format_bytes(report.bytes)}")
        return
    newer = any("newer than" in problem for problem in report.problems)
    for problem in report.problems:
        yield judged("record", problem, wrong=True, advice="" if newer else RESCUE)
    if not newer:
        yield judged("record", report.summary())


def _database(url: str) -> Iterator[Finding]:
    try:
        report = check_database(url)
    except RecordError as error:
        advice = "try `psql` with the same URL from this machine"
        yield judged("record", str(error), wrong=True, advice=advice)
        return
    if report.version is None:
        yield judged("record", f"none yet in {report.shown}")
    else:
        found = f"{report.shown}: schema version {report.version}, {report.runs:,} runs, {format_bytes(report.bytes)}"
        yield judged("record", found)
    yield judged("postgresql", report.server)
    for concern in report.concerns:
        yield judged(
            f"database {concern.what}", concern.found, wrong=concern.wrong, note=not concern.wrong, advice=concern.advice
        )
    if not any(concern.wrong for concern in report.concerns):
        yield judged("durability", "what is committed is on disk: fsync, full_page_writes and synchronous_commit are on")
    advice = "put the database nearer to the servers: every acknowledgement waits for it"
    yield judged("database way", f"{report.way_ms:.1f} ms there and back", note=report.way_ms > FAR_MS, advice=advice)
    advice = "a faster disk for the database's log (pg_wal) makes all of Skep faster"
    yield judged("database commit", f"{report.commit_ms:.1f} ms", note=report.commit_ms > SLOW_MS, advice=advice)
    if report.rejected:
        found = f"{report.rejected:,} events could not be recorded"
        yield judged("events", found, wrong=True, advice="they are kept in the table `rejected`; please report it")
