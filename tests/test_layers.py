"""The rings of the package: every contract of `.importlinter` is kept, and no import hides inside of a function."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src" / "skep").rglob("*.py"))
LATE = {"skep/__init__.py", "skep/cli/app.py"}
"""Where imports inside of functions are the point: lazy exports, sub-commands."""


def test_every_contract_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    kept = lint_imports(config_filename=str(ROOT / ".importlinter"), no_cache=True)
    told = capsys.readouterr().out
    assert kept == EXIT_STATUS_SUCCESS, told
    assert "Contracts: 4 kept, 0 broken." in told


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
