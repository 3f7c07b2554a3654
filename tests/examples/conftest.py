"""The examples in a folder of their own, so that what a run writes beside them is not left in the repository."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

import skep

EXAMPLES = Path(__file__).parents[2] / "examples"


class Ended(NamedTuple):
    """A command that is over. `document`: the JSON on standard output, or the text where it is none."""

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
def surroundings(data: Path) -> dict[str, str]:
    """The environment of every command: the tools of this interpreter are first on PATH."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("SKEP_", "PYTEST", "COV_"))},
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "PYTHONPATH": str(Path(skep.__file__).parents[1]),
        "SKEP_HOME": str(data),
    }


@pytest.fixture
def command(examples: Path, surroundings: dict[str, str]) -> Skep:
    """Runs `skep ARGUMENTS` among the examples. `program` runs something else in its place, `environment` adds to it."""

    def run(
        *arguments: str | Path, program: tuple[str, ...] = ("-m", "skep"), environment: Mapping[str, str] = MappingProxyType({})
    ) -> Ended:
        ended = subprocess.run(
            [sys.executable, *program, *map(str, arguments)],
            cwd=examples,
            env={**surroundings, **environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return Ended(ended.returncode, _document(ended.stdout), ended.stderr)

    return run


def _document(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


@pytest.fixture
def server(examples: Path, surroundings: dict[str, str], command: Skep) -> Iterator[None]:
    """`skep up` for the commands of the test."""
    log = examples.parent / "up.log"
    with log.open("w") as said:
        up = subprocess.Popen([sys.executable, "-m", "skep", "up"], cwd=examples, env=surroundings, stdout=said, stderr=said)
    try:
        end = time.monotonic() + 60
        while command("status").code != 0:
            assert up.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.05)
        yield
    finally:
        for _ in range(3):  # drain, stop, kill
            up.terminate()
            try:
                up.wait(10)
                break
            except subprocess.TimeoutExpired:
                continue
        up.kill()
        up.wait()
