"""What a policy sees, and what it says. Item i of every array is the node `rows[i]` of the fleet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from skep.router.fleet import Fleet, Floats, Ints
from skep.router.settings import Weights
from skep.router.wanted import Wanted

LATE: Final = 100.0
"""Cost of missing a deadline by its own length."""
NEARLY_SURE: Final = 1.28
"""Standard deviations that nine of ten predictions stay below."""


@dataclass(slots=True)
class Look:
    """Some equal tasks, and the nodes that they could go to at this moment: those that have room, and perhaps some that are
    busy and could be waited for."""

    wanted: Wanted
    count: int
    """How many equal tasks."""
    fleet: Fleet
    rows: Ints
    room: Ints
    """How many of these tasks fit now."""
    load: Floats
    """Share in use of what is scarcest, once it had one more of these tasks: 0 to 1, and more where there is no room."""
    growth: Floats
    """What one task adds to `load`."""
    median_s: Floats | None
    """Predicted time to run there, in seconds; None: nothing is known."""
    run_s: Floats | None
    """The same as one may hope: shorter where little is known of a node, so that it is tried."""
    spread: Floats | None
    """Standard deviation of the logarithm of that time."""
    success: Floats | None
    """Share of attempts that succeed there, above 0; None: nothing is known to have failed."""
    transfer_s: Floats | None
    """Time to bring the inputs there that are not there yet; None: no inputs are known to be anywhere."""
    home: int
    """The row of the node where the tasks of the same affinity key went; -1: none."""
    turn: int
    """The row after the one that was chosen last."""
    served: Floats
    """Tasks that each node was given, divided by its weight."""
    weights: Weights
    chance: np.random.Generator

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def price(self) -> Floats:
        """Per hour."""
        return self.fleet.price[self.rows]

    @property
    def weight(self) -> Floats:
        return self.fleet.weight[self.rows]

    @property
    def money(self) -> Floats:
        """What the task costs there; per hour, where nothing is known of how long it takes."""
        return self.price if self.median_s is None else self.price * self.median_s


@dataclass(slots=True)
class Costs:
    """Lower is better. An infinite cost rules a node out."""

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


def lateness(look: Look, wait_s: float = 0.0) -> Floats | None:
    """What it costs that the deadline may be missed on each node, after some time of waiting: nothing where nine of ten such
    tasks meet it. None: there is no deadline, or nothing is predicted."""
    if look.wanted.due_ms <= 0 or look.median_s is None or look.spread is None:
        return None
    end_s = wait_s + look.median_s * np.exp(NEARLY_SURE * look.spread)
    late: Floats = LATE * np.maximum(end_s * (1000 / look.wanted.due_ms) - 1, 0.0)
    return late
