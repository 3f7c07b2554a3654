"""How people write what holds for the placement of a whole fleet. `skep.router.settings` is what the router takes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from skep.errors import Problem, SpecError
from skep.model import kinds
from skep.model.fields import Field, Found, Path, Table, nearest, show, show_path
from skep.router.settings import RouterSettings, Weights

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
"""The names of those that come with Skep: they are known here without what the policies themselves need."""

_POLICY: Final = kinds.names(kinds.NAME, "a policy")
_PLACES: Final = kinds.several(kinds.matching(r"[^\s,]+", "one word"), "a node or a label")


def _weight(name: str, doc: str) -> Field:
    return Field(name, name, kinds.number(0, 1_000), f"{doc} {getattr(Weights(), name):g} by default.")


WEIGHTS: Final = Table(
    "`weights`",
    _weight("completion", "Waiting and running there, in units of the time on the best node."),
    _weight("load", "Share of the node that is in use."),
    _weight("price", "Money for the task there, in units of the least it costs anywhere."),
    _weight("locality", "Time to bring the inputs that are not there yet."),
    _weight("affinity", "For every node but the one where tasks of the same key went."),
    _weight("reliability", "Time that attempts which fail there lose, as expected."),
    _weight("cost_sensitive", "In place of `price` for tasks that say `cost_sensitive`."),
)
SETTINGS: Final = Table(
    "placement",
    Field("policy", "policy", _POLICY, "How a node is chosen for tasks that name no policy; hybrid by default."),
    Field("swarms", "swarms", kinds.mapping_of(_POLICY, "a mapping from swarms to policies"), "Policies of single swarms."),
    Field(
        "prefer",
        "prefer",
        kinds.mapping_of(_PLACES, "a mapping from task types to nodes or labels", kinds.names(kinds.NAME, "a task type")),
        "Task type to nodes or labels, the first choice first; any other node when they have no room.",
    ),
    Field("weights", "weights", kinds.mapping_with(WEIGHTS, Weights, lambda one: WEIGHTS.write(one, Weights())), "Of hybrid."),
    Field(
        "hold",
        "hold",
        kinds.FLAG,
        "Whether tasks may wait for a busy node that is predicted to be done with them sooner; true by default.",
    ),
)


def read_settings(data: Any, known: Collection[str] = ()) -> RouterSettings:
    """The settings that somebody wrote. `known`: policies beside those of Skep. Raises SpecError that names the fields."""
    if not isinstance(data, Mapping):
        raise SpecError.at("", f"found {show(data)}, expected a mapping with {SETTINGS.keys}")
    faults: list[Found] = []
    given = {name: value for name, value in SETTINGS.read(data, faults).items() if value is not None}
    named: list[tuple[Path, str]] = [(("swarms", swarm), policy) for swarm, policy in given.get("swarms", {}).items()]
    named += [(("policy",), given["policy"])] if "policy" in given else []
    faults += [(path, problem) for path, name in named if (problem := unknown_policy(name, known))]
    if faults:
        raise SpecError([Problem(show_path(path), message) for path, message in faults], "placement")
    return RouterSettings(**given)


def write_settings(settings: RouterSettings) -> dict[str, Any]:
    """The settings as `read_settings` takes them, with every weight."""
    data = SETTINGS.write(settings, RouterSettings())
    return {"policy": settings.policy, **data, "weights": _whole(settings.weights)}


def _whole(weights: Weights) -> dict[str, float]:
    return {field.key: getattr(weights, field.attribute) for field in WEIGHTS.fields}


def unknown_policy(name: str, known: Collection[str] = ()) -> str:
    """What is wrong with the name of a policy; empty when nothing."""
    if name in POLICIES or name in known:
        return ""
    every = (*POLICIES, *sorted(known))
    return f"there is no policy '{name}'{nearest(name, every)}; there are {', '.join(every)}"
