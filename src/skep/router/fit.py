"""Where tasks go. Pure: what a node has and has free is handed in, the names of nodes come out.

One policy for now, least loaded: the node whose scarcest resource has the largest share left gets the next task.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence

from skep.model.node import APP, LiveNode, NodeInfo, Requirement


def eligible(wanted: Requirement, info: NodeInfo) -> bool:
    """Whether the node could ever run it: executor, capabilities and labels, and enough in total."""
    return not shortfall(wanted, info)


def shortfall(wanted: Requirement, info: NodeInfo) -> str:
    """What the node lacks for it, in words; empty when nothing."""
    return lack(wanted, info)[1]


def lack(wanted: Requirement, info: NodeInfo) -> tuple[str, str]:
    """What the node lacks for it: `executor`, `capability` (a label too), `app` or `resources`, and the same in words. Empty
    when nothing."""
    if wanted.executor not in info.executors:
        return "executor", f"does not run `{wanted.executor}` tasks"
    missing = [word for word in wanted.requires if not has(info, word)]
    what = "capability" if missing else "app"
    if wanted.app and not info.any_app and f"{APP}{wanted.app}" not in info.capabilities:
        missing.append(f"{APP}{wanted.app}")
    if missing:
        return what, f"lacks {', '.join(missing)}"
    for resource, needed, total in (
        ("cpu", wanted.cpu_milli, info.cpu_milli),
        ("memory", wanted.memory, info.memory),
        ("vram", wanted.vram, info.vram),
    ):
        if needed > total:
            return "resources", f"has too little {resource}"
    return "", ""


def has(info: NodeInfo, word: str) -> bool:
    """Whether a word of `requires` is a capability of the node, one of its labels (`zone`), or a label's value (`zone=eu`)."""
    if word in info.capabilities or word in info.labels:
        return True
    name, equals, value = word.partition("=")
    return bool(equals) and info.labels.get(name) == value


def unroutable(wanted: Requirement, nodes: Iterable[NodeInfo]) -> str:
    """Why no node can run it; empty when one can, or when it needs none."""
    if wanted.parks:
        return ""
    reasons = []
    for info in nodes:
        reason = shortfall(wanted, info)
        if not reason:
            return ""
        reasons.append(f"{info.id} {reason}")
    return "; ".join(reasons[:5]) or "there are no nodes"


def room(wanted: Requirement, nodes: Sequence[LiveNode]) -> int | None:
    """For how many attempts of it there is room now; None: no node ever has."""
    takes = wanted.takes()
    able = [node for node in nodes if eligible(wanted, node.info)]
    open = (node for node in able if not node.draining)
    fits = sum(max(min((node.free.get(resource, 0) // units for resource, units in takes), default=0), 0) for node in open)
    return fits if able else None


def least_loaded(wanted: Requirement, count: int, nodes: Sequence[LiveNode]) -> list[str]:
    """Nodes for up to `count` equal tasks, as many as fit now. What they take is taken off `free` of the nodes handed in."""
    takes = wanted.takes()
    able = [node for node in nodes if not node.draining and eligible(wanted, node.info)]
    if len(able) == 1:
        node = able[0]
        fit = max(min(count, *(node.free.get(resource, 0) // units for resource, units in takes)), 0)
        for resource, units in takes:
            node.free[resource] -= units * fit
        return [node.info.id] * fit
    heap = [(-_left(node, takes), node.info.id, at) for at, node in enumerate(able) if _fits(node, takes)]
    heapq.heapify(heap)
    chosen: list[str] = []
    while heap and len(chosen) < count:
        _, name, at = heap[0]
        node = able[at]
        for resource, units in takes:
            node.free[resource] -= units
        chosen.append(name)
        if _fits(node, takes):
            heapq.heapreplace(heap, (-_left(node, takes), name, at))
        else:
            heapq.heappop(heap)
    return chosen


def _fits(node: LiveNode, takes: tuple[tuple[str, int], ...]) -> bool:
    return all(node.free.get(resource, 0) >= units for resource, units in takes)


def _left(node: LiveNode, takes: tuple[tuple[str, int], ...]) -> float:
    """The smallest share left of what such a task takes, from 0 to 1."""
    info = node.info
    totals = {"slots": info.slots, "cpu": info.cpu_milli, "memory": info.memory, "vram": info.vram}
    return min(node.free.get(resource, 0) / max(totals[resource], 1) for resource, _ in takes)
