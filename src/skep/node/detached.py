"""Supervisors that go on by themselves: how they are started, found, and told apart from those that are gone.

Each has two files in `nodes/` of the data directory: `NAME.json`, locked for as long as it lives, says who it is; `NAME.log` is
what it has to say.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Final

import msgspec

from skep.errors import RefusedError, SkepError
from skep.model.node import NodeInfo

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
SIZE: Final = 1024
"""Bytes of NAME.json: always as many, so that it is written in one go and never read half."""
LOCK_S: Final = 2.0
"""How long a lock is tried that somebody may only be looking at."""
MOST_LOG: Final = 8 * 1024 * 1024
KEPT_LOG: Final = 1024 * 1024
"""Bytes of a log: beyond the most of them only the last ones are kept."""


class Listed(msgspec.Struct, frozen=True):
    """A supervisor, as its file names it."""

    id: str
    incarnation: int
    pid: int
    started_ms: int
    identity: str = ""
    """See `NodeInfo`."""


def folder(home: Path) -> Path:
    """Where a data directory has the files of its supervisors."""
    return home / "nodes"


def check_name(name: str) -> str:
    """Raises RefusedError for an id that is no file's name."""
    if not NAME.fullmatch(name):
        raise RefusedError(f"a node is named by letters, digits, '.', '_' and '-', at most 100 of them, not {name!r}")
    return name


def start_detached(home: Path, info: NodeInfo, socket: Path | None = None, idle_s: float | None = None) -> int:
    """Starts a supervisor in a session of its own, with this process' environment and directory. Answers its process id.

    `socket`: where its server listens, if not where that of the data directory does. `idle_s`: see `skep.node.supervisor`.
    """
    check_name(info.id)
    place = folder(home)
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    config = place / f"{info.id}.config.json"
    config.write_bytes(msgspec.json.encode(info))
    argv = [sys.executable, "-P", "-m", "skep.node.supervisor", "--home", str(home), "--id", info.id, "--config", str(config)]
    if socket is not None:
        argv += ["--socket", str(socket)]
    if idle_s is not None:
        argv += ["--idle", str(idle_s)]
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    with open(place / f"{info.id}.log", "ab") as out:
        # The shell ends at once: the supervisor is nobody's child then, and leaves no zombie behind.
        started = subprocess.run(
            ["/bin/sh", "-c", '"$@" >&2 & echo $!', "sh", *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=out,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": path},
            check=False,
        )
    try:
        return int(started.stdout)
    except ValueError:
        raise SkepError(f"the node {info.id} cannot be started; its log is {place / info.id}.log") from None


def listed(home: Path) -> list[Listed]:
    """The supervisors of a data directory that live."""
    found = []
    for path in sorted(folder(home).glob("*.json")):
        if path.name.endswith(".config.json"):
            continue
        try:
            with path.open("rb") as file:
                if _lock(file, fcntl.LOCK_SH):
                    continue  # nobody holds it
                found.append(msgspec.json.decode(file.read(), type=Listed))
        except (OSError, msgspec.MsgspecError):
            continue  # removed meanwhile, or being made
    return found


def take_name(home: Path, name: str) -> tuple[IO[bytes], Listed]:
    """Makes this process the supervisor of that name, for as long as the file is open. Raises RefusedError."""
    place = folder(home)
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = os.fdopen(os.open(place / f"{check_name(name)}.json", os.O_RDWR | os.O_CREAT, 0o600), "r+b", buffering=0)
    until = time.monotonic() + LOCK_S
    while not _lock(file, fcntl.LOCK_EX):
        if time.monotonic() > until:
            file.close()
            raise RefusedError(f"a node '{name}' runs on {home} already; give this one another name, or stop that one")
        time.sleep(0.02)
    try:
        last = msgspec.json.decode(file.read(), type=Listed)
    except msgspec.MsgspecError:
        last = Listed(name, 0, 0, 0)
    identity = last.identity or secrets.token_hex(16)
    me = Listed(name, max(last.incarnation + 1, int(time.time())), os.getpid(), time.time_ns() // 1_000_000, identity)
    os.pwrite(file.fileno(), msgspec.json.encode(me).ljust(SIZE), 0)
    os.fsync(file.fileno())
    return file, me


def _lock(file: IO[bytes], how: int) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def cap_log(home: Path, name: str) -> None:
    """Keeps the end of a log that has become long. Whoever writes to it appends."""
    try:
        with open(folder(home) / f"{name}.log", "r+b") as file:
            if file.seek(0, os.SEEK_END) > MOST_LOG:
                file.seek(-KEPT_LOG, os.SEEK_END)
                kept = file.read()
                file.truncate(0)
                file.seek(0)
                file.write(b"(cut)\n" + kept)
    except OSError:
        pass  # there is none, or no space: it is only a log
