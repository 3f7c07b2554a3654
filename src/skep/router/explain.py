"""A decision in the open: who was looked at, what each would have cost and why, and who could not be taken. Plain data."""

from __future__ import annotations

import math

import msgspec
import numpy as np

from skep.router.fit import shortfall
from skep.router.hold import waiting_cost
from skep.router.look import Costs, Look
from skep.router.view import View
from skep.router.wanted import Wanted


class Candidate(msgspec.Struct, frozen=True, omit_defaults=True):
    """A node that could run it."""

    node: str
    cost: float
    """By the policy, with the time until it has room; the lowest is taken. It has no unit. Infinite: when it will have room is
    not known, or the policy does not wait."""
    terms: dict[str, float] = {}
    """What the cost is the sum of; empty for policies that look at one thing only."""
    room: int = 0
    """How many such tasks fit there now."""
    run_s: float | None = None
    """Predicted time to run, the median; None: unknown."""
    spread: float | None = None
    """Standard deviation of its logarithm: 0.1 is about 10 %."""
    ahead_s: float | None = None
    """Until it has room, as predicted; None: it has room, or that is unknown."""

    preferred: int = 0
    """Which choice it is of the task's preferences, from 1; 0: none."""


class RuledOut(msgspec.Struct, frozen=True, omit_defaults=True):
    """A node that was not considered."""

    node: str
    why: str
    """In words, such as `lacks gpu`."""


class Explanation(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a task would go at this moment."""

    policy: str
    node: str = ""
    """Empty: nowhere now."""
    why: str = ""
    """As in `Choice`."""
    node_waited_for: str = ""
    wait_s: float = 0.0
    candidates: tuple[Candidate, ...] = ()
    """The cheapest first."""
    more: int = 0
    """Candidates beyond these."""
    ruled_out: tuple[RuledOut, ...] = ()
    """The first of them."""
    more_ruled_out: int = 0


def explain(view: View, wanted: Wanted, now_ms: int, most: int) -> Explanation:
    """Where the task would go at this moment, and why; nothing is taken by it."""
    able = view.able(wanted)
    usable = view.usable(wanted, able, now_ms)
    out = np.flatnonzero(~usable)
    reasons = tuple(RuledOut(view.fleet.ids[row], _reason(view, wanted, row, now_ms)) for row in out[:most].tolist())
    rows = np.flatnonzero(usable)
    if not len(rows):
        why = "unable" if not able.any() else "unhealthy" if (able & view.fleet.open).any() else "full"
        return Explanation(view.policy(wanted), why=why, ruled_out=reasons, more_ruled_out=len(out) - len(reasons))
    look = view.look(wanted, 1, rows)
    costs = view.costs(look)
    found = sorted((_candidate(view, look, costs, item, now_ms) for item in _first(look, costs, most)), key=_in_order)
    best = found[0]
    held = not best.room and math.isfinite(best.cost)
    return Explanation(
        view.policy(wanted),
        node=best.node if best.room else "",
        why="" if best.room else "held" if held else "full",
        node_waited_for=best.node if held else "",
        wait_s=best.ahead_s or 0.0,
        candidates=tuple(found),
        more=len(rows) - len(found),
        ruled_out=reasons,
        more_ruled_out=len(out) - len(reasons),
    )


def _in_order(candidate: Candidate) -> tuple[bool, int, float]:
    """Preferred ones with room before all others."""
    chosen = candidate.preferred if candidate.room else 0
    return not chosen, chosen, candidate.cost


def _first(look: Look, costs: Costs, most: int) -> list[int]:
    """The cheapest, some of each: those with room, and those without."""
    order = np.argsort(costs.first, kind="stable")
    free, full = order[look.room[order] > 0], order[look.room[order] <= 0]
    some = max(most - len(full), (most + 1) // 2)
    return [*free[:some].tolist(), *full[: most - len(free[:some])].tolist()]


def _candidate(view: View, look: Look, costs: Costs, item: int, now_ms: int) -> Candidate:
    row, room, cost = int(look.rows[item]), int(look.room[item]), float(costs.first[item])
    queue = [] if room else view.queue(row, now_ms)
    if not room:
        waits = bool(queue) and costs.wait > 0 and view.settings.hold and look.median_s is not None
        cost = waiting_cost(look, costs, item, queue[0], view.settings) if waits else math.inf
    return Candidate(
        view.fleet.ids[row],
        cost,
        {name: float(term[item]) for name, term in costs.terms.items()},
        room,
        None if look.median_s is None else float(look.median_s[item]),
        None if look.spread is None else float(look.spread[item]),
        queue[0] if queue else None,
        next((at for at, tier in enumerate(view.tiers(look.wanted), 1) if tier[row]), 0),
    )


def _reason(view: View, wanted: Wanted, row: int, now_ms: int) -> str:
    """Why a node is not considered."""
    info = view.fleet.infos[row]
    if wanted.swarm and info.swarm != wanted.swarm:
        return f"is not of the swarm {wanted.swarm}"
    if wanted.region and info.region != wanted.region:
        return f"is not in the region {wanted.region}"
    if info.slots <= 0:
        return "has no slots"
    if lacking := shortfall(wanted.requirement, info):
        return lacking
    return "takes nothing new" if not view.fleet.open[row] else f"is shut off: {view.why_barred(info.id, wanted.kind.type)}"
