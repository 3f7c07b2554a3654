"""How a fleet chooses nodes: the setting that the record keeps, and how people write it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from skep.errors import Problem, SpecError
from skep.model import kinds
from skep.model.fields import Fault, Field, Found, Kind, Table, nearest, show, show_path, wrong

POLICIES: Final = (
    "hybrid",
    "least-loaded",
    "fastest",
    "cheapest",
    "specialised",
    "consistent-hash",
    "power-of-two",
    "weighted",
    "round-robin",
)
"""Those that come with Skep; others have entry points in the group `skep.policies`."""

WEIGHTS: Final[Mapping[str, float]] = {"time": 1.0, "load": 0.2, "cost": 0.2, "locality": 0.3, "affinity": 0.5, "prefer": 0.5}
"""What counts in `hybrid`, and how much where nothing else is said."""


class PlacementSettings(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What holds for tasks that say nothing themselves."""

    policy: str = "hybrid"
    swarms: dict[str, str] = {}
    """Swarm to its policy, in place of the fleet's."""
    weights: dict[str, float] = {}
    """Those of `hybrid` that differ from `WEIGHTS`."""
    prefer: dict[str, tuple[str, ...]] = {}
    """Task type to nodes or words as in `requires`, the first choice first; where they have no room, any other will do."""

    def encode(self) -> bytes:
        return msgspec.json.encode(self)

    @staticmethod
    def decode(data: bytes | str) -> PlacementSettings:
        return msgspec.json.decode(data, type=PlacementSettings)


def _parse_weights(value: Any) -> dict[str, float]:
    if not isinstance(value, Mapping):
        raise wrong(value, f"a mapping from {', '.join(WEIGHTS)} to numbers")
    faults: list[Found] = []
    found: dict[str, float] = {}
    for name, weight in value.items():
        if name not in WEIGHTS:
            faults.append(
                ((str(name),), f"there is no such weight{nearest(name, WEIGHTS) or '; there are ' + ', '.join(WEIGHTS)}")
            )
            continue
        try:
            found[name] = _WEIGHT.parse(weight)
        except Fault as fault:
            faults += [((name, *path), message) for path, message in fault.found]
    if faults:
        raise Fault(faults)
    return found


_POLICY: Final = kinds.names(kinds.NAME, "a policy")
_WEIGHT: Final = kinds.number(0, 1_000)
_NODES: Final = kinds.several(kinds.matching(r"[^\s,]+", "one word"), "a node or a label")

SETTINGS: Final = Table(
    "placement",
    Field("policy", "policy", _POLICY, "How a node is chosen where nothing else is said; hybrid by default."),
    Field("swarms", "swarms", kinds.mapping_of(_POLICY, "a mapping from swarms to policies"), "Policies of single swarms."),
    Field(
        "weights",
        "weights",
        Kind(_parse_weights, {"type": "object", "additionalProperties": _WEIGHT.schema}),
        f"What counts how much in hybrid: {', '.join(f'{name} {weight:g}' for name, weight in WEIGHTS.items())} by default.",
    ),
    Field(
        "prefer",
        "prefer",
        kinds.mapping_of(_NODES, "a mapping from task types to nodes or labels"),
        "Task type to nodes or labels, the first choice first.",
    ),
)


def read_settings(data: Any, known: frozenset[str] = frozenset()) -> PlacementSettings:
    """The settings as people write them. `known`: policies beside those of Skep. Raises SpecError that names the fields."""
    if not isinstance(data, Mapping):
        raise SpecError.at("placement", f"found {show(data)}, expected a mapping with {SETTINGS.keys}")
    faults: list[Found] = []
    given = SETTINGS.read(data, faults)
    named = [
        (("policy",), given.get("policy")),
        *((("swarms", name), one) for name, one in (given.get("swarms") or {}).items()),
    ]
    faults += [(path, problem) for path, name in named if name and (problem := unknown_policy(name, known))]
    if faults:
        raise SpecError([Problem(show_path(path), message) for path, message in faults])
    return PlacementSettings(**{name: value for name, value in given.items() if value})


def write_settings(settings: PlacementSettings) -> dict[str, Any]:
    """The settings as `read_settings` takes them, with everything that holds."""
    data = SETTINGS.write(settings, PlacementSettings())
    return {"policy": settings.policy} | data | {"weights": {**WEIGHTS, **settings.weights}}


def unknown_policy(name: str, known: frozenset[str] = frozenset()) -> str:
    """What is wrong with the name of a policy; empty when nothing."""
    if name in POLICIES or name in known:
        return ""
    every = (*POLICIES, *sorted(known))
    return f"there is no policy '{name}'{nearest(name, every)}; there are {', '.join(every)}"
