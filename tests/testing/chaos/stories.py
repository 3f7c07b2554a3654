"""Ledgers and stories made by hand: of one run, `r`, whose one task is `a`."""

from __future__ import annotations

from typing import Any

from skep.model.event import Event
from skep.model.run import AttemptView
from skep.testing.chaos.effects import Line
from skep.testing.chaos.ledger import Entry
from skep.testing.chaos.story import Seen, Story, Told

RUN = "r"


def entry(what: str, at: int = 0, **more: Any) -> Entry:
    """`at`: seconds, on both clocks."""
    return Entry(what, at * 1_000_000_000, at * 1_000, run=more.pop("run", RUN), **more)


def told(n: int, kind: str, epoch: int = 1, **more: Any) -> Told:
    more.setdefault("task", -1 if kind == "ended" else 0)
    return Told(epoch, Event(n, n * 1_000, kind, RUN, **more))


def granted(n: int, attempt: int = 1, node: str = "x", epoch: int = 1) -> Told:
    return told(n, "granted", epoch, attempt=attempt, token=n, token_epoch=epoch, node=node)


def closed(n: int, kind: str, token: int, attempt: int = 1, epoch: int = 1) -> Told:
    return told(n, kind, epoch, attempt=attempt, token=token, token_epoch=epoch)


def ended(n: int, epoch: int = 1) -> Told:
    return told(n, "ended", epoch)


def line(what: str, token: str = "1-1", *, at: int = 1, name: str = "a", more: str = "") -> Line:
    return Line(what, name, 1, token, RUN, at * 1_000_000_000, more)


def story(*events: Told, state: str = "succeeded", task: str = "succeeded", token: str = "1-1", finished: int = 9) -> Story:
    """`token`: of the attempt that made the output, and is the last in the history."""
    output = {"attempt": 1, "token": token, "value": None} if task == "succeeded" else None
    seen = Seen("a", 0, task, 1, output, None, [AttemptView(1, task, "x", token)])
    return Story(
        RUN, state, 0, finished * 1_000 if state in ("succeeded", "failed", "cancelled") else 0, "", [seen], list(events)
    )
