"""The graph of a workflow over task indexes: order, cycle, longest path. Pure."""

from __future__ import annotations

from collections.abc import Sequence


def successors_of(needs: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """Turns "what each task needs" into "who needs each task", in index order."""
    found: list[list[int] | None] = [None] * len(needs)
    for task, upstream in enumerate(needs):
        for up in upstream:
            row = found[up]
            if row is None:
                found[up] = [task]
            else:
                row.append(task)
    return [tuple(row) if row else () for row in found]


def order(needs: Sequence[Sequence[int]], successors: Sequence[Sequence[int]]) -> list[int]:
    """Every task after those that it needs (Kahn, 1962). Shorter than `needs` when there is a cycle."""
    pending = [len(upstream) for upstream in needs]
    ordered = [task for task, count in enumerate(pending) if count == 0]
    for task in ordered:  # grows while it is walked
        for successor in successors[task]:
            pending[successor] -= 1
            if pending[successor] == 0:
                ordered.append(successor)
    return ordered


def cycle(needs: Sequence[Sequence[int]], ordered: Sequence[int]) -> list[int]:
    """One cycle among the tasks that `order` left out, each needing the next, the first repeated at the end."""
    left = set(range(len(needs))).difference(ordered)
    task = min(left)
    seen: dict[int, int] = {}
    path: list[int] = []
    while task not in seen:
        seen[task] = len(path)
        path.append(task)
        task = next(up for up in needs[task] if up in left)
    return [*path[seen[task] :], task]


def longest_after_ms(successors: Sequence[Sequence[int]], ordered: Sequence[int], durations_ms: Sequence[int]) -> list[int]:
    """For each task the longest predicted time from its start to the end of the run, in ms (the upward rank of HEFT)."""
    ranks = [0] * len(successors)
    for task in reversed(ordered):
        after = max((ranks[successor] for successor in successors[task]), default=0)
        ranks[task] = durations_ms[task] + after
    return ranks


def critical_path(needs: Sequence[Sequence[int]], ordered: Sequence[int], durations_ms: Sequence[int]) -> list[int]:
    """The chain of tasks whose durations add up to the most, first to last."""
    if not ordered:
        return []
    total = [0] * len(needs)
    before: list[int | None] = [None] * len(needs)
    for task in ordered:
        best = max(needs[task], key=lambda up: total[up], default=None)
        before[task] = best
        total[task] = durations_ms[task] + (total[best] if best is not None else 0)
    last: int | None = max(ordered, key=lambda task: total[task])
    path: list[int] = []
    while last is not None:
        path.append(last)
        last = before[last]
    return path[::-1]
