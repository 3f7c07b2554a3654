"""What the router is asked for a task. Kept with the plan: tasks that are alike ask for the same, run after run."""

from __future__ import annotations

from collections import Counter
from typing import Final

from skep.flow.decide import Start
from skep.flow.plan import Plan
from skep.flow.task import TaskPlan
from skep.router.wanted import Kind, Wanted

ALIKE: Final = 500
"""Tasks of one workflow whose names differ only in the number at their end are one kind of work when there are more."""
SIZES: Final = 100_000
"""Pairs of task and size that are kept of one plan."""
DUE_MS: Final = 1_000
"""Deadlines are told in steps of this, so that tasks with nearly the same one are decided on together."""


class Wishes:
    """Of the tasks of one plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._kinds: list[Kind | None] = []
        self._kept: dict[tuple[int, int], Wanted] = {}
        self._same: dict[Wanted, Wanted] = {}
        """One object for all that are equal."""
        self._same_kinds: dict[Kind, Kind] = {}
        self._many: frozenset[str] = frozenset()

    def kind(self, task: int) -> Kind:
        """What durations of the task are learned by; of a map child: that of its parent."""
        if not self._kinds:
            self._kinds, self._many = [None] * len(self._plan.names), _many(self._plan.names)
        kind = self._kinds[task]
        if kind is None:
            spec, name = self._plan.spec.tasks[task], self._plan.names[task]
            alike = _stem(name)
            shown = f"{self._plan.spec.name}/{alike if alike in self._many else name}"
            kind = Kind(shown, spec.type, spec.executor, 0, spec.estimated_ms)
            kind = self._kinds[task] = self._same_kinds.setdefault(kind, kind)
        return kind

    def wanted(self, at: int, task: TaskPlan, start: Start, due_ms: int) -> Wanted:
        """`at`: index of the task, or of the map whose child it is. `due_ms`: how long until its deadline; 0: none."""
        size = 0 if task.constant_call is not None else 1 << (len(start.call) - 1).bit_length()
        wanted = self._kept.get((at, size)) or self._make(at, task, size)
        if start.affinity:
            wanted = wanted._replace(affinity=start.affinity)
        return wanted._replace(due_ms=-(-due_ms // DUE_MS) * DUE_MS) if due_ms else wanted

    def _make(self, at: int, task: TaskPlan, size: int) -> Wanted:
        said, kind = task.placement, self.kind(at)
        wanted = Wanted(
            requirement=task.wanted,
            kind=kind._replace(size=size) if size else kind,
            policy=said.policy,
            prefer=said.prefer,
            affinity=said.affinity if task.affinity is None else "",
            cost_sensitive=said.cost_sensitive,
        )
        if len(self._kept) >= SIZES:
            self._kept.clear()
            self._same.clear()
        wanted = self._kept[at, size] = self._same.setdefault(wanted, wanted)
        return wanted


def _stem(name: str) -> str:
    return name.rstrip("0123456789")


def _many(names: list[str]) -> frozenset[str]:
    if len(names) <= ALIKE:
        return frozenset()
    return frozenset(stem for stem, count in Counter(map(_stem, names)).items() if count > ALIKE and stem)
