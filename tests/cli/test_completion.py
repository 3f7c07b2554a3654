"""What shells are answered, without a server."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import Any

import pytest


def complete(skep: Any, line: str) -> list[str]:
    """What bash offers behind the line."""
    words = line.split(" ")
    done = skep(_SKEP_COMPLETE="complete_bash", COMP_WORDS="\n".join(words), COMP_CWORD=str(len(words) - 1))
    assert done.stderr == ""
    return [word for word in done.stdout.split("\n") if word]


def test_commands_and_their_parts_are_completed(skep: Any) -> None:
    assert complete(skep, "skep ap") == ["approvals", "approve"]
    assert complete(skep, "skep queue ") == ["stats", "pause", "resume", "share"]
    assert "--idempotency-key" in complete(skep, "skep submit flow.yaml --i")
    assert "failed" in complete(skep, "skep runs --state ")


def test_without_a_server_nothing_is_offered_and_nothing_said(skep: Any) -> None:
    assert complete(skep, "skep watch ") == []
    assert complete(skep, "skep drain ") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_one_that_the_shell_takes(skep: Any, shell: str) -> None:
    script = skep("completion", shell).stdout
    assert "_SKEP_COMPLETE" in script
    program = shutil.which(shell)
    if program is not None:
        subprocess.run([program, "-n"], input=script, text=True, check=True, timeout=20)


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_with_it(skep: Any) -> None:
    skep.file("bin/skep", f'#!/bin/sh\nexec {sys.executable} -m skep "$@"\n').chmod(0o755)
    script = skep("completion", "bash").stdout
    ask = "COMP_WORDS=(skep defin); COMP_CWORD=1; _skep skep; printf '%s\\n' \"${COMPREPLY[@]}\""
    done = subprocess.run(
        ["bash", "-c", f"{script}\n{ask}"],
        env={**skep.env, "PATH": f"{skep.folder / 'bin'}:{skep.env['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )
    assert done.stdout == "definitions\n", done.stderr
