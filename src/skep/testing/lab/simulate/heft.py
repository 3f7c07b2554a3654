"""HEFT, heterogeneous earliest finish time (Topcuoglu, Hariri and Wu, 2002): the baseline that sees everything beforehand.

Tasks are taken by upward rank, the longest way to the end over the average of each task's durations; each goes to the processor
on which it ends first, into a gap between others if one is large enough. It needs the whole graph and all true durations in
advance; nothing is learned, nothing is lost, nobody arrives unexpectedly.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Mapping, Sequence
from typing import NamedTuple

NOBODY = -1
"""In the place of a processor: the task needs none."""


class Planned(NamedTuple):
    """When and where a task runs."""

    processor: int
    start: float
    end: float


class Heft:
    """The processors with what is planned on them so far. `plan` adds one graph after the other."""

    def __init__(self, processors: int) -> None:
        self._busy: list[list[tuple[float, float]]] = [[] for _ in range(processors)]

    def plan(
        self,
        needs: Sequence[Sequence[int]],
        durations: Sequence[Sequence[float | None]],
        *,
        alone: Mapping[int, float] | None = None,
        sends: Mapping[tuple[int, int], float] | None = None,
        from_: float = 0,
    ) -> list[Planned]:
        """A place for every task of a graph that is there from `from_` on.

        `durations`: by task and processor, None where it cannot run. `alone`: tasks that need no processor, and how long they
        take. `sends`: what it takes to hand on from one task to another if they run on different processors.
        """
        alone, sends = alone or {}, sends or {}
        planned: list[Planned | None] = [None] * len(needs)
        for task in by_rank(needs, durations, alone, sends):
            ends = [(up, before) for up in needs[task] if (before := planned[up]) is not None]
            if task in alone:
                start = max([from_, *(before.end for _, before in ends)])
                planned[task] = Planned(NOBODY, start, start + alone[task])
            else:
                planned[task] = self._best(task, durations[task], ends, sends, from_)
        return [one for one in planned if one is not None]

    def _best(
        self,
        task: int,
        durations: Sequence[float | None],
        ends: Sequence[tuple[int, Planned]],
        sends: Mapping[tuple[int, int], float],
        from_: float,
    ) -> Planned:
        best: Planned | None = None
        same = from_ if sends else max([from_, *(before.end for _, before in ends)])
        for processor, takes in enumerate(durations):
            if takes is None:
                continue
            ready = same
            if sends:
                for up, before in ends:
                    away = before.processor not in (processor, NOBODY)
                    ready = max(ready, before.end + (sends.get((up, task), 0) if away else 0))
            if best is not None and ready + takes >= best.end:
                continue
            start = self._gap(processor, ready, takes)
            if best is None or start + takes < best.end:
                best = Planned(processor, start, start + takes)
        if best is None:
            raise ValueError(f"no processor can run task {task}")
        insort(self._busy[best.processor], (best.start, best.end))
        return best

    def _gap(self, processor: int, ready: float, takes: float) -> float:
        """The first moment from `ready` on at which the processor has nothing planned for so long."""
        busy = self._busy[processor]
        if not busy or busy[-1][1] <= ready:
            return ready
        at = bisect_right(busy, (ready, float("inf")))
        start = max(ready, busy[at - 1][1]) if at else ready
        for begins, ends in busy[at:]:
            if begins - start >= takes:
                break
            start = max(start, ends)
        return start


def by_rank(
    needs: Sequence[Sequence[int]],
    durations: Sequence[Sequence[float | None]],
    alone: Mapping[int, float],
    sends: Mapping[tuple[int, int], float],
) -> list[int]:
    """The tasks by upward rank, the highest first; each after those that it needs."""
    successors: list[list[int]] = [[] for _ in needs]
    for task, ups in enumerate(needs):
        for up in ups:
            successors[up].append(task)
    pending = [len(ups) for ups in needs]
    ordered = [task for task, count in enumerate(pending) if not count]
    for task in ordered:  # grows while it is walked
        for successor in successors[task]:
            pending[successor] -= 1
            if not pending[successor]:
                ordered.append(successor)
    rank = [0.0] * len(needs)
    for task in reversed(ordered):
        able = [takes for takes in durations[task] if takes is not None] if task not in alone else [alone[task]]
        after = max((sends.get((task, next_), 0) + rank[next_] for next_ in successors[task]), default=0)
        rank[task] = sum(able) / max(len(able), 1) + after
    place = {task: at for at, task in enumerate(ordered)}
    return sorted(ordered, key=lambda task: (-rank[task], place[task]))
