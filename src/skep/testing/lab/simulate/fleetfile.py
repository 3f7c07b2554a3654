"""The fleet file: simulated nodes with their speeds and prices, how they fail, and how work arrives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from skep.errors import Problem, SpecError
from skep.model import kinds
from skep.model.fields import Fault, Field, Found, Kind, Table, show, show_path, wrong
from skep.model.node import NodeInfo
from skep.model.schema import DIALECT
from skep.sdk.yaml import read_data, read_file, with_lines

MOST_NODES: Final = 100_000
EXECUTORS: Final = ("run", "python", "http")
DEFAULT: Final = "default"
"""In `speed`: of every task type that is not named."""
BACK_AFTER_MS: Final = 300_000
"""When a node that fails by chance comes back, where nothing else is said."""


@dataclass(frozen=True)
class SimulatedNode:
    """A node as it registers, and how fast it really is, which nobody tells the router."""

    info: NodeInfo
    speeds: Mapping[str, float]
    """By task type; under `default` that of all others. At speed 2 a task takes half of the time that it takes at speed 1."""

    def speed(self, type: str) -> float:
        return self.speeds.get(type, self.speeds[DEFAULT])


@dataclass(frozen=True)
class Failures:
    """How nodes are lost. A lost node's attempts are made again elsewhere."""

    lost: int = 0
    """So many nodes, each once, at moments and of a choice that the seed decides."""
    between_ms: int = 0
    """Mean time between the failures of one node, exponentially distributed; 0: none fails by chance."""
    back_after_ms: int = 0
    """After how long a lost node is back; 0: never, and for those that fail by chance five minutes."""


@dataclass(frozen=True)
class Arrivals:
    """When runs arrive."""

    process: str = ""
    """`at-once`, `every` (always the same interval) or `poisson`. Empty: each workflow alone, on a fleet of its own."""
    interval_ms: int = 0
    """Between two of them; on average, for `poisson`."""
    runs: int = 0
    """In all, the workflows in turn; 0: each workflow once."""


@dataclass(frozen=True)
class FleetFile:
    """What a fleet file says."""

    name: str
    nodes: tuple[SimulatedNode, ...]
    failures: Failures = field(default_factory=Failures)
    arrivals: Arrivals = field(default_factory=Arrivals)

    def with_nodes(self, more: Sequence[SimulatedNode], without: Sequence[str] = ()) -> FleetFile:
        """The fleet as it would be with other nodes."""
        kept = [node for node in self.nodes if node.info.id not in without]
        return replace(self, nodes=(*kept, *more))


# -- its keys

_NAME: Final = kinds.names(kinds.NAME, "a group of nodes")
_SPEED: Final = kinds.number(0.001, 1_000_000)
_BY_TYPE: Final = kinds.mapping_of(_SPEED, "a mapping from task types to speeds")
_COUNT: Final = kinds.number(1, MOST_NODES, whole=True)


def _parse_speed(value: Any) -> dict[str, float]:
    if isinstance(value, Mapping):
        return {DEFAULT: 1.0, **(_BY_TYPE.parse(value) or {})}
    try:
        return {DEFAULT: _SPEED.parse(value)}
    except Fault:
        raise wrong(value, "a speed above 0, such as 2, or a mapping from task types to speeds") from None


SPEED: Final = Kind(_parse_speed, {"anyOf": [_SPEED.schema, _BY_TYPE.schema]})

NODES: Final = Table(
    "a group of nodes",
    Field("name", "name", _NAME, "Its nodes are NAME-1, NAME-2 and so on; a group of one is called NAME."),
    Field("count", "count", _COUNT, "How many nodes of this kind there are (1)."),
    Field("speed", "speeds", SPEED, "How much faster than a node of speed 1 (1); or by task type, with a `default`."),
    Field("slots", "slots", kinds.number(1, 100_000, whole=True), "How many tasks each of them runs at once (1)."),
    Field("cost_per_hour", "cost_per_hour", kinds.number(0, 1_000_000), "Price of one node in use (0)."),
    Field("weight", "weight", kinds.number(0, 1_000_000), "Its share under the policy `weighted` (1)."),
    Field("capabilities", "capabilities", kinds.WORDS, "Words that `requires` of tasks may ask for (cpu)."),
    Field("labels", "labels", kinds.TEXTS, "More words for `requires`, as `label` or `label=value`."),
    Field("cpu", "cpu_milli", kinds.CORES, "Cores (as many as slots)."),
    Field("memory", "memory", kinds.SIZE, "Memory, such as 64GB (no bound)."),
    Field("vram", "vram", kinds.SIZE, "Memory of its GPUs (0)."),
    Field("swarm", "swarm", kinds.names(kinds.NAME, "a swarm"), "Its swarm (default)."),
    Field("region", "region", kinds.names(kinds.NAME, "a region"), "Its region (local)."),
    required=("name",),
)
FAILURES: Final = Table(
    "`failures`",
    Field("lost", "lost", kinds.number(0, MOST_NODES, whole=True), "So many nodes are lost, once each, while work arrives."),
    Field("mean_time_between", "between_ms", kinds.DURATION, "Each node fails by chance, so far apart on average."),
    Field("back_after", "back_after_ms", kinds.DURATION, "A lost node comes back after so long (never)."),
)
ARRIVALS: Final = Table(
    "`arrivals`",
    Field("at_once", "at_once", kinds.FLAG, "All runs arrive at the start."),
    Field("every", "every", kinds.DURATION, "A run arrives each time so much has passed."),
    Field("poisson", "poisson", kinds.DURATION, "Runs arrive by chance, so far apart on average."),
    Field("runs", "runs", kinds.number(1, 10_000_000, whole=True), "How many runs, the workflows in turn (each once)."),
)

_MOST_MEMORY: Final = 1 << 50


def _make_arrivals(**given: Any) -> Arrivals:
    named = [word for word in ("at_once", "every", "poisson") if given.get(word)]
    if len(named) != 1:
        found = " and ".join(f"`{word}`" for word in named) or "none of them"
        raise Fault([((), f"found {found}, expected one of `at_once: true`, `every` and `poisson` with a time above 0")])
    word = named[0]
    return Arrivals(word.replace("_", "-"), 0 if word == "at_once" else given[word], given.get("runs", 0))


def _parse_nodes(value: Any) -> list[SimulatedNode]:
    if not isinstance(value, list) or not value:
        raise wrong(value or None, "a list of groups of nodes, at least one")
    groups = kinds.each(kinds.mapping_with(NODES, _group, lambda parsed: parsed).parse, value)
    nodes: list[SimulatedNode] = []
    faults: list[Found] = []
    seen: set[str] = set()
    for at, group in enumerate(groups):
        if twice := [node.info.id for node in group if node.info.id in seen]:
            faults.append(((at, "name"), f"there is a node '{twice[0]}' already"))
        seen.update(node.info.id for node in group)
        nodes += group
    if len(nodes) > MOST_NODES:
        faults.append(((), f"{len(nodes):,} nodes are more than the {MOST_NODES:,} that are simulated"))
    if faults:
        raise Fault(faults)
    return nodes


def _group(name: str, count: int = 1, speeds: Mapping[str, float] | None = None, **given: Any) -> list[SimulatedNode]:
    labels = given.pop("labels", None) or {}
    slots = given.setdefault("slots", 1)
    given.setdefault("cpu_milli", slots * 1_000)
    given.setdefault("memory", _MOST_MEMORY)
    names = [name] if count == 1 else [f"{name}-{at}" for at in range(1, count + 1)]
    return [
        SimulatedNode(NodeInfo(one, executors=EXECUTORS, labels=labels, **given), speeds or {DEFAULT: 1.0}) for one in names
    ]


_NODES: Final = Kind(_parse_nodes, {"type": "array", "items": NODES.schema(), "minItems": 1})
FLEET: Final = Table(
    "a fleet file",
    Field("name", "name", kinds.names(kinds.NAME, "a fleet"), "What the fleet is called."),
    Field("description", "description", kinds.PROSE, "What it stands for."),
    Field("nodes", "nodes", _NODES, "The nodes, in groups of equal ones."),
    Field("failures", "failures", kinds.mapping_with(FAILURES, Failures, lambda parsed: parsed), "How nodes are lost."),
    Field("arrivals", "arrivals", kinds.mapping_with(ARRIVALS, _make_arrivals, lambda parsed: parsed), "How runs arrive."),
    required=("nodes",),
)


# -- reading


def read_fleet(path: Path) -> FleetFile:
    """The fleet in a YAML or JSON file. Raises SpecError with every problem, its field and its line."""
    text, source = read_file(path), str(path)
    try:
        return build_fleet(read_data(text, source))
    except SpecError as error:
        raise with_lines(error, text, source) from None


def build_fleet(data: Any) -> FleetFile:
    """The fleet in JSON-like data. Raises SpecError."""
    if not isinstance(data, Mapping):
        raise SpecError.at("", f"found {show(data)}, expected a mapping with {FLEET.keys}")
    faults: list[Found] = []
    given = FLEET.read(data, faults)
    nodes = given.get("nodes", ())
    if (failures := given.get("failures")) and failures.lost > len(nodes) and nodes:
        faults.append((("failures", "lost"), f"found {failures.lost}, expected no more than there are nodes: {len(nodes)}"))
    if faults:
        raise SpecError([Problem(show_path(path), message) for path, message in faults])
    given.pop("description", None)
    return FleetFile(**{"name": "fleet", **given, "nodes": tuple(nodes)})


def schema() -> dict[str, Any]:
    """The JSON Schema of a fleet file."""
    return {"$schema": DIALECT, "title": "Skep simulated fleet", **FLEET.schema()}
