"""What Skep says of a run when all is over: its tasks, and its recorded events in their order."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from skep.client import Client
from skep.errors import NotFoundError
from skep.model.event import Event
from skep.model.run import AttemptView, RunView, Token

ENDS: Final = frozenset({"succeeded", "failed", "cancelled", "skipped"})
"""Events that are the outcome of a task."""
CLOSES: Final = ENDS | {"retrying", "snoozed", "returned"}
"""Events that end an attempt."""


class Told(msgspec.Struct):
    """An event and the epoch that its number counts in."""

    epoch: int
    event: Event

    @property
    def at(self) -> Token:
        return Token(self.epoch, self.event.n)


class Seen(msgspec.Struct):
    """A task, as the run shows it."""

    name: str
    index: int
    state: str
    attempts: int = 0
    output: Any = None
    error: Any = None
    history: list[AttemptView] = []


class Story(msgspec.Struct):
    run: str
    state: str
    accepted_ms: int = 0
    finished_ms: int = 0
    reason: str = ""
    tasks: list[Seen] = []
    events: list[Told] = []


def read(client: Client, run: str) -> Story | None:
    """None: nobody knows the run. Raises UnreachableError."""
    try:
        view = client.runs.view(run)
        events = [Told(told.epoch, told.event) for told in client.runs.events(run)]
    except NotFoundError:
        return None
    return Story(run, view.state, view.accepted_ms, view.finished_ms or 0, view.reason or "", seen(view), events)


def seen(view: RunView) -> list[Seen]:
    return [Seen(t.name, t.index, t.state, t.attempts, t.output, t.error, t.history) for t in view.tasks]
