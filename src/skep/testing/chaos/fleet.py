"""The fleet under attack: servers, their stores, their nodes, and the lines between them. All of it is ours to break.

wide     several servers on one Redis and one PostgreSQL; each node calls them over lines of its own, from a network namespace
         of its own where that is possible
small    one server with its SQLite file, and local nodes: where a store is missing
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

import psutil

from skep.client import Client, UnreachableError
from skep.errors import SkepError
from skep.node.detached import listed
from skep.testing.chaos.graphs import APP, WORK
from skep.testing.chaos.places import Place
from skep.testing.chaos.program import Program, tell
from skep.testing.chaos.proxy import Line
from skep.testing.servers import PostgresServer, RedisServer

BROKEN: Final = ("skep.testing.chaos.broken",)
READY_S: Final = 60.0
SLOTS: Final = 8


class Member(Protocol):
    """A node that can be hit."""

    name: str

    @property
    def pid(self) -> int | None: ...

    def kill(self) -> None: ...

    def start(self) -> None: ...

    def freeze(self) -> None: ...

    def thaw(self) -> None: ...


class LocalNode:
    """A node that its server starts, and starts again."""

    def __init__(self, home: Path, name: str) -> None:
        self.name = name
        self._home = home

    @property
    def pid(self) -> int | None:
        return next((node.pid for node in listed(self._home) if node.id == self.name), None)

    def kill(self) -> None:
        tell(self.pid, signal.SIGKILL)

    def start(self) -> None:
        """Its server does."""

    def freeze(self) -> None:
        tell(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        tell(self.pid, signal.SIGCONT)


class Fleet:
    """Made in a folder; nothing runs before `start`."""

    def __init__(self, folder: Path, *, broken: str = "") -> None:
        """`broken`: the guard that the servers do without."""
        self.folder = folder
        self.broken = broken
        self.servers: list[Program] = []
        self.homes: list[Path] = []
        self.nodes: list[Member] = []
        self.redis: RedisServer | None = None
        self.postgres: PostgresServer | None = None
        self.lines: dict[tuple[str, int], list[Line]] = {}
        """Those of a node (`node`, 1), and of a server to its stores (`redis`, 0), (`postgres`, 0)."""
        self.places: dict[int, Place] = {}
        """Of nodes, by their number."""
        self.no_places = "its nodes do not call their server over a network"
        """Why there are none."""

    # -- what differs

    def describe(self) -> str:
        """In a few words."""
        raise NotImplementedError

    def _start(self) -> None:
        raise NotImplementedError

    def _close(self) -> None:
        """After its servers and nodes are gone."""

    # -- what is common

    def start(self) -> None:
        """Returns when everything answers. Raises SkepError with what was said when it does not."""
        self._start()
        self.until(self.is_whole, "all servers and nodes are there")

    def is_whole(self) -> bool:
        """Every server answers, and knows of every node."""
        for client in self.clients():
            try:
                with client:
                    if len(client.nodes.list()) < len(self.nodes) or client.insight.status().trouble:
                        return False
            except UnreachableError:
                return False
        return True

    def clients(self) -> list[Client]:
        """New ones, one for each server."""
        return [Client(home) for home in self.homes]

    work = APP
    """What its nodes call the module of the tasks."""
    ours = True
    """Whether its processes are ours to kill."""
    one_machine = True
    """Whether all of it tells the same time."""
    command: Callable[[], None] | None = None
    """What its owner gave to break it."""
    without = ""
    """Why it is a smaller one than could be."""

    def leader(self) -> int:
        """Which of the servers leads, as far as they say; else the first."""
        for at, client in enumerate(self.clients()):
            try:
                with client:
                    if client.insight.status().leads:
                        return at
            except SkepError:
                continue  # it is not there, or has no engine
        return 0

    def keep(self) -> None:
        """What ended by itself is started again."""
        for program in self._programs():
            program.keep()

    def _programs(self) -> Sequence[Program]:
        return [*self.servers, *(node for node in self.nodes if isinstance(node, Program))]

    def ended(self) -> dict[str, list[int]]:
        """Programs that ended by themselves, to their exit codes."""
        return {program.name: program.ended for program in self._programs() if program.ended}

    def until(self, holds: Callable[[], bool], what: str, limit_s: float = READY_S) -> None:
        end = time.monotonic() + limit_s
        while not holds():
            self.keep()
            if time.monotonic() > end:
                raise SkepError(f"not within {limit_s:g} s: {what}\n{self.said()}")
            time.sleep(0.05)

    def said(self) -> str:
        """The ends of what the programs wrote."""
        tails = []
        for program in self._programs():
            text = program.log.read_text(errors="replace")[-1_500:] if program.log.exists() else ""
            tails.append(f"--- {program.name}\n{text}")
        return "\n".join(tails)

    def below(self, node: Member) -> list[psutil.Process]:
        """Processes of a node beside its supervisor."""
        try:
            return psutil.Process(node.pid).children(recursive=True) if node.pid is not None else []
        except psutil.NoSuchProcess:
            return []

    def close(self) -> None:
        """Nothing of it is left but the folder. Harmless when repeated."""
        left = [process for node in self.nodes for process in self.below(node)]
        for program in self._programs():
            program.kill()
        for node in self.nodes:
            node.kill()
        for process in left:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                pass  # its shim was faster
        self._close()

    def _program(self, name: str, arguments: Sequence[str], inside: Sequence[str] = ()) -> Program:
        module = (*BROKEN, self.broken) if self.broken and arguments[0] == "up" else ("skep",)
        return Program(name, arguments, self.folder / f"{name}.log", module=module, inside=inside)


class SmallFleet(Fleet):
    """One server with its record in a file, and nodes that it starts itself."""

    work = WORK

    def __init__(self, folder: Path, *, nodes: int = 3, broken: str = "") -> None:
        super().__init__(folder, broken=broken)
        home = folder / "server-1"
        names = [f"node-{number + 1}" for number in range(nodes)]
        options = [part for name in names for part in ("--node", f"{name}:cpu;slots={SLOTS};cpu={SLOTS}")]
        self.homes = [home]
        self.servers = [self._program("server-1", ["up", "--data", str(home), *options])]
        self.nodes = [LocalNode(home, name) for name in names]

    def describe(self) -> str:
        return f"1 server (memory, SQLite), {len(self.nodes)} nodes"

    def _start(self) -> None:
        self.servers[0].start()

    def _close(self) -> None:
        """Also nodes that were just being started, and are not listed yet."""
        for process in psutil.process_iter(["cmdline"]):
            if str(self.homes[0]) in (process.info["cmdline"] or ()):
                try:
                    process.kill()
                except psutil.NoSuchProcess:
                    pass  # it has just ended
