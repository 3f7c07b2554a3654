"""`skep placement`, and what runs and nodes cost: a server with two nodes, of which one costs money."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cli.conftest import Server, until

NODES = ("--node", "dear:cpu,ssd;slots=2;cpu=4;cost=3600", "--node", "cheap:cpu;slots=2;cpu=4")
TESTS = "name: tests\ntasks: {a: {run: 'sleep 0.2', type: testing}}\n"


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("placement"), *NODES)
    try:
        made.begin()
        with made.client() as client:
            until(lambda: len(client.nodes.list()) == 2)
        yield made
    finally:
        made.end()


def where(two: Server, text: str) -> str | None:
    """The node that ran the task `a` of this workflow."""
    run = two.submit("flow.yaml", text)
    with two.client() as client:
        client.runs.wait(run, 20)
        return client.tasks.get(run, "a").node


@pytest.mark.parametrize("node", ["dear", "cheap"])
def test_tasks_of_a_type_go_where_the_settings_say(two: Server, node: str) -> None:
    file = two.file("placement.yaml", f"prefer: {{testing: [{node}]}}\nweights: {{load: 0.5}}\n")
    assert f"prefer   testing: {node}" in two("placement", "set", str(file)).stdout
    assert two.json("placement", "show", "--json")["weights"]["load"] == 0.5
    assert where(two, TESTS) == node
    two("placement", "reset")
    assert "prefer" not in two.json("placement", "show", "--json")


def test_a_task_says_itself_where_it_likes_to_be(two: Server) -> None:
    assert where(two, "name: w\ntasks: {a: {run: 'true', placement: {prefer: [ssd]}}}\n") == "dear"
    assert where(two, "name: w\ntasks: {a: {run: 'true', placement: {policy: cheapest}}}\n") == "cheap"


def test_what_is_wrong_is_told_with_its_line(two: Server) -> None:
    file = two.file("wrong.yaml", "policy: fastest\nweights:\n  load: -1\n")
    told = two("placement", "set", str(file), code=3).stderr
    assert "wrong.yaml: line 3: weights.load: found the number -1" in told
    flow = two.file("policy.yaml", "name: w\ntasks:\n  a:\n    run: x\n    placement: {policy: fastst}\n")
    assert (
        "policy.yaml: line 5: tasks.a.placement.policy: there is no policy 'fastst'; did you mean 'fastest'?"
        in two("check", str(flow), code=3).stderr
    )
    assert "there is no policy 'fastst'" in two("submit", str(flow), code=3).stderr


def test_what_a_run_cost_is_shown(two: Server) -> None:
    """A slot of it costs half a unit a second."""
    run = two.submit("flow.yaml", "name: w\ntasks: {a: {run: 'sleep 0.4', placement: {prefer: [dear]}}}\n")
    with two.client() as client:
        client.runs.wait(run, 20)
    shown = two.json("show", run, "--json")
    assert 0.2 <= shown["cost"] < 5
    assert shown["tasks"][0]["history"][0]["cost"] == shown["cost"]
    assert two.json("runs", "--json")["runs"][0]["cost"] == shown["cost"]
    assert "  cost      " in two("show", run).stdout
    assert ", cost " in two("show", run, "a").stdout
    assert "3,600.00" in two("nodes").stdout
