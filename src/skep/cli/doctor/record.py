"""The record: whether it is whole, and what of a damaged one can be had."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from skep.cli import remote
from skep.cli.doctor.finding import Finding, judged
from skep.model.units import format_bytes
from skep.record.check import check_record
from skep.wiring.data import RECORD_FILE

LARGE: Final = 500 << 20

RESCUE: Final = (
    "stop the server, keep a copy of the directory, and put a backup in its place (`skep restore DIR --force`); without one,"
    " `sqlite3 record.sqlite .recover` saves what can be read"
)


def look(home: Path) -> Iterator[Finding]:
    """Everything about the record, where there is one."""
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
