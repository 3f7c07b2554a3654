"""The data directory: whose it is, how fast its disk is, whether what is recorded is whole."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Final

import psutil

from skep.cli.doctor.finding import Finding, judged
from skep.model.units import format_bytes

TRIES: Final = 15
SLOW_MS: Final = 25.0
"""A commit that takes longer bounds what one can submit by hand."""
LITTLE: Final = 1 << 30
TOO_LITTLE: Final = 64 << 20
AHEAD_S: Final = 60.0
REMOTE: Final = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "afs", "ceph", "glusterfs")


def look(home: Path) -> Iterator[Finding]:
    """Everything about the data directory, which need not exist."""
    yield _owner(home)
    place = _existing(home)
    yield from (_room(place), _filesystem(place))
    yield from _speed(place)
    record = home / "record.sqlite"
    if record.exists() and os.access(record, os.R_OK):
        yield _newest(record)


def _existing(path: Path) -> Path:
    return next(one for one in (path, *path.parents) if one.exists())


def _owner(home: Path) -> Finding:
    what = "data"
    if not home.exists():
        usable = os.access(_existing(home), os.W_OK | os.X_OK)
        advice = "make it, or give its parent to this user; or choose another with --data or SKEP_HOME"
        return judged(
            what, f"{home} is not there yet" + ("" if usable else " and cannot be made"), wrong=not usable, advice=advice
        )
    if not home.is_dir():
        return judged(what, f"{home} is no directory", wrong=True, advice="choose another with --data or SKEP_HOME")
    seen = home.stat()
    if seen.st_uid != os.getuid():
        advice = f"run skep as its owner, or `chown -R {os.getuid()} {home}`"
        return judged(what, f"{home} belongs to user {seen.st_uid}, this is user {os.getuid()}", wrong=True, advice=advice)
    if not os.access(home, os.W_OK | os.X_OK):
        return judged(what, f"{home} cannot be written", wrong=True, advice=f"`chmod u+rwx {home}`, or mount it for writing")
    if seen.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        advice = f"it holds inputs and outputs: `chmod 700 {home}`"
        return judged(what, f"{home} may be read by others (mode {stat.S_IMODE(seen.st_mode):o})", note=True, advice=advice)
    return judged(what, f"{home}, only for user {seen.st_uid}")


def _room(place: Path) -> Finding:
    free = shutil.disk_usage(place).free
    found = f"{format_bytes(free)} free"
    advice = "make room: when the disk is full nothing more is accepted"
    return judged("disk", found, wrong=free < TOO_LITTLE, note=free < LITTLE, advice=advice)


def _filesystem(place: Path) -> Finding:
    mounts = [mount for mount in psutil.disk_partitions(all=True) if place.is_relative_to(mount.mountpoint)]
    kind = max(mounts, key=lambda mount: len(mount.mountpoint)).fstype if mounts else "unknown"
    advice = "put the data on a disk of this machine (--data): locks and fsync cannot be trusted over a network"
    return judged("file system", kind, wrong=kind in REMOTE, advice=advice)


def _speed(place: Path) -> Iterator[Finding]:
    try:
        with tempfile.TemporaryDirectory(prefix=".skep-doctor-", dir=place) as folder:
            for what, times in (("fsync", _fsyncs(Path(folder))), ("commit", _commits(Path(folder)))):
                ms = median(times)
                advice = "a faster disk makes all of Skep faster: nothing is acknowledged before it is on disk"
                yield judged(what, f"{ms:.1f} ms, {max(times):.1f} ms at worst", note=ms > SLOW_MS, advice=advice)
    except (OSError, sqlite3.Error) as error:
        yield judged("fsync", f"cannot be measured: {error}", wrong=True, advice=f"see why {place} cannot be written")


def _fsyncs(folder: Path) -> list[float]:
    times = []
    with (folder / "file").open("wb", buffering=0) as file:
        for _ in range(TRIES):
            began = time.perf_counter()
            file.write(bytes(4_096))
            os.fsync(file.fileno())
            times.append((time.perf_counter() - began) * 1000)
    return times


def _commits(folder: Path) -> list[float]:
    times = []
    with closing(sqlite3.connect(folder / "file.sqlite", isolation_level=None)) as base:
        base.execute("PRAGMA journal_mode = WAL")
        base.execute("PRAGMA synchronous = FULL")
        base.execute("CREATE TABLE t (a BLOB)")
        for _ in range(TRIES):
            began = time.perf_counter()
            base.execute("INSERT INTO t VALUES (zeroblob(500))")
            times.append((time.perf_counter() - began) * 1000)
    return times


def _newest(record: Path) -> Finding:
    ahead_s = record.stat().st_mtime - time.time()
    found = f"the record was written {ahead_s:.0f} s from now" if ahead_s > AHEAD_S else "the record is not of the future"
    advice = "the clock was set back; set it right before the next start"
    return judged("clock and record", found, wrong=ahead_s > AHEAD_S, advice=advice)
