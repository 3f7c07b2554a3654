"""Servers with one guard switched off: `python -m skep.testing.chaos.broken fence up …` is `skep up …` without the fence.

They prove the checker: an attack on a fleet of them must find what the guard prevents. The product itself has no such switch.
"""

from __future__ import annotations

import hashlib
import re
import runpy
import sys
from itertools import count
from typing import Any, Final

from skep.clock import Clock
from skep.engine.memory.state import State
from skep.engine.redis import scripts
from skep.model.node import NodeInfo, Outcome
from skep.model.run import Token
from skep.model.state import TaskState
from skep.record import transcribe
from skep.server.connection import Connection
from skep.wiring import engines, shared

LUA_FENCE: Final = re.compile(r"if r(\S+) ~= RUNNING or r(\S+) ~= n then")
EVERY: Final = 5
"""Of so many batches one is not written."""


def break_fence() -> None:
    """Whoever says that a task has ended is believed: whatever its token, and whoever has the task."""

    def lease_of(self: State, run: Any, task: int, token: Token) -> Any:
        runs = run is not None and 0 <= task < len(run.states) and run.states[task] == TaskState.RUNNING
        return self.leases.get(run.tokens[task]) if runs else None

    async def own(self: Connection, info: NodeInfo, outcomes: list[Outcome]) -> list[Outcome]:
        return outcomes

    Connection._own = own  # type: ignore[method-assign]
    State.lease_of = lease_of  # type: ignore[method-assign]
    for verb, script in scripts.SCRIPTS.items():
        text = LUA_FENCE.sub(r"n = r\2 if r\1 ~= RUNNING then", script.text)
        scripts.SCRIPTS[verb] = script._replace(text=text, sha=hashlib.sha1(text.encode()).hexdigest())
    if "n = r" not in scripts.SCRIPTS["complete"].text:
        raise AssertionError("the fence is not where it was")


def break_epoch() -> None:
    """An engine that is opened anew has the epoch of the one before: numbers and tokens come again."""

    def next_epoch(after: int, clock: Clock) -> int:
        return after or clock.now_ms() // 1000

    engines.next_epoch = next_epoch
    shared.next_epoch = next_epoch  # type: ignore[attr-defined]


def break_mark() -> None:
    """The mark is moved over events that are not written."""
    apply, batches = transcribe._apply, count(1)

    def some(*batch: Any) -> None:
        if next(batches) % EVERY:
            apply(*batch)

    transcribe._apply = some  # type: ignore[assignment]


GUARDS: Final = {"fence": break_fence, "epoch": break_epoch, "mark": break_mark}

if __name__ == "__main__":
    GUARDS[sys.argv[1]]()
    sys.argv = ["skep", *sys.argv[2:]]
    runpy.run_module("skep", run_name="__main__")
