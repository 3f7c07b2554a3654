"""The examples in a folder of their own, so that what a run writes beside them is not left in the repository."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import skep

EXAMPLES = Path(__file__).parents[2] / "examples"


class Ended(NamedTuple):
    """A command that is over. `document`: the JSON on standard output, if there is any."""

    code: int
    document: Any
    said: str


Skep = Callable[..., Ended]


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    """A copy of all examples."""
    return Path(shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns(".work", "__pycache__")))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The data directory of every command."""
    return tmp_path / "data"


@pytest.fixture
def command(examples: Path, data: Path) -> Skep:
    """Runs `skep ARGUMENTS` among the examples, with the tools of this interpreter first on PATH.

    `program` runs something else in its place.
    """
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("SKEP_", "PYTEST", "COV_"))},
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "PYTHONPATH": str(Path(skep.__file__).parents[1]),
        "SKEP_HOME": str(data),
    }

    def run(*arguments: str | Path, program: tuple[str, ...] = ("-m", "skep")) -> Ended:
        ended = subprocess.run(
            [sys.executable, *program, *map(str, arguments)],
            cwd=examples,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        document = json.loads(ended.stdout) if program[-1] == "skep" and ended.stdout else ended.stdout
        return Ended(ended.returncode, document, ended.stderr)

    return run
