"""Placement policies of users: functions that installed packages name in their entry points `skep.policies`.

[project.entry-points."skep.policies"]
nearest = "mypackage.placement:nearest"
"""

from __future__ import annotations

import logging
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

log = logging.getLogger(__name__)

GROUP: Final = "skep.policies"


@cache
def _found() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def names() -> frozenset[str]:
    """Their names; none of them is imported."""
    return frozenset(_found())


@cache
def functions() -> dict[str, Any]:
    """The functions by name. One that cannot be imported is told of and left out: its tasks go to the least loaded node."""
    made: dict[str, Any] = {}
    for name, point in _found().items():
        try:
            made[name] = point.load()
        except Exception:
            log.exception("the placement policy %s (%s) cannot be imported", name, point.value)
    return made
