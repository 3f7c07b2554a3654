"""`skep why`: of a task, a run and the queue, while they wait and after the end."""

from __future__ import annotations

from typing import Any

import pytest

from skep.cli.why import _duration
from skep.model.why import PlacedView

FLOW = """
name: flow
tasks:
  a: {run: "until [ -e go ]; do sleep 0.02; done"}
  b: {run: "true", needs: [a]}
  ask: {approval: Ship it?}
  gpu: {run: "true", requires: [warp-drive]}
"""


def test_while_it_waits_and_after_its_end(server: Any, wait: Any) -> None:
    run = server.submit("flow.yaml", FLOW)
    with server.client() as client:
        wait(lambda: client.runs.get(run).counts.get("parked") and client.runs.get(run).counts.get("running"))
        wait(lambda: client.insight.why_task(run, "a").because == "running")
    told = server("why", run, "b").stdout
    assert told.startswith("b  waiting  needs")
    assert "it needs a: it runs on" in told
    found = server.json("why", run[:20], "ask", "--json")
    assert (found["because"], found["unblock"]) == ("approval", f"`skep approve {run} ask`, or `skep reject`")
    whole = server("why", "last").stdout
    assert [word for word in ("approval  ask", "capability  gpu", "running  a") if word in whole] == [
        "approval  ask",
        "capability  gpu",
        "running  a",
    ]
    assert "1 more wait for tasks of the run" in whole
    queue = server("why", "--queue").stdout
    assert "capability  1 of default  run warp-drive" in queue
    assert server.json("why", "--queue", "--json")["causes"][0]["oldest"]["run"] == run
    server.file("go", "")
    server("cancel", run)
    wait(lambda: server.state(run) == "cancelled")
    assert server.json("why", run, "gpu", "--json")["because"] == "cancelled"
    assert "cancelled" in server("why", run).stdout


def test_what_cannot_be_asked(server: Any) -> None:
    assert "name no run with it" in server("why", "last", "a", "--queue", code=2).stderr
    run = server.submit("flow.yaml", FLOW)
    assert "has no task 'z'" in server("why", run, "z", code=3).stderr
    assert server.json("why", "ffff", "--json", code=3)["error"]
    server("cancel", run)


@pytest.mark.parametrize(
    ("predicted_ms", "actual_ms", "text"),
    [
        (10_000, None, "predicted 10s"),
        (None, 12_000, "took 12s; nothing was predicted"),
        (10_000, 12_000, "took 12s, predicted 10s: 20% longer"),
        (10_000, 5_000, "took 5s, predicted 10s: 50% shorter"),
        (10_000, 10_100, "as predicted"),
    ],
)
def test_a_prediction_and_what_came(predicted_ms: int | None, actual_ms: int | None, text: str) -> None:
    assert text in _duration(PlacedView(node="n", attempt=1, predicted_ms=predicted_ms, actual_ms=actual_ms))
