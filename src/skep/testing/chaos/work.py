"""What the tasks of attacks and drills do: they keep a ledger of effects outside of Skep.

A line: what, name, attempt, token, run, nanoseconds of CLOCK_MONOTONIC, which all processes share; perhaps a word more.
What they return says which attempt returned it, so that one attempt's output is never taken for another's.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from skep.node.context import current_context

Output = dict[str, Any]

STILL_S = 0.005
"""Between two signs that a lock is still held."""


def touch(ledger: str, name: str, ms: int) -> Output:
    """Notes its start and its end, so many milliseconds apart."""
    _note(ledger, "start", name)
    time.sleep(ms / 1000)
    _note(ledger, "end", name)
    return _output()


def linger(ledger: str, name: str, release: str) -> Output:
    """Runs until somebody makes the file `release`."""
    _note(ledger, "start", name)
    while not Path(release).exists():
        time.sleep(0.02)
    _note(ledger, "end", name)
    return _output()


def flaky(ledger: str, name: str, times: int) -> Output:
    """Fails so many times."""
    _note(ledger, "start", name)
    if current_context().attempt <= times:
        raise RuntimeError(f"attempt {current_context().attempt} fails")
    _note(ledger, "end", name)
    return _output()


def count(ledger: str, name: str, steps: int) -> Output:
    """Counts by checkpoint. Each number is noted once it is saved, and each attempt notes with which one it begins."""
    _note(ledger, "start", name)
    done = int(current_context().checkpoint.load(default=0))
    _note(ledger, "loaded", name, str(done))
    while done < steps:
        time.sleep(0.01)
        done += 1
        current_context().checkpoint.save(done)
        _note(ledger, "saved", name, str(done))
    _note(ledger, "end", name)
    return _output(done)


def snooze(ledger: str, name: str, times: int) -> Output:
    """Comes again so many times."""
    _note(ledger, "start", name)
    done = int(current_context().checkpoint.load(default=0))
    if done < times:
        current_context().checkpoint.save(done + 1)
        current_context().snooze("80ms")
    _note(ledger, "end", name)
    return _output()


def hold(ledger: str, name: str, key: str, ms: int) -> Output:
    """Takes a lock for a part of its time."""
    _note(ledger, "start", name)
    with current_context().lock(key):
        _held(ledger, name, key, ms)
    _note(ledger, "end", name)
    return _output()


def locked(ledger: str, name: str, key: str, ms: int) -> Output:
    """For a task that holds the lock as long as it runs."""
    _note(ledger, "start", name)
    _held(ledger, name, key, ms)
    _note(ledger, "end", name)
    return _output()


def hang(ledger: str, name: str) -> None:
    """Until it is stopped."""
    _note(ledger, "start", name)
    while True:
        time.sleep(0.02)


def _output(value: Any = None) -> Output:
    me = current_context()
    return {"attempt": me.attempt, "token": me.token, "value": value}


def _held(ledger: str, name: str, key: str, ms: int) -> None:
    until = time.monotonic() + ms / 1000
    _note(ledger, "held", name, key)
    while time.monotonic() < until:
        time.sleep(STILL_S)
        _note(ledger, "held", name, key)


def _note(ledger: str, what: str, name: str, more: str = "") -> None:
    me = current_context()
    line = f"{what} {name} {me.attempt} {me.token} {me.run_id} {time.monotonic_ns()} {more}\n".encode()
    file = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, line)  # one write below PIPE_BUF to a file opened for appending is never mixed with another
    finally:
        os.close(file)
