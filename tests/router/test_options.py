"""The placement settings as people write them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from skep.errors import SpecError
from skep.router.options import POLICIES, SETTINGS, WEIGHTS, read_settings, unknown_policy, write_settings
from skep.router.policies import POLICIES as FUNCTIONS
from skep.router.settings import RouterSettings, Weights

EVERYTHING = {
    "policy": "fastest",
    "swarms": {"night": "cheapest"},
    "prefer": {"testing": ["rosewood", "zone=eu"], "compilation": "ironwood"},
    "weights": {"load": 0.5, "price": 2},
    "hold": False,
}


def test_what_is_written_is_what_holds() -> None:
    settings = read_settings(EVERYTHING)
    assert settings == RouterSettings(
        policy="fastest",
        swarms={"night": "cheapest"},
        prefer={"testing": ("rosewood", "zone=eu"), "compilation": ("ironwood",)},
        weights=Weights(load=0.5, price=2.0),
        hold=False,
    )
    assert read_settings(write_settings(settings)) == settings
    assert msgspec.json.decode(msgspec.json.encode(settings), type=RouterSettings) == settings


def test_nothing_written_is_what_holds_at_first() -> None:
    assert read_settings({}) == RouterSettings()
    assert write_settings(RouterSettings())["weights"] == {name: getattr(Weights(), name) for name in Weights.__struct_fields__}


def test_every_policy_and_weight_is_known() -> None:
    assert set(POLICIES) == set(FUNCTIONS)
    assert {field.attribute for field in WEIGHTS.fields} == set(Weights.__struct_fields__)
    assert {field.attribute for field in SETTINGS.fields} <= set(RouterSettings.__struct_fields__)


@pytest.mark.parametrize(
    ("given", "path", "message"),
    [
        ([], "", "expected a mapping with policy, swarms, prefer, weights, hold"),
        ({"polcy": "x"}, "polcy", "did you mean 'policy'?"),
        ({"policy": "fastes"}, "policy", "there is no policy 'fastes'; did you mean 'fastest'?; there are hybrid, "),
        ({"swarms": {"night": "cheap"}}, "swarms.night", "there is no policy 'cheap'"),
        ({"weights": {"load": -1}}, "weights.load", "expected a number from 0 to 1,000"),
        ({"weights": {"load": float("nan")}}, "weights.load", "expected a number from 0 to 1,000"),
        ({"weights": {"laod": 1}}, "weights.laod", "did you mean 'load'?"),
        ({"prefer": {"testing": ["a b"]}}, "prefer.testing[0]", "expected one word"),
        ({"prefer": ["a"]}, "prefer", "expected a mapping from task types to nodes or labels"),
        ({"hold": "no"}, "hold", "expected true or false"),
    ],
)
def test_errors_name_the_field(given: Any, path: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        read_settings(given)
    (problem,) = caught.value.problems
    assert problem.path == path
    assert message in problem.message


def test_policies_of_users_are_known_where_they_are_installed() -> None:
    assert read_settings({"policy": "nearest"}, {"nearest"}).policy == "nearest"
    assert unknown_policy("nearest", {"nearest"}) == ""
    assert "hybrid" in unknown_policy("nearest")
