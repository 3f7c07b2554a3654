"""What if the fleet were another one: changes in words, such as `add=4xgpu`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import msgspec

from skep.errors import RefusedError
from skep.model.fields import nearest
from skep.testing.lab.simulate.fleetfile import MOST_NODES, FleetFile, SimulatedNode

_CHANGE: Final = re.compile(r"(?P<verb>add|remove)=(?:(?P<count>[0-9]{1,6})x)?(?P<group>[A-Za-z0-9_][A-Za-z0-9_.-]*)")


def changed(fleet: FleetFile, changes: Sequence[str]) -> FleetFile:
    """The fleet after the changes, named after them. Raises RefusedError."""
    nodes = list(fleet.nodes)
    for change in changes:
        found = _CHANGE.fullmatch(change)
        if found is None:
            raise RefusedError(
                f"--what-if: found {change!r}, expected add=4xNAME or remove=2xNAME with the name of a group of nodes"
            )
        nodes = _apply(nodes, found["verb"], int(found["count"] or 1), found["group"])
    if not nodes:
        raise RefusedError("--what-if: no node would be left")
    return replace(fleet, name=f"{fleet.name}, {', '.join(changes)}", nodes=tuple(nodes))


def _apply(nodes: list[SimulatedNode], verb: str, count: int, group: str) -> list[SimulatedNode]:
    members = [node for node in nodes if group_of(node) == group]
    if not members:
        known = list(dict.fromkeys(map(group_of, nodes)))
        hint = nearest(group, known) or f"; it has {', '.join(known[:10])}"
        raise RefusedError(f"--what-if: the fleet has no nodes {group!r}{hint}")
    if verb == "remove":
        if count > len(members):
            raise RefusedError(f"--what-if: there are only {len(members)} nodes {group!r}, {count} cannot be removed")
        gone = {node.info.id for node in members[len(members) - count :]}
        return [node for node in nodes if node.info.id not in gone]
    if len(nodes) + count > MOST_NODES:
        raise RefusedError(f"--what-if: more than the {MOST_NODES:,} nodes that are simulated")
    taken, like, number = {node.info.id for node in nodes}, members[-1], len(members)
    for _ in range(count):
        number += 1
        while (name := f"{group}-{number}") in taken:
            number += 1
        taken.add(name)
        nodes = [*nodes, replace(like, info=msgspec.structs.replace(like.info, id=name))]
    return nodes


def group_of(node: SimulatedNode) -> str:
    """The name of its group in the fleet file."""
    return re.sub(r"-[0-9]+$", "", node.info.id)
