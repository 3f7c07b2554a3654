"""The client's ledger: what it was promised and told, each line on its way to the disk before the next call is made."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import msgspec


class Entry(msgspec.Struct, omit_defaults=True):
    """A line. `what`: accepted, cancelled, decided (acknowledgements); ended (what a client was told); fault, healed, calm."""

    what: str
    at_ns: int
    """Of CLOCK_MONOTONIC."""
    at_ms: int
    """Of the wall clock."""
    run: str = ""
    task: str = ""
    approve: bool = False
    by: str = ""
    state: str = ""
    outcomes: dict[str, str] = {}
    """ended: task to its state and the token of its last attempt."""
    kind: str = ""
    subject: str = ""


class Ledger:
    """For several threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: list[Entry] = []
        self._file = path.open("ab", buffering=0)
        self._turn = threading.Lock()

    def write(self, what: str, **more: Any) -> Entry:
        """Returns when the operating system has it: it outlives this process."""
        entry = Entry(what, time.monotonic_ns(), time.time_ns() // 1_000_000, **more)
        line = msgspec.json.encode(entry) + b"\n"
        with self._turn:
            os.write(self._file.fileno(), line)
            self.entries.append(entry)
        return entry

    def close(self) -> None:
        self._file.close()


def read(path: Path) -> list[Entry]:
    """All lines of a ledger that was kept."""
    decode = msgspec.json.Decoder(Entry).decode
    return [decode(line) for line in path.read_bytes().splitlines()]
