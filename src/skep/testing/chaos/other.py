"""A fleet that is not ours: only what a client may do to it, and a command of its owner's."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from skep.client import Client
from skep.errors import SkepError
from skep.testing.chaos.fleet import Fleet

COMMAND_S: Final = 120.0


class KnownNode:
    """A node of which only the name is known."""

    pid = None

    def __init__(self, name: str) -> None:
        self.name = name

    def kill(self) -> None:
        """It is not ours."""

    start = freeze = thaw = kill


class OtherFleet(Fleet):
    one_machine = False
    ours = False

    def __init__(self, folder: Path, open_clients: Callable[[], list[Client]], command: str = "") -> None:
        """`open_clients`: new ones, one for each server. `command`: for a shell; it breaks something, and mends it."""
        super().__init__(folder)
        self._open_clients = open_clients
        self._command = command
        self.command = self._run if command else None

    def clients(self) -> list[Client]:
        return self._open_clients()

    def describe(self) -> str:
        return f"a fleet that was there before: servers {len(self.clients())}, nodes {len(self.nodes)}"

    def _start(self) -> None:
        client, *_ = self.clients()
        with client:
            self.nodes = [KnownNode(node.id) for node in client.nodes.list()]
        if not self.nodes:
            raise SkepError("the fleet has no nodes: start one with `skep node` first")

    def _run(self) -> None:
        try:
            done = subprocess.run(self._command, shell=True, capture_output=True, timeout=COMMAND_S, check=False, text=True)
        except subprocess.TimeoutExpired:
            raise SkepError(f"the command did not end within {COMMAND_S:g} s: {self._command}") from None
        if done.returncode:
            raise SkepError(f"the command ended with {done.returncode}: {self._command}\n{done.stderr.strip()}")


def clients_of(clients: Sequence[Client]) -> Callable[[], list[Client]]:
    """Makes new clients for the servers of these."""
    return lambda: [client.again() for client in clients]
