"""What a policy sees, and what it says. Item i of every array is node i of the fleet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from skep.router.fleet import Fleet, Floats, Ints, Mask
from skep.router.settings import Weights
from skep.router.wanted import Wanted


@dataclass(slots=True)
class Look:
    """Some equal tasks, and the nodes at this moment."""

    wanted: Wanted
    count: int
    """How many equal tasks."""
    fleet: Fleet
    usable: Mask
    """Able, open and healthy, whether or not there is room."""
    room: Ints
    """How many of these tasks fit now; 0 where not usable."""
    load: Floats
    """Share in use of what is scarcest, once it had one more of these tasks: 0 to 1, or more where there is no room."""
    growth: Floats
    """What one task adds to `load`."""
    run_s: Floats | None
    """Predicted time to run there, in seconds; None: nothing is known."""
    spread: Floats | None
    """Standard deviation of the logarithm of that time."""
    success: Floats | None
    """Share of attempts that succeed there, above 0; None: nothing is known to have failed."""
    transfer_s: Floats | None
    """Time to bring the inputs there that are not there yet; None: no inputs are known to be anywhere."""
    home: int
    """The node that the task's affinity key lives on; -1: none."""
    turn: int
    """The node after the one that was chosen last."""
    served: Floats
    """Tasks that each node was given, divided by its weight."""
    weights: Weights
    chance: np.random.Generator


@dataclass(slots=True)
class Costs:
    """Lower is better. Nodes that are not usable may have any cost; a usable node may be ruled out by an infinite one."""

    first: Floats
    """Of the next task there."""
    step: Floats | float = 0.0
    """By how much each further task there costs more than the one before it; not negative."""
    wait: float = 0.0
    """Cost of waiting one second for a node that is busy; 0: this policy never waits."""
    terms: dict[str, Floats] = field(default_factory=dict[str, Floats])
    """What `first` is the sum of, for explanation."""


Policy = Callable[[Look], Costs]
"""A small function without side effects."""

Failed = Callable[[str, str], Any]
"""Is told of a policy that did not work, once each: its name, and what was wrong."""
