"""What faults do to a fleet, and how each is taken back: two steps, of which the second always follows."""

from __future__ import annotations

import random
import shutil
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import psutil

from skep.errors import SkepError
from skep.testing.chaos.fleet import Fleet
from skep.testing.chaos.program import tell
from skep.testing.chaos.proxy import OPEN

Step = Callable[[Fleet, int], None]
"""On the fleet, and which of its nodes or servers."""

ASK_S: Final = 5.0
START_S: Final = 30.0
AOF: Final = "appendonlydir"
"""Where Redis keeps what it was told."""


class Act(NamedTuple):
    begin: Step
    end: Step


def nothing(fleet: Fleet, at: int) -> None:
    """For what is over once it has happened."""


# -- processes


def _of(what: str, verb: str) -> Step:
    """Tells one of the fleet's `servers` or `nodes`, or its `redis` or `postgres`."""

    def step(fleet: Fleet, at: int) -> None:
        found = getattr(fleet, what)
        getattr(found[at] if isinstance(found, list) else found, verb)()

    return step


def killed(what: str, verb: str = "kill") -> Act:
    start = _start_store(what) if what in ("redis", "postgres") else _of(what, "start")
    return Act(_of(what, verb), start)


def frozen(what: str) -> Act:
    return Act(_of(what, "freeze"), _of(what, "thaw"))


def _start_store(what: str) -> Step:
    """What a killed one leaves behind may still be in the way for a moment."""

    def step(fleet: Fleet, at: int) -> None:
        end = time.monotonic() + START_S
        while True:
            try:
                getattr(fleet, what).start()
                return
            except SkepError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)

    return step


def _kill_leader(fleet: Fleet, at: int) -> None:
    fleet.servers[fleet.leader()].kill()


def _start_servers(fleet: Fleet, at: int) -> None:
    for server in fleet.servers:
        if not server.wanted:
            server.start()


LEADER: Final = Act(_kill_leader, _start_servers)


def _kill_worker(fleet: Fleet, at: int) -> None:
    """A worker with all that runs in it, a shell, or what stands between."""
    below = fleet.below(fleet.nodes[at])
    if below:
        try:
            random.Random(len(below)).choice(below).kill()
        except psutil.NoSuchProcess:
            pass  # it has just ended


WORKER: Final = Act(_kill_worker, nothing)


def _tell_node(number: signal.Signals) -> Step:
    def step(fleet: Fleet, at: int) -> None:
        node = fleet.nodes[at]
        for pid in (node.pid, *(process.pid for process in fleet.below(node))):
            tell(pid, number)

    return step


MACHINE: Final = Act(_tell_node(signal.SIGSTOP), _tell_node(signal.SIGCONT))


def _tell_postgres(number: signal.Signals) -> Step:
    """All of its processes: the first one only lets others in."""

    def step(fleet: Fleet, at: int) -> None:
        if fleet.postgres is not None and fleet.postgres.process is not None:
            first = psutil.Process(fleet.postgres.process.pid)
            for process in (first, *first.children()):
                tell(process.pid, number)

    return step


POSTGRES: Final = Act(_tell_postgres(signal.SIGSTOP), _tell_postgres(signal.SIGCONT))


def _drain(on: bool) -> Step:
    def step(fleet: Fleet, at: int) -> None:
        client, *others = fleet.clients()
        try:
            client.nodes.drain(fleet.nodes[at].name, on)
        except SkepError:
            pass  # another fault was first
        finally:
            for each in (client, *others):
                each.close()

    return step


DRAIN: Final = Act(_drain(True), _drain(False))


def _command(fleet: Fleet, at: int) -> None:
    if fleet.command is not None:
        fleet.command()


COMMAND: Final = Act(_command, nothing)

# -- lines


def line(what: str, mode: str, delay_s: float = 0.0) -> Act:
    """Of a node to the servers (`node`), or of a server to `redis` or `postgres`."""

    def setting(mode: str, delay_s: float) -> Step:
        def step(fleet: Fleet, at: int) -> None:
            for each in fleet.lines[what, at]:
                each.set(mode, delay_s)

        return step

    return Act(setting(mode, delay_s), setting(OPEN, 0.0))


def _pull(fleet: Fleet, at: int) -> None:
    fleet.places[at].pull()


def _plug(fleet: Fleet, at: int) -> None:
    fleet.places[at].plug()


CABLE: Final = Act(_pull, _plug)

# -- what Redis holds


def _flush(fleet: Fleet, at: int) -> None:
    assert fleet.redis is not None
    with socket.create_connection(("127.0.0.1", fleet.redis.port), ASK_S) as connection:
        connection.sendall(b"FLUSHALL\r\n")
        connection.recv(16)


def _empty(fleet: Fleet, at: int) -> None:
    """It comes back as another process with nothing in it."""
    assert fleet.redis is not None
    fleet.redis.kill()
    _forget(fleet.redis.folder)


def _older(fleet: Fleet, at: int) -> None:
    """It comes back with what it had a second ago."""
    assert fleet.redis is not None
    copy = fleet.folder / "redis-older"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(fleet.redis.folder / AOF, copy)
    time.sleep(1.0)  # this is what is lost
    fleet.redis.kill()
    _forget(fleet.redis.folder)
    shutil.copytree(copy, fleet.redis.folder / AOF)


def _forget(folder: Path) -> None:
    shutil.rmtree(folder / AOF, ignore_errors=True)
    (folder / "dump.rdb").unlink(missing_ok=True)


FLUSH: Final = Act(_flush, nothing)
EMPTY: Final = Act(_empty, _start_store("redis"))
OLDER: Final = Act(_older, _start_store("redis"))
