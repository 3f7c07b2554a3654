"""What the router says of a task that waits for a node, and what the record keeps of one that got it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from skep.flow.decide import Start
from skep.hub.because import Choice, Facts
from skep.hub.standing import candidates, standing
from skep.model.why import CandidateView, PlacedView
from skep.record.protocol import Record, TaskRow
from skep.upkeep.catalog import RunContext
from skep.upkeep.decisions import Candidate, Decided, decode
from skep.upkeep.place import PlaceLoop

if TYPE_CHECKING:  # it needs NumPy, and with one node nothing is chosen
    from skep.router.explain import Explanation

ROWS: Final = 20
"""Batches that are looked through for a task."""
CANDIDATES: Final = 20
"""Nodes that are told of."""
NOT_KEPT: Final = (
    "how it came there is not kept: only one node was able, or more tasks were placed at that moment than decisions are kept of"
)


class Placed:
    """Asks the place loop's router, and the record."""

    def __init__(self, record: Record, place: PlaceLoop) -> None:
        self._record = record
        self._place = place

    def explained(self, run: RunContext, task: int, facts: Facts) -> Explanation | None:
        """Where it would go now. `task`: as the workflow has it. None: there is no router here, as with one node, or on a
        server that does not lead."""
        plan = run.plan.tasks[task]
        wanted = run.wishes.wanted(task, plan, Start(plan.constant_call or b"?"), 0)
        if plan.constant_call is None:
            wanted = wanted._replace(kind=wanted.kind._replace(size=0))  # what it will be given is not known yet
        return self._place.routing.explained(wanted, facts.server.nodes, facts.server.now_ms, CANDIDATES)

    def choice(self, run: RunContext, task: int, facts: Facts) -> Choice:
        """What of it decides."""
        said = self.explained(run, task, facts) if facts.wish is not None else None
        if said is None:
            return Choice()
        shut = self._place.routing.shut(run.wishes.kind(task), facts.server.now_ms)
        return Choice(said.why, said.node_waited_for, round(said.wait_s * 1000), shut)

    def candidates(self, run: RunContext, task: int, facts: Facts) -> list[CandidateView]:
        """The nodes, for a task that waits for one: those that it could go to first, the cheapest before the others."""
        assert facts.wish is not None
        found = standing(facts.wish, facts.server.nodes, facts.server.now_ms, facts.choice.unhealthy)
        views = list(candidates(found, facts.server.nodes))
        said = self.explained(run, task, facts)
        if said is None:
            return views
        known = {one.node: Candidate.of(one) for one in said.candidates}
        told = [_view(known[view.node], view.out) if view.node in known else view for view in views]
        return sorted(told, key=lambda one: (1,) if one.out else (0, not one.preferred, one.preferred, one.cost or 0.0))

    async def placement(self, run: str, task: int, row: TaskRow) -> PlacedView:
        """How the last attempt came to its node, and how long it took."""
        history = (await self._record.attempts(run, task)).get(task, [])
        last = history[-1] if history else None
        view = PlacedView(node=row.node, attempt=last.attempt if last is not None else row.attempts)
        if last is not None and last.started_ms and last.finished_ms:
            view.actual_ms = max(last.finished_ms - last.started_ms, 0)
        for kept in await self._record.decisions(run, task, ROWS):
            for decided in decode(kept.data):
                if any(at == task and attempt == view.attempt for at, attempt, _ in decided.tasks):
                    return _told(view, decided)
        view.note = NOT_KEPT
        return view


def _told(view: PlacedView, decided: Decided) -> PlacedView:
    view.policy, view.looked_ms, view.able = decided.policy, decided.looked_ms, decided.able
    view.candidates = [_view(one, chosen=one.node == view.node) for one in decided.candidates]
    view.predicted_ms = next((one.predicted_ms for one in view.candidates if one.chosen), None)
    return view


def _view(one: Candidate, out: str = "", chosen: bool = False) -> CandidateView:
    return CandidateView(
        node=one.node,
        chosen=chosen,
        out=out,
        cost=one.cost,
        terms=one.terms,
        predicted_ms=one.predicted_ms if one.predicted_ms >= 0 else None,
        preferred=one.preferred,
    )
