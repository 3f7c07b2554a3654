"""A run that is over, as people are told of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from skep.flow.plan import Plan
from skep.model.run import RunView

TAIL_BYTES: Final = 4_000
"""Of what a task wrote."""
CANCELLED: Final = 4
TIMED_OUT: Final = 5


def exit_code(state: str, reason: str | None) -> int:
    """What the command line ends with for a run that ended so."""
    if state == "succeeded":
        return 0
    return TIMED_OUT if reason == "timeout" else CANCELLED if state == "cancelled" else 1


class Ended(NamedTuple):
    """A run that is over."""

    view: RunView
    """Of a giant only the tasks that are told of."""
    plan: Plan
    tails: Mapping[int, str]
    """The end of what tasks that did not succeed wrote, by index."""
    counts: Mapping[str, int] | None = None
    """Task state to how many, where the view does not have them all."""

    @property
    def exit_code(self) -> int:
        return exit_code(self.view.state, self.view.reason)
