"""A disk without room: the limit on the size of files, set for the process itself, stands for it."""

from __future__ import annotations

import json
import resource
import signal
import sys
from typing import Any

import pytest

FLOW = """
name: many
tasks:
  each: {run: "head -c 20000 /dev/zero | tr '\\\\0' x", map: "${{ range(60) }}"}
  long: {run: "while ! test -e go; do sleep 0.05; done"}
"""
ROOM = 450_000
"""Bytes: more than an empty record takes, less than what the run writes."""


@pytest.fixture
def begin(skep: Any) -> Any:
    """A run that soon has no room left for its record, and gives up after so many seconds."""

    def begin(give_up_s: float, *options: str) -> Any:
        skep.file("flow.yaml", FLOW)
        skep.program = [
            "-c",
            f"""
import resource, skep.wiring.embedded, sys
resource.setrlimit(resource.RLIMIT_FSIZE, ({ROOM}, resource.RLIM_INFINITY))
skep.wiring.embedded.GIVE_UP_S = {give_up_s}
from skep.cli import main
main()""",
        ]
        process = skep.start("run", "flow.yaml", "-q", "--node", "local;cpu=4", *options)
        skep.program = ["-m", "skep"]
        return process

    return begin


def swept(skep: Any) -> None:
    skep.file("one.yaml", "name: one\ntasks:\n  hello: {run: echo hi}\n")
    assert "abandoned" in skep("run", "one.yaml").stderr
    assert skep.runs() == [("many", "failed", "abandoned"), ("one", "succeeded", "")]


def test_a_record_that_stays_full_ends_the_run(skep: Any, begin: Any, wait: Any) -> None:
    process = begin(0.5, "--json")
    out, err = process.communicate(timeout=20)
    assert process.returncode == 3, err
    assert not skep.processes()
    first, *_, last = err.splitlines()
    assert "record.sqlite" in first
    assert first.endswith("tried again for up to 500ms")
    assert "all of it stopped. It is recorded up to " in last
    assert last.endswith("the next `skep run` on this data ends this run as abandoned")
    assert "Traceback" not in err
    assert err.count("tried again") == 1
    assert "was given up" in json.loads(out)["error"]
    swept(skep)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_waits_for_no_record_that_fails(skep: Any, begin: Any, wait: Any, number: int) -> None:
    process = begin(3_600)
    assert "tried again for up to 1h" in process.stderr.readline()
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 4, err
    assert "The run was given up" in err
    assert not skep.processes()
    swept(skep)


@pytest.mark.skipif(sys.platform != "linux", reason="prlimit")
def test_a_run_goes_on_when_there_is_room_again(skep: Any, begin: Any) -> None:
    process = begin(3_600)
    assert "tried again" in process.stderr.readline()
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    skep.file("go", "")
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert "works again" in err
    assert len(json.loads(out)["each"]) == 60
    assert skep.runs() == [("many", "succeeded", "")]
