"""What is simulated: a workflow with the true duration of each of its tasks, on a node of speed 1.

What nobody can know before it ran is assumed, and said: every `when` holds, but those that take care of failures; a `map` over
something that only a run knows has `children` of them; who waits for a person, an event or a child run waits as long as its
`estimated_duration` says, and needs no node; a task without an `estimated_duration` takes `plain_ms`. No task fails.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import Final

import numpy as np
from numpy.typing import NDArray

from skep.flow import graph
from skep.flow.decide import Facts, items_of
from skep.flow.evaluation import ExpressionError
from skep.flow.plan import Plan
from skep.model.node import NodeInfo
from skep.model.run import ReadyTask
from skep.router.fit import eligible
from skep.testing.lab.simulate.fleetfile import SimulatedNode

CHILDREN: Final = 10
PLAIN_MS: Final = 10_000

Durations = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Work:
    """One workflow. Its *steps* are its tasks and, behind them, the children of its maps."""

    name: str
    plan: Plan
    ms: Durations
    """True duration of each task at speed 1; of a map, that of each child."""
    children: Mapping[int, int]
    """Map to how many children it has."""
    assumed: Sequence[str] = ()
    """What is assumed of it, for people."""
    steps_ms: Durations | None = None
    """True duration of each step at speed 1, where that is known; else it follows from `ms`."""

    @cached_property
    def first(self) -> dict[int, int]:
        """Map to the step that is its first child."""
        found, at = {}, len(self.plan.tasks)
        for parent, count in self.children.items():
            found[parent] = at
            at += count
        return found

    @cached_property
    def bases(self) -> list[int]:
        """Of each step the task whose plan applies."""
        return [*range(len(self.plan.tasks)), *(parent for parent, count in self.children.items() for _ in range(count))]

    @property
    def size(self) -> int:
        """How many steps."""
        return len(self.bases)

    @cached_property
    def step_ms(self) -> Durations:
        """True duration of each step at speed 1; a map itself takes no time."""
        if self.steps_ms is not None:
            return self.steps_ms
        durations: Durations = self.ms[self.bases]
        durations[list(self.children)] = 0
        return durations

    @cached_property
    def alone(self) -> frozenset[int]:
        """Steps that need no node: maps, and what waits for somebody else."""
        return frozenset([*self.children, *(at for at, task in enumerate(self.plan.tasks) if task.parks)])

    @cached_property
    def needs(self) -> list[tuple[int, ...]]:
        """What each step waits for: a map for its children, they for what it needs."""
        plan, found = self.plan, list(self.plan.needs)
        for parent, count in self.children.items():
            found += [plan.needs[parent]] * count
            found[parent] = (*plan.needs[parent], *range(self.first[parent], self.first[parent] + count))
        return found

    @cached_property
    def successors(self) -> list[tuple[int, ...]]:
        return graph.successors_of(self.needs)

    @cached_property
    def ordered(self) -> list[int]:
        """Every step after those that it needs."""
        return graph.order(self.needs, self.successors)

    def step(self, seen: ReadyTask) -> int:
        """The step that a ready task is."""
        return seen.task if seen.parent < 0 else self.first[seen.parent] + seen.child

    def kind_name(self, base: int) -> str:
        """What its durations are learned by."""
        return f"{self.plan.spec.name}/{self.plan.names[base]}"

    def type(self, base: int) -> str:
        return self.plan.spec.tasks[base].type

    def step_name(self, step: int) -> str:
        base = self.bases[step]
        name = self.plan.names[base]
        return name if step == base else f"{name}[{step - self.first[base]}]"

    def able(self, base: int, info: NodeInfo) -> bool:
        """Whether the node could ever run the task."""
        return eligible(self.plan.tasks[base].wanted, info)


def took_ms(ms: float, speed: float) -> int:
    """How long a task that takes `ms` at speed 1 takes: whole milliseconds, rounded up."""
    return ceil(ms / speed - 1e-9)


def ceil_ms(ms: Durations) -> NDArray[np.int64]:
    """The same of many."""
    return np.ceil(ms - 1e-9).astype(np.int64)


def work_of(plan: Plan, name: str = "", *, children: int = CHILDREN, plain_ms: int = PLAIN_MS) -> Work:
    """The workflow with what it says of itself, and what is assumed where it says nothing."""
    spec, assumed = plan.spec, []
    ms = np.array([task.estimated_ms or (0 if task.executor in _WAITS else plain_ms) for task in spec.tasks], np.float64)
    unsaid = [task.name for task in spec.tasks if not task.estimated_ms and task.executor not in _WAITS]
    if spec.tasks and _recorded(plan):
        ms = np.array([task.estimated_ms for task in spec.tasks], np.float64)
    elif unsaid:
        assumed.append(f"{_some(unsaid)} without `estimated_duration`: {plain_ms / 1000:g} s each")
    counts: dict[int, int] = {}
    guessed = []
    for at, task in enumerate(plan.tasks):
        if task.map is not None:
            found = None if task.map_reads else _children(plan, at)
            counts[at] = children if found is None else found
            guessed += [plan.names[at]] * (found is None)
    if guessed:
        assumed.append(f"{_some(guessed)} over what only a run knows: {children} children each")
    return Work(name or spec.name, plan, ms, counts, assumed)


_WAITS: Final = frozenset({"approval", "uses", "wait_for"})


def _recorded(plan: Plan) -> bool:
    """Whether its durations were measured: then one of 0 ms is one."""
    return all(task.labels and "recorded_seconds" in task.labels for task in plan.spec.tasks)


def _children(plan: Plan, at: int) -> int | None:
    """How many children a map has that looks at nothing but inputs."""
    facts = Facts(plan, {"id": "", "workflow": plan.spec.name, "namespace": plan.spec.namespace}, plan.spec.inputs or {}, {})
    try:
        return len(items_of(facts, ReadyTask("", at, 0, False, 0, 0, 0, parent=at, child=0)))
    except ExpressionError:
        return None


def _some(names: Sequence[str]) -> str:
    return f"{', '.join(names[:3])}{f' and {len(names) - 3:,} more' if len(names) > 3 else ''}"


def kinds_of(nodes: Sequence[SimulatedNode]) -> list[SimulatedNode]:
    """One node of each kind: those that differ in nothing but the name count once."""
    found: dict[object, SimulatedNode] = {}
    for node in nodes:
        found.setdefault(kind_key(node), node)
    return list(found.values())


def kind_key(node: SimulatedNode) -> object:
    """What makes nodes equal."""
    info = node.info
    has = (info.executors, info.capabilities, tuple(info.labels.items()), info.swarm, info.region)
    return (*has, info.slots, info.cpu_milli, info.memory, info.vram, info.cost_per_hour, tuple(node.speeds.items()))
