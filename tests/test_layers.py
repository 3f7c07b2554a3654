"""The rings of the package: every contract of `.importlinter` is kept, and no import hides inside of a function."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src" / "skep").rglob("*.py"))
LATE = {
    "skep/__init__.py",
    "skep/record/places.py",
    "skep/wiring/serve.py",
    "skep/upkeep/routing.py",
    "skep/cli/target.py",
    *(f"skep/cli/{name}.py" for name in ("__init__", "app", "completion", "definitions", "schedule")),
}
"""Where imports inside of functions are the point: lazy exports, sub-commands, drivers of optional databases,
and what needs NumPy or entry points where hardly anybody does."""


def test_every_contract_is_kept() -> None:
    tool = Path(sys.executable).with_name("lint-imports")  # in a process of its own: it switches the loggers of this one off
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    told = subprocess.run([tool, "--no-cache", "--no-logo"], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert told.returncode == 0, told.stdout + told.stderr
    assert "Contracts: 5 kept, 0 broken." in told.stdout


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src" / "skep")))
def test_imports_stand_at_the_top_and_are_absolute(path: Path) -> None:
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        assert not isinstance(node, ast.ImportFrom) or not node.level, f"{path}:{node.lineno}: a relative import"
    if str(path.relative_to(ROOT / "src")) not in LATE:
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                late = [node for node in ast.walk(function) if isinstance(node, ast.Import | ast.ImportFrom)]
                assert not late, f"{path}:{late[0].lineno}: an import inside of a function"
