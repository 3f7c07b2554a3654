"""Network namespaces: nodes that live behind a cable of their own, which can be pulled. Linux, and root."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import Final

from skep.errors import SkepError

NET: Final = 213
"""10.213.x.y is between a namespace and this machine."""
BUSY: Final = 200
"""Networks of other attacks that may be about."""


def why_not() -> str:
    """Why there can be none here; empty where there can."""
    if sys.platform != "linux":
        return "network namespaces need Linux"
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need the program `ip` (iproute2)"
    try:
        with Place("probe", BUSY):
            return ""
    except SkepError as error:
        return f"network namespaces cannot be made here: {error}"


class Place:
    """A namespace and the cable to it: at its end on this machine it has the address `host`."""

    def __init__(self, name: str, number: int) -> None:
        """`number`: from 0, of those that this process makes. Raises SkepError."""
        self.name = f"skep-{os.getpid()}-{name}"
        self._cable = f"sk{os.getpid() % 100_000}-{number}"
        self.number = (os.getpid() * 7 + number) % 250
        self.host = f"10.{NET}.{self.number}.1"
        self._there = f"10.{NET}.{self.number}.2"
        self.inside = ("ip", "netns", "exec", self.name)
        try:
            self._make()
        except SkepError:
            self.close()
            raise

    def _make(self) -> None:
        ip("netns", "add", self.name)
        ip("link", "add", self._cable, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        ip("addr", "add", f"{self.host}/24", "dev", self._cable)
        ip("link", "set", self._cable, "up")
        ip("-n", self.name, "addr", "add", f"{self._there}/24", "dev", "eth0")
        ip("-n", self.name, "link", "set", "eth0", "up")
        ip("-n", self.name, "link", "set", "lo", "up")

    def pull(self) -> None:
        """Nothing comes through, and nobody is told."""
        ip("-n", self.name, "link", "set", "eth0", "down")

    def plug(self) -> None:
        ip("-n", self.name, "link", "set", "eth0", "up")

    def close(self) -> None:
        """Harmless when repeated. The cable goes with the namespace."""
        subprocess.run(("ip", "netns", "del", self.name), capture_output=True, check=False)

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def ip(*arguments: str) -> None:
    done = subprocess.run(("ip", *arguments), capture_output=True, check=False, text=True)
    if done.returncode:
        raise SkepError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
