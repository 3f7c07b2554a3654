"""Ctrl-C, SIGTERM, `kill -9`, and what the next run finds."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest

FLOW = """
name: slow
tasks:
  plain: {run: "echo started >> marks; sleep 60"}
  stubborn: {run: "trap '' TERM INT; echo started >> marks; sleep 60; sleep 60"}
  forks: {run: "sleep 60 & (setsid sleep 60 &) ; echo started >> marks; sleep 60", on_failure: continue}
  python: {python: "slow.py:spin"}
  later: {needs: [plain], run: "true"}
"""
SPIN = "import time\ndef spin():\n    open('marks', 'a').write('started\\n')\n    while True: time.sleep(0.02)\n"
NODE = ("--node", "local;cpu=8")


def begin(skep: Any, wait: Any, *options: str) -> Any:
    """A run in the middle of its tasks."""
    skep.file("flow.yaml", FLOW)
    skep.file("slow.py", SPIN)
    process = skep.start("run", "flow.yaml", *NODE, *options)
    marks = skep.folder / "marks"
    wait(lambda: marks.exists() and marks.read_text().count("started") == 4)
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_interrupt_cancels_the_run_and_leaves_no_process(skep: Any, wait: Any, number: int) -> None:
    process = begin(skep, wait, "--json")
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 4, err
    wait(lambda: not skep.processes(), 2)
    view = json.loads(out)
    assert (view["state"], view["reason"]) == ("cancelled", "interrupted")
    assert {task["state"] for task in view["tasks"]} == {"cancelled"}
    assert "cancelling" in err
    assert skep.runs() == [("slow", "cancelled", "interrupted")]


def test_the_second_interrupt_ends_it_at_once(skep: Any, wait: Any) -> None:
    process = begin(skep, wait)
    process.send_signal(signal.SIGINT)
    assert any("cancelling" in line for line in process.stderr)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=5) == 4
    wait(lambda: not skep.processes(), 2.5)


def test_a_killed_run_leaves_no_process_and_the_next_one_ends_it(skep: Any, wait: Any) -> None:
    process = begin(skep, wait)
    assert len(skep.processes()) > 4
    process.kill()
    process.wait()
    wait(lambda: not skep.processes(), 2)
    assert skep.runs() == [("slow", "running", "")]
    skep.file("one.yaml", "name: one\ntasks:\n  hello: {run: echo hi}\n")
    done = skep("run", "one.yaml")
    assert "abandoned" in done.stderr
    assert skep.runs() == [("slow", "failed", "abandoned"), ("one", "succeeded", "")]


def test_a_living_run_is_left_alone_by_another(skep: Any, wait: Any) -> None:
    process = begin(skep, wait)
    skep.file("one.yaml", "name: one\ntasks:\n  hello: {run: echo hi}\n")
    skep("run", "one.yaml")
    assert ("slow", "running", "") in skep.runs()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 4


INTERRUPTED = """
import importlib.abc, os, signal, sys

class Loads(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == os.environ["AT"]:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Loads())
from skep.cli import main
main()
"""


@pytest.mark.parametrize("module", ["skep.cli.app", "skep.cli.runs"])
def test_an_interrupt_while_a_command_is_loaded_is_silent(skep: Any, module: str) -> None:
    skep.file("early.py", INTERRUPTED)
    skep.program = ["early.py"]
    done = skep("runs", code=-signal.SIGINT, AT=module)
    assert (done.stdout, done.stderr) == ("", "")
