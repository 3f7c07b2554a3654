"""Nodes that are killed or stand still, alone and together with the server.

The oracle is the ledger that the tasks keep. `SKEP_DRILL=full` adds what takes as long as patience does.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from skep.model.authoring import build_workflow
from skep.model.run import RunView
from skep.model.spec import WorkflowSpec
from skep.node.detached import Listed, listed
from skep.testing.chaos.effects import Line, read
from skep.testing.chaos.graphs import WORK
from skep.testing.up import Up
from tests.recovery import oracle

FULL = os.environ.get("SKEP_DRILL") == "full"
slow = pytest.mark.skipif(not FULL, reason="takes as long as patience does: SKEP_DRILL=full")
END_S = 2.0
"""In which nothing of a dead node is left."""


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Up]:
    """Two nodes that take what is named after them, and both what is not."""
    with Up(tmp_path / "home", "--node", "a:cpu,one;slots=4;cpu=4", "--node", "b:cpu,two;slots=4;cpu=4") as server:
        server.start()
        server.until(lambda: len(server.client.nodes.list()) == 2, "both nodes are there")
        yield server


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "ledger"


def flow(**tasks: Any) -> WorkflowSpec:
    return build_workflow({"name": "drill", "tasks": tasks})


def python(function: str, ledger: Path, name: str, **given: Any) -> dict[str, Any]:
    """A task by a function of `work`; what it does not take goes to the task."""
    keys: dict[str, Any] = {key: given.pop(key) for key in ("locks", "timeout", "needs", "retries", "requires") if key in given}
    return {"python": f"{WORK}:{function}", "with": {"ledger": str(ledger), "name": name, **given}, **keys}


def lines(ledger: Path, what: str, name: str) -> list[Line]:
    return [line for line in read(ledger) if (line.what, line.name) == (what, name)]


def node_of(up: Up, name: str) -> Listed:
    return next(node for node in listed(up.home) if node.id == name)


def below(pid: int) -> set[int]:
    """The processes that descend from it."""
    parents: dict[int, int] = {}
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                parents[int(place.name)] = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue  # it has just ended
    found: set[int] = set()
    more = {pid}
    while more:
        found |= more
        more = {child for child, parent in parents.items() if parent in more} - found
    return found - {pid}


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def history(view: RunView, name: str) -> list[str]:
    return next([attempt.state for attempt in task.history] for task in view.tasks if task.name == name)


def _began(ledger: Path, name: str, times: int) -> bool:
    return len(lines(ledger, "start", name)) == times


def _runs(up: Up, run: str, name: str) -> bool:
    return up.client.tasks.get(run, name).state == "running"


def _lost(up: Up, run: str, name: str, times: int) -> bool:
    return [attempt.state for attempt in up.client.tasks.get(run, name).history].count("lost") == times


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_of_a_killed_node_nothing_is_left_and_its_work_is_done_again(two: Up, ledger: Path, tmp_path: Path) -> None:
    release = tmp_path / "release"
    line = f'"shell $SKEP_ATTEMPT $SKEP_TOKEN $SKEP_RUN 0" >> {ledger}'
    shell = f"echo start {line}; (while ! test -e {release}; do sleep 0.02; done) & wait; echo end {line}".replace('"', "")
    spec = flow(
        shell={"run": shell, "requires": ["one"]},
        thread=python("linger", ledger, "thread", release=str(release), requires=["one"]),
        isolated={**python("linger", ledger, "isolated", release=str(release), requires=["one"]), "isolation": "process"},
    )
    names = ("shell", "thread", "isolated")
    run = two.client.runs.submit(spec).id
    two.until(lambda: all(lines(ledger, "start", name) for name in names), "all run")
    node = node_of(two, "a")
    tree = below(node.pid)
    assert len(tree) >= 4, "shims, a worker, a shell"
    os.kill(node.pid, signal.SIGKILL)
    two.until(lambda: not any(map(alive, tree)), "nothing is left of it", END_S)
    two.until(lambda: all(len(lines(ledger, "start", name)) == 2 for name in names), "all run again")
    release.touch()
    assert two.client.runs.wait(run, 30).state == "succeeded"
    view = two.client.runs.view(run)
    assert [history(view, name) for name in names] == [["lost", "succeeded"]] * 3
    assert all(len(lines(ledger, "end", name)) == 1 for name in names)


def test_what_loses_too_many_nodes_fails(two: Up, ledger: Path) -> None:
    run = two.client.runs.submit(flow(bad=python("hang", ledger, "bad", retries=5))).id
    for times in range(1, 4):
        two.until(partial(_began, ledger, "bad", times), f"it began {times} times")
        two.until(partial(_runs, two, run, "bad"), "that is recorded")
        where = two.client.tasks.get(run, "bad").node
        os.kill(node_of(two, where or "").pid, signal.SIGKILL)
        two.until(partial(_lost, two, run, "bad", times), "it is lost")
    assert two.client.runs.wait(run, 30).state == "failed"
    task = two.client.tasks.get(run, "bad")
    assert (task.reason, [attempt.state for attempt in task.history]) == ("node_lost", ["lost"] * 3)


def test_a_lock_whose_holder_dies_with_the_server_is_not_given_too_soon(two: Up, ledger: Path, tmp_path: Path) -> None:
    spec = flow(
        whole=python("locked", ledger, "whole", key="door", ms=1_500, locks=["door"], requires=["one"]),
        inside=python("hold", ledger, "inside", key="door", ms=300),
    )
    run = two.client.runs.submit(spec).id
    two.until(lambda: oracle.held(ledger), "somebody has it")
    os.kill(node_of(two, "a").pid, signal.SIGKILL)
    two.kill()
    two.start()
    assert two.client.runs.wait(run, 60).state == "succeeded"
    oracle.check_locks(read(ledger))


@slow
def test_a_lock_whose_holder_is_killed_is_kept_for_a_while(two: Up, ledger: Path) -> None:
    first = two.client.runs.submit(
        flow(x=python("locked", ledger, "x", key="door", ms=60_000, locks=["door"], requires=["one"]))
    ).id
    two.until(lambda: lines(ledger, "held", "x"), "it has the lock")
    second = two.client.runs.submit(flow(y=python("hold", ledger, "y", key="door", ms=50, requires=["two"]))).id
    os.kill(node_of(two, "a").pid, signal.SIGKILL)
    two.client.runs.cancel(first)
    assert two.client.runs.wait(second, 40).state == "succeeded"
    oracle.check_locks(read(ledger))


@slow
@pytest.mark.parametrize("isolation", ["", "process"])
def test_a_lock_is_not_held_twice_when_only_the_supervisor_stands_still(two: Up, ledger: Path, isolation: str) -> None:
    """Its worker goes on for as long as the lock is its own, and ends by itself."""
    holder = python("locked", ledger, "x", key="door", ms=60_000, locks=["door"], requires=["one"])
    first = two.client.runs.submit(flow(x={**holder, **({"isolation": isolation} if isolation else {})})).id
    two.until(lambda: lines(ledger, "held", "x"), "it has the lock")
    node = node_of(two, "a")
    os.kill(node.pid, signal.SIGSTOP)
    try:
        second = two.client.runs.submit(flow(y=python("hold", ledger, "y", key="door", ms=2_000, requires=["two"]))).id
        assert two.client.runs.wait(second, 40).state == "succeeded"
        oracle.check_locks(read(ledger))
    finally:
        os.kill(node.pid, signal.SIGCONT)
    two.client.runs.cancel(first)


@slow
def test_a_node_that_stood_still_is_lost_and_too_late(two: Up, ledger: Path, tmp_path: Path) -> None:
    """The processes of its tasks go on meanwhile; what they did is reported, and counts for nothing."""
    release = tmp_path / "release"
    run = two.client.runs.submit(flow(x=python("linger", ledger, "x", release=str(release)))).id
    two.until(lambda: lines(ledger, "start", "x"), "it runs")
    two.until(lambda: two.client.tasks.get(run, "x").node, "that is recorded")
    where = two.client.tasks.get(run, "x").node
    assert where is not None
    node = node_of(two, where)
    os.kill(node.pid, signal.SIGSTOP)
    try:
        two.until(lambda: len(lines(ledger, "start", "x")) == 2, "another one does it", 30)
        release.touch()
        assert two.client.runs.wait(run, 30).state == "succeeded"
    finally:
        os.kill(node.pid, signal.SIGCONT)
    two.until(lambda: {n.id for n in two.client.nodes.list()} == {"a", "b"}, "it is back")
    two.until(lambda: len(lines(ledger, "end", "x")) == 2, "both did it")
    assert history(two.client.runs.view(run), "x") == ["lost", "succeeded"]
    two.until(lambda: two.client.queue.stats().slots_free == 8, "nothing is left")
    oracle.check_histories(two.home)


@pytest.mark.parametrize("still_s", [2.0, pytest.param(13.0, marks=slow)])
def test_a_server_that_stood_still_has_lost_nothing(two: Up, ledger: Path, tmp_path: Path, still_s: float) -> None:
    release = tmp_path / "release"
    tasks = {name: python("linger", ledger, name, release=str(release)) for name in "xyz"}
    run = two.client.runs.submit(flow(**tasks)).id
    two.until(lambda: all(lines(ledger, "start", name) for name in "xyz"), "all run")
    two.signal(signal.SIGSTOP)
    time.sleep(still_s)  # this is what is tried
    two.signal(signal.SIGCONT)
    two.until(lambda: len(two.client.nodes.list()) == 2, "both nodes are there")
    release.touch()
    assert two.client.runs.wait(run, 30).state == "succeeded"
    assert all(len(lines(ledger, "start", name)) == 1 for name in "xyz"), "nothing began again"


def test_two_restarts_in_a_row_repeat_nothing(two: Up, ledger: Path, tmp_path: Path) -> None:
    release = tmp_path / "release"
    tasks = {name: python("linger", ledger, name, release=str(release)) for name in "xyz"}
    run = two.client.runs.submit(flow(**tasks)).id
    two.until(lambda: all(lines(ledger, "start", name) for name in "xyz"), "all run")
    epochs = [two.client.insight.status().epoch]
    for _ in range(3):
        two.kill()
        two.start()  # it answers before its nodes have come
        epochs.append(two.client.insight.status().epoch)
    assert epochs == sorted(set(epochs))
    release.touch()
    assert two.client.runs.wait(run, 30).state == "succeeded"
    assert all(len(lines(ledger, "start", name)) == 1 for name in "xyz"), "nothing began again"


def test_the_time_of_an_adopted_attempt_counts_from_its_start(two: Up, ledger: Path) -> None:
    run = two.client.runs.submit(flow(x=python("hang", ledger, "x", timeout="3s"))).id
    two.until(lambda: lines(ledger, "start", "x"), "it runs")
    two.until(lambda: time.monotonic_ns() - lines(ledger, "start", "x")[0].at_ns > 1_500_000_000, "half of its time is over")
    two.kill()
    two.start()
    assert two.client.runs.wait(run, 30).state == "failed"
    (attempt,) = two.client.tasks.get(run, "x").history
    assert attempt.error["type"] == "Timeout"
    assert attempt.started_ms
    assert attempt.finished_ms
    adopted_ms = next(event["at_ms"] for event in oracle.histories(two.home)[run] if event["kind"] == "adopted")
    ran_ms = attempt.finished_ms - attempt.started_ms
    assert 3_000 <= ran_ms < 3_000 + adopted_ms - attempt.started_ms


@slow
def test_a_node_that_comes_after_the_others_keeps_its_lock(two: Up, ledger: Path) -> None:
    """It stood still when the server was started again; what it runs goes on meanwhile."""
    first = two.client.runs.submit(flow(x=python("hold", ledger, "x", key="door", ms=9_000, requires=["one"]))).id
    two.until(lambda: lines(ledger, "held", "x"), "it has the lock")
    second = two.client.runs.submit(flow(y=python("hold", ledger, "y", key="door", ms=50, requires=["two"]))).id
    two.until(lambda: lines(ledger, "start", "y"), "another one waits for it")
    node = node_of(two, "a")
    os.kill(node.pid, signal.SIGSTOP)
    two.kill()
    two.start()
    try:
        two.until(lambda: two.client.insight.status().state == "ready", "it is not waited for any more")
    finally:
        os.kill(node.pid, signal.SIGCONT)
    assert [two.client.runs.wait(run, 60).state for run in (first, second)] == ["succeeded"] * 2
    oracle.check_locks(read(ledger))
    assert len(lines(ledger, "start", "x")) == 1
