"""A program of the fleet: started, killed, frozen, thawed. One that ends by itself is started again, as by an init system."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

AGAIN_S: Final = 1.0
"""Before one that ended by itself is started again."""


class Program:
    """`python -m MODULE ARGUMENTS`, as often as it is started."""

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        log: Path,
        *,
        module: Sequence[str] = ("skep",),
        inside: Sequence[str] = (),
    ) -> None:
        """`module`: with its own first arguments. `inside`: a command that runs it, for one in another network namespace."""
        self.name = name
        self.log = log
        self._command = [*inside, sys.executable, "-m", *module, *arguments]
        self.env: dict[str, str] = {}
        """Beside this process's environment; what that says to Skep is not for the fleet."""
        self.process: subprocess.Popen[bytes] | None = None
        self.wanted = False
        self._turn = threading.Lock()
        """Several faults, and who keeps the fleet, have to do with it."""
        self.ended: list[int] = []
        """Exit codes of the times that it ended by itself."""
        self._next_s = 0.0

    def start(self) -> None:
        """Does not wait until it answers. Harmless where it runs already."""
        with self._turn:
            self.wanted = True
            self._start()

    def _start(self) -> None:
        if self.pid is not None:
            return
        env = {**plain_environment(), **self.env}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.log.parent,
                env=env,
                start_new_session=True,  # an interrupt is for whoever attacks: it ends the fleet
            )

    def keep(self) -> None:
        """Starts it again if it has ended by itself."""
        with self._turn:
            if not self.wanted or self.process is None or self.process.poll() is None:
                return
            now = time.monotonic()
            if not self._next_s:
                self.ended.append(self.process.returncode)
                self._next_s = now + AGAIN_S
            elif now >= self._next_s:
                self._next_s = 0.0
                self._start()

    @property
    def pid(self) -> int | None:
        """While it lives."""
        return self.process.pid if self.process is not None and self.process.poll() is None else None

    def kill(self) -> None:
        """`kill -9`; it stays away until it is started."""
        with self._turn:
            self.wanted = False
            if self.process is not None:
                self.process.kill()
                self.process.wait()

    def freeze(self) -> None:
        tell(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        tell(self.pid, signal.SIGCONT)


def tell(pid: int | None, number: signal.Signals) -> None:
    """Sends a signal to a process that may have ended."""
    if pid is not None:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass  # it has just ended


def plain_environment() -> dict[str, str]:
    """This process's, without what it says to Skep."""
    return {name: value for name, value in os.environ.items() if not name.startswith("SKEP_")}
