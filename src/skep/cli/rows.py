"""The rows in which a run is shown, and the tree that they form.

A row is one task, or many whose names differ only in their number. Each hangs below the latest of the rows that it needs.
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
"""Children of a map that are shown one by one; more are folded into one row."""
FEW: Final = 2
MANY: Final = 30
"""In a run of many tasks, more than a few that are named alike are folded too."""
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
    """The rows of a plan."""

    def __init__(self, plan: Plan) -> None:
        self.of: list[Row] = []
        """The row of each task, by index."""
        self._roots: list[Row] = []
        self._below: dict[Row, list[Row]] = {}
        self._order: list[Row] = []
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

    def _first_tasks(self, plan: Plan, level: Sequence[int]) -> dict[Row, int]:
        """Fills `of`; answers for every row the first of its tasks in the graph's order (so that the tree has no circle)."""
        stems = [stem(task.name) if task.map is None else "" for task in plan.spec.tasks]
        sizes = Counter(stems)
        most = fold_above(len(stems))
        groups: dict[str, Row] = {}
        first: dict[Row, int] = {}
        for task, name in enumerate(plan.names):
            key = stems[task]
            grouped = key and sizes[key] > most
            row = groups.setdefault(key, groups.get(key) or Row(key)) if grouped else Row(name, task)
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
            self._order = []
        return children

    @property
    def order(self) -> list[Row]:
        """Every row from the top to the bottom, each with its branch."""
        if not self._order:
            self._draw()
        return self._order

    def _draw(self) -> None:
        stack: list[tuple[Row, str, str, int]] = [(row, "", "", 0) for row in reversed(self._roots)]
        while stack:
            row, branch, indent, depth = stack.pop()
            row.branch = branch
            self._order.append(row)
            if depth == DEEPEST:
                continue
            below = self._below.get(row, []) if depth < DEEPEST - 1 else self._all_below(row)
            last = len(below) - 1
            hung = [(child, *(("├─ ", "│  ") if at < last else ("╰─ ", "   "))) for at, child in enumerate(below)]
            stack += [(child, indent + corner, indent + line, depth + 1) for child, corner, line in reversed(hung)]

    def _all_below(self, row: Row) -> list[Row]:
        found: list[Row] = []
        stack = [*reversed(self._below.get(row, []))]
        while stack:
            found.append(stack.pop())
            stack += reversed(self._below.get(found[-1], []))
        return found


def fold_above(tasks: int) -> int:
    """How many tasks that are named alike a run of so many tasks shows one by one."""
    return FEW if tasks > MANY else DOZEN


def stem(name: str) -> str:
    """The name without the number at its end; empty when there is none."""
    match = _NUMBERED.fullmatch(name)
    return match[1] if match else ""
