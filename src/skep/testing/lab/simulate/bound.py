"""How fast it could be at best, whoever decides: no schedule of the same runs on the same nodes ends sooner."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from skep.flow import graph
from skep.testing.lab.simulate.fleetfile import SimulatedNode
from skep.testing.lab.simulate.trace import Arriving
from skep.testing.lab.simulate.work import Durations, Work, ceil_ms, kind_key

Group = frozenset[int]
"""Kinds of nodes, by position."""


class Bounds:
    """Lower bounds on a fleet of nodes that are all there and never fail."""

    def __init__(self, nodes: Sequence[SimulatedNode]) -> None:
        kinds: dict[object, list[SimulatedNode]] = {}
        for node in nodes:
            kinds.setdefault(kind_key(node), []).append(node)
        self._kinds = [(group[0], len(group) * group[0].info.slots) for group in kinds.values()]
        """A node of each kind, and the slots of all of them."""
        self._best: dict[Work, Durations] = {}
        self._able: dict[Work, dict[tuple[Group, str], list[int]]] = {}

    def lower_bound_ms(self, runs: Sequence[Arriving]) -> int:
        """From the first arrival to the last end at least: the larger of the critical path on the fastest nodes, of any one
        run, and of the total work over the total speed."""
        first, longest = runs[0].at_ms, 0
        totals: dict[tuple[Group, str], float] = {}
        for run in runs:
            ms = run.true_ms()
            longest = max(longest, run.at_ms - first + self.critical_path_ms(run.work, ms))
            for key, steps in self._steps(run.work).items():
                totals[key] = totals.get(key, 0.0) + float(ms[steps].sum())
        return max(longest, self._spread_ms(totals))

    def critical_path_ms(self, work: Work, ms: Durations) -> int:
        """How long one run takes at least, were every node of the fastest kind and free. `ms`: durations at speed 1."""
        best = self._best.get(work)
        if best is None:
            best = self._best[work] = self._best_speeds(work)
        return max(graph.longest_after_ms(work.successors, work.ordered, ceil_ms(ms / best).tolist()), default=0)

    def _best_speeds(self, work: Work) -> Durations:
        """Of each step the highest speed at which it can run."""
        by_base = {
            base: max((node.speed(work.type(base)) for node, _ in self._kinds if work.able(base, node.info)), default=1.0)
            for base in set(work.bases)
        }
        return np.array([1.0 if step in work.alone else by_base[base] for step, base in enumerate(work.bases)])

    def _steps(self, work: Work) -> dict[tuple[Group, str], list[int]]:
        """The steps that need a node, by the kinds of nodes that can run them and by type."""
        found = self._able.get(work)
        if found is None:
            found = self._able[work] = {}
            kinds = list(enumerate(self._kinds))
            able = {base: frozenset(at for at, (node, _) in kinds if work.able(base, node.info)) for base in set(work.bases)}
            for step, base in enumerate(work.bases):
                if step not in work.alone:
                    found.setdefault((able[base], work.type(base)), []).append(step)
        return found

    def _spread_ms(self, totals: dict[tuple[Group, str], float]) -> int:
        """How long all of it takes at least, were it spread without a gap over the nodes that can run it.

        Tasks that few kinds can run may take longest, so each set of kinds is looked at with all that runs nowhere else. A
        node counts with the speed of the type at which it is best.
        """
        longest = 0.0
        for group in {able for able, _ in totals}:
            inside = [key for key in totals if key[0] <= group]
            speed = sum(max(self._kinds[at][0].speed(type) for _, type in inside) * self._kinds[at][1] for at in group)
            longest = max(longest, sum(totals[key] for key in inside) / speed if speed else 0.0)
        return int(longest)
