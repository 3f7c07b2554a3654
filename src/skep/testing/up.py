"""A real server in a test: `skep up` as a process of its own, to be asked, killed and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final

from skep.client import Client, UnreachableError
from skep.node.detached import listed

READY_S: Final = 30.0
TAIL: Final = 3_000
"""Characters of what the server said that a failure shows."""


class Up:
    """`skep up` on one data directory, as often as it is started.

        with Up(tmp_path / "home", "--node", "n:cpu;slots=4") as up:
            up.start()
            run = up.client.runs.submit(spec, wait_s=10)

    At the end nothing of it is left, nodes included.
    """

    def __init__(self, home: Path, *options: str, env: Mapping[str, str] | None = None) -> None:
        """`options`: of `skep up`. `env`: in place of this process's environment."""
        self.home = home
        self.client = Client(home)
        self.log = home.parent / f"{home.name}.up.log"
        self._options = options
        self._env = dict(env) if env is not None else None
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Up:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def start(self) -> None:
        """Returns when it answers. Raises AssertionError with what it said when it does not."""
        command = [sys.executable, "-m", "skep", "up", "--data", str(self.home), *self._options]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.home.parent, env=self._env)
        self.until(self._answers, "the server answers")

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"the server ended with {self.process.returncode}:\n{self.said()}"
        try:
            self.client.insight.status()
        except UnreachableError:
            return False
        return True

    def kill(self) -> None:
        """`kill -9` of the server; its nodes go on."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.client.close()

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self, limit_s: float = READY_S) -> int:
        """Waits for its end; answers the exit code."""
        assert self.process is not None
        code = self.process.wait(limit_s)
        self.client.close()
        return code

    def until(self, holds: Callable[[], object], what: str, limit_s: float = READY_S) -> None:
        """Waits until something holds. Raises AssertionError that says `what` did not."""
        end = time.monotonic() + limit_s
        while not holds():
            assert time.monotonic() < end, f"not within {limit_s:g} s: {what}\n{self.said()}"
            time.sleep(0.01)

    def said(self) -> str:
        """The end of what the server wrote."""
        return self.log.read_text(errors="replace")[-TAIL:] if self.log.exists() else ""

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.client.close()
        for node in listed(self.home):
            try:
                os.kill(node.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it has just ended by itself
