"""A user's terminal: a temporary folder, and `skep` on PATH."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import skep

Terminal = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    """Runs a command line in `tmp_path`, or in another folder, and gives what it printed, errors and all, as `stdout`."""
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

    def run(line: str, folder: Path = tmp_path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/sh", "-c", line],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )

    return run
