"""Servers without a guard are the ordinary program otherwise; and each guard is where `broken` looks for it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from skep import __version__
from skep.testing.chaos.broken import GUARDS
from skep.testing.chaos.faults import ALL, PROOF


@pytest.mark.parametrize("guard", GUARDS)
def test_it_is_the_program_without_a_guard(guard: str) -> None:
    command = (sys.executable, "-m", "skep.testing.chaos.broken", guard, "--version")
    done = subprocess.run(command, capture_output=True, check=False, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, f"skep {__version__}\n"), done.stderr


def test_each_guard_has_faults_against_which_it_stands() -> None:
    assert PROOF.keys() == GUARDS.keys()
    assert all(name in ALL for names in PROOF.values() for name in names)
