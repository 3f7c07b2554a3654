"""The machine: versions, the clock, what a process may use."""

from __future__ import annotations

import ctypes
import platform
import resource
import sqlite3
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Final

import psutil

from skep import __version__
from skep.cli.doctor.finding import Finding, judged
from skep.model.units import format_bytes
from skep.node.probe import probe

LEAST_PYTHON: Final = (3, 11)
LEAST_SQLITE: Final = (3, 35, 0)
"""The first with RETURNING."""
EARLIEST_S: Final = 1_735_689_600
"""2025: no clock that is right shows less."""
STEP_S: Final = 0.02
LOOK_S: Final = 0.1
OPEN_FILES: Final = 4_096
PROCESSES: Final = 1_024
MEMORY: Final = 512 << 20
TIME_ERROR: Final = 5
"""What adjtimex answers when nothing keeps the clock right."""


def look() -> Iterator[Finding]:
    """Everything about the machine."""
    yield from (_skep(), _python(), _sqlite(), _clock())
    synchronised = _synchronised()
    if synchronised is not None:
        yield judged(
            "time service",
            "keeps the clock right" if synchronised else "nothing keeps the clock right, as far as the kernel knows",
            note=not synchronised,
            advice="switch on NTP (`timedatectl set-ntp true`), so that schedules and ages are right",
        )
    yield from (_files(), _processes(), _memory())


def _skep() -> Finding:
    return judged("skep", f"{__version__}, in {Path(__file__).parents[2]}")


def _python() -> Finding:
    found = f"{platform.python_version()}, {sys.executable}; {platform.system()} {platform.release()}, {platform.machine()}"
    return judged("python", found, wrong=sys.version_info < LEAST_PYTHON, advice="use Python 3.11 or newer")


def _sqlite() -> Finding:
    least = ".".join(map(str, LEAST_SQLITE))
    wrong = sqlite3.sqlite_version_info < LEAST_SQLITE
    return judged("sqlite", sqlite3.sqlite_version, wrong=wrong, advice=f"use a Python with SQLite {least} or newer")


def _clock() -> Finding:
    wall, steady = time.time(), time.monotonic()
    time.sleep(LOOK_S)
    step = (time.time() - wall) - (time.monotonic() - steady)
    now = datetime.now().astimezone()
    if now.timestamp() < EARLIEST_S:
        return judged("clock", f"shows {now:%Y-%m-%d}", wrong=True, advice="set it: runs are sorted by it")
    found = f"{now:%Y-%m-%d %H:%M:%S %Z}" + (
        f", stepped by {step * 1000:+.0f} ms while it was looked at" if abs(step) > STEP_S else ""
    )
    advice = "something sets the clock by steps; let it be slewed (chrony, systemd-timesyncd)"
    return judged("clock", found, note=abs(step) > STEP_S, advice=advice)


def _synchronised() -> bool | None:
    """Whether the kernel holds the clock for right; None when it does not say."""
    try:
        answer = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(512))
    except (OSError, AttributeError):
        return None
    return None if answer < 0 else answer != TIME_ERROR


def _files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return judged(
        "open files",
        _limit(soft),
        note=0 <= soft < OPEN_FILES,
        advice=f"raise it before `skep up`: `ulimit -n {min(hard, 65_536) if hard >= 0 else 65_536}`",
    )


def _processes() -> Finding:
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    limits = [limit for limit in (soft, _pids()) if limit is not None and limit >= 0]
    least = min(limits, default=-1)
    advice = (
        "raise it before `skep up` (`ulimit -u`, or the pids limit of the container): each running task is a process or two"
    )
    return judged("processes", _limit(least), note=0 <= least < PROCESSES, advice=advice)


def _pids() -> int | None:
    """The limit of this process's cgroup, where there is one."""
    try:
        text = Path("/sys/fs/cgroup/pids.max").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    return int(text) if text.isdecimal() else None


def _memory() -> Finding:
    may, free = probe().memory, psutil.virtual_memory().available
    found = f"{format_bytes(may)} may be used, {format_bytes(free)} free on the machine"
    advice = "give the container more, or stop something: tasks that do not fit are killed by the kernel"
    return judged("memory", found, note=min(may, free) < MEMORY, advice=advice)


def _limit(number: int) -> str:
    return "no limit" if number < 0 or number >= 1 << 40 else f"{number:,} at most"
