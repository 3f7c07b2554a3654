"""A user's terminal: a temporary folder, and `skep` on PATH."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import skep


class Terminal:
    """Runs command lines in a folder, and gives what they printed, errors and all, as `stdout`."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.environment = environment
        self._servers: list[subprocess.Popen[str]] = []

    def __call__(self, line: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/sh", "-c", line],
            cwd=folder or self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )

    def up(self, line: str, folder: Path) -> None:
        """Starts a server in the background; returns when it answers."""
        with (self.folder / ".up.log").open("a") as log:
            command = ["/bin/sh", "-c", f"exec {line}"]
            server = subprocess.Popen(command, cwd=folder, env=self.environment, stdout=log, stderr=log, text=True)
        self._servers.append(server)
        end = time.monotonic() + 30
        while self("skep status").returncode != 0:
            assert server.poll() is None, (self.folder / ".up.log").read_text()
            assert time.monotonic() < end, (self.folder / ".up.log").read_text()
            time.sleep(0.05)

    def close(self) -> None:
        """Nothing of it is left; harmless when repeated."""
        servers, self._servers = self._servers, []
        for server in reversed(servers):
            for _ in range(3):  # drain, stop, kill
                server.send_signal(signal.SIGTERM)
                try:
                    server.wait(5)
                    break
                except subprocess.TimeoutExpired:
                    continue
            server.kill()
            server.wait()


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    """A user's terminal in `tmp_path`."""
    tools = tmp_path / ".tools"
    tools.mkdir()
    command = tools / "skep"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m skep "$@"\n')
    command.chmod(0o755)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("SKEP_", "COV_"))},
        "PATH": os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "PYTHONPATH": str(Path(skep.__file__).parents[1]),
        "SKEP_HOME": str(tmp_path / ".data"),
    }
    made = Terminal(tmp_path, environment)
    yield made
    made.close()
