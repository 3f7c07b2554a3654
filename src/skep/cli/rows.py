"""The rows in which a run is shown, and the tree that they form.

A row is one task, or more than a dozen tasks whose names differ only in their number. Each hangs below the latest of the rows
that it needs.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Final

from skep.flow import graph
from skep.flow.plan import Plan
from skep.model.node import Progress
from skep.model.state import TaskState

DOZEN: Final = 12
DEEPEST: Final = 6
"""Levels of the tree that are drawn; what is deeper stands at the last one."""

WAITING, RUNNING = int(TaskState.WAITING), int(TaskState.RUNNING)
PARKED, SUCCEEDED, FAILED = int(TaskState.PARKED), int(TaskState.SUCCEEDED), int(TaskState.FAILED)

_NUMBERED: Final = re.compile(r"(.+?)[_.-]?(?:ID|id)?[0-9]+")


class Row:
    """One task, or many that are shown as one. Times are ms; 0 stands for none."""

    __slots__ = (
        *("attempts", "branch", "due_ms", "ended_ms", "members", "name", "nodes", "note", "parent", "progress"),
        *("since_ms", "state", "task", "trouble"),
    )

    def __init__(self, name: str, task: int = -1, parent: Row | None = None) -> None:
        self.name = name
        self.task = task
        """Its index; -1 for a group."""
        self.parent = parent
        """The map whose child it is."""
        self.members: list[int] = []
        """How many members of the group, or children of the map, stand in each state."""
        self.branch = ""
        """The lines of the tree to its left."""
        self.state = WAITING
        self.attempts = 0
        self.nodes: dict[str, None] = {}
        self.since_ms = self.ended_ms = self.due_ms = 0
        self.note = ""
        """The last line that it wrote."""
        self.progress: Progress | None = None
        self.trouble = ""

    def has(self, count: int) -> None:
        """It stands for so many."""
        self.members = [count] + [0] * (len(TaskState) - 1)

    @property
    def size(self) -> int:
        return sum(self.members)

    @property
    def ended(self) -> int:
        """How many of its members have ended."""
        return sum(self.members[SUCCEEDED:])

    @property
    def shown(self) -> int:
        """The state of the task, or the one that says most about a group."""
        if self.task >= 0:
            return RUNNING if self.state == PARKED and self.since_ms and self.members else self.state
        if self.ended < self.size:
            return RUNNING if self.since_ms else WAITING
        return FAILED if self.members[FAILED] else max(range(len(self.members)), key=self.members.__getitem__)


class Tree:
    """The rows of a plan. `of` finds the row of a task; `order` has them from the top to the bottom."""

    def __init__(self, plan: Plan) -> None:
        self.of: list[Row] = []
        self._roots: list[Row] = []
        self._below: dict[Row, list[Row]] = {}
        self.order: list[Row] = []
        needs = plan.needs
        level = [0] * len(needs)
        for task in graph.order(needs, plan.shape.successors):
            level[task] = 1 + max((level[up] for up in needs[task]), default=-1)
        for row, task in self._first_tasks(plan, level).items():
            above = max(needs[task], key=level.__getitem__, default=None)
            if above is None:
                self._roots.append(row)
            else:
                self._below.setdefault(self.of[above], []).append(row)
        self.draw()

    def _first_tasks(self, plan: Plan, level: Sequence[int]) -> dict[Row, int]:
        """Fills `of`; answers for every row the first of its tasks in the graph's order (so that the tree has no circle)."""
        stems = [stem(task.name) if task.map is None else "" for task in plan.spec.tasks]
        sizes = Counter(stems) if len(stems) > DOZEN else Counter[str]()
        groups: dict[str, Row] = {}
        first: dict[Row, int] = {}
        for task, name in enumerate(plan.names):
            key = stems[task]
            if key and sizes[key] > DOZEN:
                row = groups.get(key) or groups.setdefault(key, Row(key))
            else:
                row = Row(name, task)
            self.of.append(row)
            if row not in first or level[task] < level[first[row]]:
                first[row] = task
        for key, row in groups.items():
            row.has(sizes[key])
        return first

    def expand(self, parent: Row, count: int) -> list[Row]:
        """The map `parent` has so many children. Answers the rows for those of them that are shown on their own."""
        parent.has(count)
        children = [Row(f"{parent.name}[{at}]", len(self.of) + at, parent) for at in range(count if count <= DOZEN else 0)]
        self.of += children or [parent] * count
        if children:
            self._below[parent] = children + self._below.get(parent, [])
            self.draw()
        return children

    def draw(self) -> None:
        """Puts the rows in order and gives each its branch."""
        self.order = []
        stack = [(row, "", "", 0) for row in reversed(self._roots)]
        while stack:
            row, row.branch, indent, depth = stack.pop()
            self.order.append(row)
            below = self._below.get(row, [])
            flat = depth >= DEEPEST
            lines = [("├─ ", "│  ")] * (len(below) - 1) + [("╰─ ", "   ")]
            hung = [
                (child, row.branch if flat else indent + corner, indent if flat else indent + line, min(depth + 1, DEEPEST))
                for child, (corner, line) in zip(below, lines, strict=False)
            ]
            stack += reversed(hung)


def stem(name: str) -> str:
    """The name without the number at its end; empty when there is none."""
    match = _NUMBERED.fullmatch(name)
    return match[1] if match else ""
