"""What tasks wait for, followed to those that wait for no other task of their run. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Sequence
from operator import attrgetter

from skep.flow.plan import Plan
from skep.model.run import RestoredTask
from skep.model.state import TaskState
from skep.record.protocol import Expansion

WAITING, PARKED, ENDED = int(TaskState.WAITING), int(TaskState.PARKED), int(TaskState.SUCCEEDED)


class Graph:
    """A run's tasks with the states that are known of them, children of maps included."""

    def __init__(self, plan: Plan, expansions: Sequence[Expansion], tasks: Iterable[RestoredTask], size: int) -> None:
        self.plan = plan
        self.size = len(plan.names)
        self.states = bytearray(max(size, self.size))
        for task in tasks:
            self.states[task.task] = task.state
        self._families = sorted(expansions, key=lambda family: family.first)
        self._family = {family.parent: family for family in expansions}
        self._outs: dict[int, tuple[list[int], frozenset[int]]] = {}

    def parent(self, task: int) -> int:
        """Of a child of a map, the map; -1 for other tasks."""
        at = bisect_right(self._families, task, key=attrgetter("first")) - 1
        while at >= 0 and task >= self.size:  # an empty map begins where the next one does
            family = self._families[at]
            if family.count:
                return family.parent if task < family.first + family.count else -1
            at -= 1
        return -1

    def base(self, task: int) -> int:
        """The task as the workflow has it; of a child of a map, the map."""
        parent = self.parent(task)
        return task if parent < 0 else parent

    def children(self, task: int) -> range:
        """Of a map that was expanded."""
        family = self._family.get(task)
        return range(family.first, family.first + family.count) if family is not None else range(0)

    def waits_for(self, task: int) -> list[int]:
        """Tasks of the run that have to move before this one does, all of them unfinished."""
        states = self.states
        if states[task] == PARKED:
            return self._out(task)[0] if task in self._family else []
        if states[task] != WAITING:
            return []
        if task < self.size:
            return [need for need in self.plan.needs[task] if states[need] < ENDED]
        parent = self.parent(task)
        if parent < 0:
            return []
        out, which = self._out(parent)
        return [] if task in which else out

    def _out(self, parent: int) -> tuple[list[int], frozenset[int]]:
        """Children that are not done and not held back by `max_parallel` of the map."""
        if parent not in self._outs:
            left = [child for child in self.children(parent) if self.states[child] < ENDED]
            window = self.plan.shape.windows[parent] or len(left)
            begun = [child for child in left if self.states[child] != WAITING]
            out = begun + [child for child in left if self.states[child] == WAITING][: max(window - len(begun), 0)]
            self._outs[parent] = out, frozenset(out)
        return self._outs[parent]

    def paths(self, task: int) -> dict[int, int]:
        """Everything that a task waits for, near to far, each with the one that waits for it: from a root the way back."""
        above = {task: -1}
        queue = deque([task])
        while queue:
            at = queue.popleft()
            for need in self.waits_for(at):
                if need not in above:
                    above[need] = at
                    queue.append(need)
        return above

    def roots_of(self, task: int, paths: dict[int, int]) -> list[int]:
        """Those of them that wait for no other."""
        return [at for at in paths if at != task and not self.waits_for(at)]

    def roots(self) -> tuple[list[int], int]:
        """Of the whole run: unfinished tasks that wait for no other, and how many wait."""
        found: list[int] = []
        waiting = 0
        for task, state in enumerate(self.states):
            if state < ENDED and self._is_left(task):
                if self.waits_for(task):
                    waiting += state == WAITING
                else:
                    found.append(task)
        return found, waiting

    def _is_left(self, task: int) -> bool:
        """False for children that a map had before it was expanded anew."""
        return task < self.size or self.parent(task) >= 0

    def behind(self, tasks: Iterable[int]) -> int:
        """How many unfinished tasks wait for these, or for what needs them."""
        seen: set[int] = set()
        queue = deque(tasks)
        while queue:
            task = queue.popleft()
            parent = self.parent(task)
            for after in self.plan.shape.successors[task] if parent < 0 else (parent,):
                if after not in seen and self.states[after] < ENDED:
                    seen.add(after)
                    queue.append(after)
        return len(seen)
