"""The life of a task and of a run, as one table.

Every engine refuses every move that is not in `MOVES`, a test tries them all, and the drawing in the docs is made from it
(`python -m skep.model.state`).
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


class TaskState(IntEnum):
    """Where a task stands. The numbers are what engines and the record keep; the lower-case names are what people see."""

    WAITING = 0
    """Needs tasks that have not ended."""
    DELAYED = 1
    """Due later: a retry after its back-off, a snooze."""
    READY = 2
    """May start as soon as a node and its claims are free."""
    RUNNING = 3
    """A node holds a lease on it."""
    PARKED = 4
    """Waits for a person, an event, a child run or its own map children; holds no lease and no slot."""
    SUCCEEDED = 5
    FAILED = 6
    CANCELLED = 7
    SKIPPED = 8

    @property
    def label(self) -> str:
        return self.name.lower()

    @property
    def ended(self) -> bool:
        return self >= TaskState.SUCCEEDED


class RunState(IntEnum):
    """Where a run stands. `paused` is a flag beside it."""

    QUEUED = 0
    RUNNING = 1
    CANCELLING = 2
    SUCCEEDED = 3
    FAILED = 4
    CANCELLED = 5

    @property
    def label(self) -> str:
        return self.name.lower()

    @property
    def ended(self) -> bool:
        return self >= RunState.SUCCEEDED


class Move(NamedTuple):
    """One allowed step: `verb` takes a task from `source` to `target` and says so in `event`."""

    verb: str
    source: TaskState | None
    """None: the task did not exist."""
    target: TaskState
    event: str
    lease: bool = False
    """True when only the holder of the task's lease may make it."""


W, D, R, L, P = TaskState.WAITING, TaskState.DELAYED, TaskState.READY, TaskState.RUNNING, TaskState.PARKED
S, F, C, K = TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED, TaskState.SKIPPED

MOVES: tuple[Move, ...] = (
    Move("load", None, W, "loaded"),
    # `unblock`, `join`, `follow` and `lapse` are not called by anyone: they come with another step, in the same moment.
    Move("unblock", W, R, "ready"),
    Move("join", P, S, "succeeded"),
    Move("join", P, F, "failed"),
    Move("join", P, C, "cancelled"),
    Move("join", P, K, "skipped"),
    # Children that a `retry` made wait again end with their parent when it is settled in another way.
    Move("follow", W, K, "skipped"),
    # An attempt of an earlier engine, whose node did not come: it counts as lost when its task is placed.
    Move("lapse", R, R, "returned"),
    Move("place", R, L, "granted"),
    Move("place", R, K, "skipped"),
    Move("place", R, P, "parked"),
    Move("place", R, S, "succeeded"),
    Move("place", R, F, "failed"),
    Move("complete", L, S, "succeeded", lease=True),
    Move("fail", L, F, "failed", lease=True),
    Move("fail", L, D, "retrying", lease=True),
    Move("fail", L, R, "retrying", lease=True),
    Move("fail", L, C, "cancelled", lease=True),
    Move("fail", L, R, "returned", lease=True),
    Move("snooze", L, D, "snoozed", lease=True),
    Move("snooze", L, C, "cancelled", lease=True),
    Move("park", L, P, "parked", lease=True),
    Move("park", L, C, "cancelled", lease=True),
    Move("resolve", P, S, "succeeded"),
    Move("resolve", P, F, "failed"),
    Move("resolve", P, R, "ready"),
    Move("resolve", P, R, "retrying"),
    Move("resolve", P, D, "retrying"),
    Move("resolve", P, C, "cancelled"),
    Move("adopt", R, L, "adopted"),
    Move("adopt", D, L, "adopted"),
    Move("promote", D, R, "ready"),
    *(Move("cancel", state, C, "cancelled") for state in (W, D, R, P)),
    Move("reap", L, R, "returned"),
    Move("reap", L, F, "failed"),
    Move("reap", L, C, "cancelled"),
    *(Move("reap", state, F, "failed") for state in (W, D, R, P)),
    *(Move("retry", state, W, "reset") for state in (S, F, C, K)),
)

ALLOWED: frozenset[tuple[str, TaskState | None, TaskState]] = frozenset((m.verb, m.source, m.target) for m in MOVES)


def drawing() -> str:
    """The table as a Mermaid state diagram, one arrow per pair of states with the verbs that take it."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for move in MOVES:
        source = move.source.label if move.source is not None else "[*]"
        verbs = arrows.setdefault((source, move.target.label), [])
        verb = f"{move.verb} ⚿" if move.lease else move.verb
        if verb not in verbs:
            verbs.append(verb)
    lines = ["stateDiagram-v2"]
    lines += [f"    {source} --> {target}: {' · '.join(verbs)}" for (source, target), verbs in arrows.items()]
    lines += [f"    {state.label} --> [*]" for state in TaskState if state.ended]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(drawing(), end="")
