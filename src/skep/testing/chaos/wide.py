"""A fleet as many machines make it: several servers on one Redis and one PostgreSQL, and nodes that call them.

node ──line──► server ──line──► Redis
  (namespace)     └─────line──► PostgreSQL
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

from skep.errors import SkepError
from skep.testing.chaos.fleet import SLOTS, Fleet, SmallFleet
from skep.testing.chaos.graphs import APP
from skep.testing.chaos.places import Place, why_not
from skep.testing.chaos.program import Program, plain_environment
from skep.testing.chaos.proxy import Line, Lines
from skep.testing.servers import NotInstalledError, PostgresServer, RedisServer, free_port

LOCAL: Final = "127.0.0.1"


class WideFleet(Fleet):
    """Raises NotInstalledError where Redis or PostgreSQL is missing."""

    def __init__(self, folder: Path, *, servers: int = 2, nodes: int = 3, broken: str = "") -> None:
        super().__init__(folder, broken=broken)
        self.redis = RedisServer(folder / "redis")
        self.postgres = PostgresServer()  # in a folder of its own, which the user as whom it runs may enter
        self.no_places = why_not()
        self._many = servers, nodes
        self._thread: Lines | None = None
        self._key = ""

    def describe(self) -> str:
        assert self.redis is not None
        assert self.redis.program is not None
        servers, nodes = self._many
        where = "in network namespaces" if self.places else "on this machine"
        return f"{servers} servers ({self.redis.program.name}, PostgreSQL), {nodes} nodes {where}"

    def _start(self) -> None:
        assert self.redis is not None
        assert self.postgres is not None
        self._thread = Lines()
        self.redis.start()
        self.postgres.start()
        servers, nodes = self._many
        ports = [self._add_server(number) for number in range(servers)]
        for server in self.servers:
            server.start()
        self.until(self._answer, "all servers answer")
        self._key = self._make_key()
        for number in range(nodes):
            self._add_node(number, ports).start()

    def _answer(self) -> bool:
        try:
            for client in self.clients():
                with client:
                    client.insight.status()
        except SkepError:
            return False
        return True

    def _make_key(self) -> str:
        """With which nodes come in: they call from other addresses than the loopback."""
        command = (sys.executable, "-m", "skep", "keys", "create", "--role", "node", "--data", str(self.homes[0]))
        done = subprocess.run(command, capture_output=True, check=False, text=True, env=plain_environment())
        if done.returncode:
            raise SkepError(f"no key for nodes could be made: {done.stderr.strip()}")
        return done.stdout.strip()

    def _add_server(self, number: int) -> int:
        """Answers the port on which it listens."""
        assert self.redis is not None
        assert self.postgres is not None
        name, home, port = f"server-{number + 1}", self.folder / f"server-{number + 1}", free_port()
        redis = self._line("redis", number, self.redis.port)
        postgres = self._line("postgres", number, self.postgres.port)
        engine = ("--engine", f"redis://{LOCAL}:{redis.port}/0")
        record = ("--record", f"postgresql://skep@{LOCAL}:{postgres.port}/skep")
        where = ("--data", str(home), "--listen", f"{LOCAL}:{port}", "--no-node")
        self.homes.append(home)
        self.servers.append(self._program(name, ["up", *where, *engine, *record]))
        return port

    def _add_node(self, number: int, ports: list[int]) -> Program:
        name = f"node-{number + 1}"
        place = None if self.no_places else Place(name, number)
        if place is not None:
            self.places[number] = place
        host = place.host if place is not None else LOCAL
        lines = [self._line("node", number, port, host) for port in ports]
        servers = ",".join(f"http://{host}:{line.port}" for line in lines)
        what = ("--name", name, "--slots", str(SLOTS), "--cpu", str(SLOTS), "--app", APP, "--data", str(self.folder / name))
        node = self._program(name, ["node", "--server", servers, *what], place.inside if place is not None else ())
        node.env["SKEP_TOKEN"] = self._key
        self.nodes.append(node)
        return node

    def _line(self, what: str, number: int, port: int, host: str = LOCAL) -> Line:
        assert self._thread is not None
        line = Line(self._thread, port, host)
        self.lines.setdefault((what, number), []).append(line)
        return line

    def _close(self) -> None:
        for lines in self.lines.values():
            for line in lines:
                line.close()
        self.lines.clear()
        if self._thread is not None:
            self._thread.close()
            self._thread = None
        for place in self.places.values():
            place.close()
        for store in (self.redis, self.postgres):
            if store is not None:
                store.close()


def own_fleet(folder: Path, *, servers: int = 2, nodes: int = 3, small: bool = False, broken: str = "") -> Fleet:
    """A wide one; a small one where Redis or PostgreSQL is missing, or that is wanted."""
    without = "the fleet is a small one: --small"
    if not small:
        try:
            return WideFleet(folder, servers=servers, nodes=nodes, broken=broken)
        except NotInstalledError as error:
            without = str(error)
    fleet = SmallFleet(folder, nodes=nodes, broken=broken)
    fleet.without = without
    return fleet
