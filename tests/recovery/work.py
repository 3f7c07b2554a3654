"""What the tasks of the drills do: they keep a ledger outside of Skep."""

from __future__ import annotations

import os
import time
from pathlib import Path

from skep import context


def touch(ledger: str, name: str, ms: int) -> str:
    """Notes its start and its end, so many milliseconds apart."""
    _note(ledger, "start", name)
    time.sleep(ms / 1000)
    _note(ledger, "end", name)
    return name


def linger(ledger: str, name: str, release: str) -> str:
    """Runs until somebody makes the file `release`."""
    _note(ledger, "start", name)
    while not Path(release).exists():
        time.sleep(0.02)
    _note(ledger, "end", name)
    return name


def _note(ledger: str, what: str, name: str) -> None:
    line = f"{what} {name} {context.attempt} {context.token}\n".encode()
    file = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, line)  # one write below PIPE_BUF to a file opened for appending is never mixed with another
    finally:
        os.close(file)
