"""`skep simulate`: what it prints, draws and refuses."""

from __future__ import annotations

import json
from typing import Any
from xml.etree import ElementTree

FLEET = "name: small\nnodes:\n  - {name: slow, count: 2}\n  - {name: fast, speed: 4, cost_per_hour: 2.5}\n"
FLOW = """
name: flow
tasks:
  a: {run: "true", estimated_duration: 40s}
  b: {run: "true", estimated_duration: 80s, needs: [a]}
  c: {run: "true", estimated_duration: 8s, needs: [a]}
"""


def given(skep: Any, fleet: str = FLEET) -> None:
    skep.file("fleet.yaml", fleet)
    skep.file("flow.yaml", FLOW)


def test_one_document_says_everything_and_a_seed_gives_the_same_again(skep: Any) -> None:
    given(skep)
    words = ("simulate", "fleet.yaml", "flow.yaml", "--policy", "hybrid", "--noise", "20%", "--seed", "3", "--json")
    first = json.loads(skep(*words).stdout)
    assert json.loads(skep(*words).stdout) == first
    assert json.loads(skep(*words[:-2], "4", "--json").stdout)["results"] != first["results"]
    assert {row["policy"] for row in first["results"]} == {"hybrid", "round-robin"}
    (baseline,) = first["baselines"]
    for row in first["results"]:
        assert row["measured"]["makespan_ms"] >= baseline["bound_ms"]
        assert row["to_bound"] >= 1
        assert row["measured"]["failed"] == 0


def test_the_table_the_picture_and_what_would_be(skep: Any) -> None:
    given(skep)
    said = skep("simulate", "fleet.yaml", "flow.yaml", "--what-if", "add=2xfast", "--gantt", "out.svg").stdout
    assert "heft sees the whole graph" in said
    assert "add=2xfast" in said
    texts = ElementTree.parse(skep.folder / "out.svg").getroot().itertext()
    assert "fast" in " ".join(texts)


def test_what_is_refused_is_named(skep: Any) -> None:
    given(skep, FLEET.replace("speed: 4", "speed: -4"))
    said = skep("simulate", "fleet.yaml", "flow.yaml", code=3).stderr
    assert "nodes[1].speed" in said
    assert "expected a speed above 0" in said
    given(skep)
    assert "there is no policy" in skep("simulate", "fleet.yaml", "flow.yaml", "--policy", "best", code=2).stderr
    assert "it has slow, fast" in skep("simulate", "fleet.yaml", "flow.yaml", "--what-if", "add=1xnone", code=3).stderr
    assert "--noise" in skep("simulate", "fleet.yaml", "flow.yaml", "--noise", "lots", code=2).stderr
