"""Fleet files: what they say, and how mistakes in them are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest

from skep.errors import SpecError
from skep.sdk.yaml import read_data
from skep.testing.lab.simulate.fleetfile import Arrivals, Failures, build_fleet, read_fleet, schema
from tests.testing.lab.simulate.fleets import HETEROGENEOUS

WHOLE: dict[str, Any] = {
    "name": "all",
    "description": "of everything",
    "nodes": [
        {"name": "one", "slots": 4, "speed": {"default": 1, "training": 3}, "cost_per_hour": 2.5, "capabilities": ["gpu"]},
        {"name": "more", "count": 2, "labels": {"zone": "a"}, "memory": "8GB", "cpu": 2},
    ],
    "failures": {"lost": 1, "mean_time_between": "6h", "back_after": "5m"},
    "arrivals": {"poisson": "30s", "runs": 10},
}


def test_all_of_it_is_read() -> None:
    fleet = build_fleet(WHOLE)
    one, more, _ = fleet.nodes
    assert [node.info.id for node in fleet.nodes] == ["one", "more-1", "more-2"]
    assert (one.speed("training"), one.speed("other"), one.info.slots, one.info.cost_per_hour) == (3, 1, 4, 2.5)
    assert (one.info.cpu_milli, more.info.cpu_milli, more.info.memory) == (4_000, 2_000, 8_000_000_000)
    assert fleet.failures == Failures(1, 21_600_000, 300_000)
    assert fleet.arrivals == Arrivals("poisson", 30_000, 10)


def test_the_example_has_sixteen_nodes_whose_price_grows_faster_than_their_speed() -> None:
    nodes = read_fleet(HETEROGENEOUS).nodes
    assert [node.speed("") for node in nodes] == [1] * 4 + [2] * 4 + [3] * 4 + [4] * 4
    by_speed = [node.info.cost_per_hour / node.speed("") for node in nodes]
    assert by_speed == sorted(by_speed)
    assert by_speed[0] < by_speed[-1]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"nodes": []}, "nodes: found nothing, expected a list of groups of nodes, at least one"),
        ({"nodes": [{"count": 2}]}, "nodes[0]: expected the key `name`"),
        ({"nodes": [{"name": "a", "slots": 0}]}, "nodes[0].slots: found the number 0"),
        ({"nodes": [{"name": "a", "speed": 0}]}, "nodes[0].speed: found the number 0, expected a speed above 0"),
        ({"nodes": [{"name": "a", "speed": {"x": "fast"}}]}, "nodes[0].speed.x: found 'fast'"),
        ({"nodes": [{"name": "a", "cost_per_hour": -1}]}, "nodes[0].cost_per_hour: found the number -1"),
        ({"nodes": [{"name": "a"}, {"name": "a"}]}, "nodes[1].name: there is a node 'a' already"),
        ({"nodes": [{"name": "a", "slot": 2}]}, "did you mean 'slots'?"),
        ({"failures": {"lost": 9}}, "failures.lost: found 9, expected no more than there are nodes: 3"),
        ({"arrivals": {"every": "5s", "poisson": "5s"}}, "arrivals: found `every` and `poisson`, expected one of"),
        ({"arrivals": {"runs": 3}}, "arrivals: found none of them, expected one of"),
    ],
)
def test_mistakes_are_told_with_their_field(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(SpecError) as raised:
        build_fleet(WHOLE | changes)
    assert told in str(raised.value)


def test_mistakes_are_told_with_their_line(tmp_path: Path) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text("nodes:\n  - name: a\n    slots: -1\n")
    with pytest.raises(SpecError, match=r"fleet.yaml: line 3: nodes\[0\].slots: found the number -1"):
        read_fleet(file)


def test_the_schema_takes_what_is_read() -> None:
    jsonschema.validate(WHOLE, schema())
    jsonschema.validate(read_data(HETEROGENEOUS.read_text()), schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(WHOLE | {"nodes": [{"name": "a", "slots": 0}]}, schema())
