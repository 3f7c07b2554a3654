"""Why a task stands where it stands: the words for causes, and the answers that people get."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec


class Cause(NamedTuple):
    """A word of `because`: what it means, and what ends it."""

    meaning: str
    remedy: str


_PERSON: Final = {
    "approval": Cause("a person is asked", "`skep approve RUN TASK`, or `skep reject RUN TASK`"),
    "run_paused": Cause("the run is paused", "`skep resume RUN`"),
    "queue_paused": Cause("nothing is started in its namespace, or at all", "`skep queue resume`"),
    "event": Cause("an event is waited for", "`skep event NAME --key KEY`"),
    "unusable": Cause(
        "this version of Skep cannot use its workflow", "the log of the server says why; submit the workflow anew"
    ),
}
_FLEET: Final = {
    "no_nodes": Cause("there are no nodes", "`skep up`, or `skep node --server URL` on another machine"),
    "executor": Cause("no node runs tasks of its kind", "a node that does: shell tasks run only where they are allowed"),
    "app": Cause("no node has the Python module of its function", "`skep node --app MODULE`"),
    "capability": Cause("no node has what it `requires`", "`skep node --capability WORD` or `--label NAME=VALUE`"),
    "resources": Cause("no node is as large as its `resources`", "a larger node, or less in `resources`"),
    "unable": Cause("no node can run it, each for a reason of its own", "a node that has all of it"),
    "draining": Cause("the nodes that can run it are draining", "`skep drain NODE --undo`"),
    "silent": Cause("the nodes that can run it give no sign of life", "they come back, or are lost after 10 s"),
    "coming": Cause("the nodes that can run it have just come and still say what they work on", "a moment"),
    "unhealthy": Cause(
        "a node that can run it is shut off for such tasks, which kept failing there, and the others have no room",
        "a trial there succeeds, or an attempt elsewhere ends",
    ),
    "store_full": Cause("the store of the engine has no room for more", "more memory for it, or runs that end"),
    "record_behind": Cause("too much has happened that is not recorded yet", "the record catches up; `skep status`"),
}
_TIME: Final = {
    "not_due": Cause("its run is to start later", "the time it was submitted for"),
    "retry": Cause("it failed and is tried again later", "the end of its delay"),
    "snoozed": Cause("its code asked to be run again later", "the time that it named"),
    "rate": Cause("as many of its `rate` were started as may be", "its turn comes by itself"),
    "rejoin": Cause("the server has just started: nodes may still come with work under way", "5 s at most"),
    "withheld": Cause("the server has just started: somebody may still hold the lock", "15 s at most"),
}
_ROOM: Final = {
    "full": Cause("the nodes that can run it have no room", "an attempt there ends, or another node comes"),
    "held": Cause("a busy node is expected to be done with it sooner than any free one", "that node gets room"),
    "behind": Cause("there is room, and others are before it", "its turn comes; a higher `priority`"),
    "fair_share": Cause("other namespaces have had less than their share", "its namespace's turn comes"),
    "live_limit": Cause("as many tasks are live as may be: its run waits in the record", "other runs end"),
    "loading": Cause("its run was accepted and is being loaded", "a moment"),
    "placing": Cause("there is room for it", "a moment"),
}
_WORK: Final = {
    "needs": Cause("it needs tasks that have not ended", "they end: the last of `chain` says what holds them"),
    "children": Cause("it is a map, and not all of its children have ended", "they end"),
    "window": Cause("`max_parallel` of its siblings have begun and not ended", "one of them ends"),
    "child_run": Cause("its child run has not ended", "that ends; `skep why CHILD`"),
    "lock": Cause("others have the lock", "they give it back"),
    "concurrency": Cause("as many with its `concurrency` key run as may", "one of them ends"),
    "lock_inside": Cause("its code asked for a lock that others have", "they give it back"),
    "running": Cause("it runs", "it ends"),
    "silent_node": Cause("it ran on a node that gives no sign of life", "the node comes back, or is lost after 10 s"),
    "cancelling": Cause("its run is being cancelled", "what runs ends"),
}
_OVER: Final = {
    "succeeded": Cause("it has succeeded", ""),
    "failed": Cause("it has failed", "`skep retry RUN`"),
    "rejected": Cause("a person rejected it", "`skep retry RUN`"),
    "node_lost": Cause("its node was lost, as often as may be", "`skep retry RUN`"),
    "deadline": Cause("its deadline passed", "`skep retry RUN`"),
    "timeout": Cause("the time was over, of its run or of what it waited for", "`skep retry RUN`"),
    "child_failed": Cause("a child of the map failed", "`skep retry RUN`"),
    "cancelled": Cause("its run was cancelled", "`skep retry RUN`"),
    "abandoned": Cause("the process that ran it has ended", "submit it again"),
    "when": Cause("its own `when` was not true, so it counts as done", ""),
    "upstream": Cause("a task that it needs did not succeed", "`skep retry RUN`"),
    "run_failed": Cause("its run failed before it began", "`skep retry RUN`"),
}

GROUPS: Final[Mapping[str, Mapping[str, Cause]]] = {
    "Somebody has to act": _PERSON,
    "The fleet has to change": _FLEET,
    "Time does it": _TIME,
    "Room does it": _ROOM,
    "Other work does it": _WORK,
    "It is over": _OVER,
}
"""By what ends them."""
CAUSES: Final[Mapping[str, Cause]] = {word: cause for group in GROUPS.values() for word, cause in group.items()}
"""Every word of `because`."""
ORDER: Final[Mapping[str, int]] = {word: at for at, group in enumerate(GROUPS.values()) for word in group}
"""Which of several causes is shown first."""


class TaskRef(msgspec.Struct, omit_defaults=True):
    """A task in a chain, with the cause that holds it."""

    task: str
    state: str
    because: str = ""
    run: str | None = None
    """Where it is another run than the one that was asked for."""


class HolderView(msgspec.Struct, omit_defaults=True):
    """Who has units of a claim."""

    units: int
    run: str | None = None
    """None: nobody any more; its node was lost, and the units are kept until its attempt is sure to have ended."""
    task: str | None = None
    node: str | None = None


class LineView(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Where a task stands in the line of a lock, a concurrency key or a rate."""

    claim: str
    """As people know it: `lock 'x'`."""
    shared: bool = False
    """It wants a lock together with others."""
    position: int
    """1: it is the next."""
    waiters: int
    used: int | None = None
    """Of `limit`; locks and rates have none."""
    limit: int | None = None
    holders: list[HolderView] = []
    """Some of them."""
    more: bool = False
    """There may be more holders."""


class CandidateView(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A node, for one task."""

    node: str
    chosen: bool = False
    out: str = ""
    """What rules it out; empty: nothing."""
    cost: float | None = None
    """Lower is better."""
    terms: dict[str, float] = {}
    """What the cost is the sum of."""
    predicted_ms: int | None = None
    preferred: int = 0
    """Which of the task's preferences it is, from 1; 0: none."""


class PlacedView(msgspec.Struct, kw_only=True, omit_defaults=True):
    """How an attempt came to its node."""

    node: str
    attempt: int
    policy: str = ""
    looked_ms: int = 0
    able: int = 0
    """Nodes that could have taken it."""
    predicted_ms: int | None = None
    actual_ms: int | None = None
    """How long it took, once it has ended."""
    candidates: list[CandidateView] = []
    note: str = ""
    """Why nothing more is known."""


class TaskWhy(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Why a task stands where it stands."""

    run: str
    workflow: str
    task: str
    state: str
    because: str
    """A word of `CAUSES`."""
    text: str
    """The same as a sentence."""
    unblock: str = ""
    """What ends it; empty for what is over."""
    since_ms: int | None = None
    until_ms: int | None = None
    """When it ends by itself."""
    chain: list[TaskRef] = []
    """What it waits for, which waits for the next one, and so on: the last one is the root of it."""
    line: LineView | None = None
    candidates: list[CandidateView] = []
    """Of a task that has no node: nodes, and how it would come to them."""
    placement: PlacedView | None = None
    """Of one that has, or had."""


class CauseGroup(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Tasks of a run for which the same is true."""

    because: str
    text: str
    unblock: str = ""
    count: int
    tasks: list[str]
    """Some of them."""
    behind: int | None = None
    """Tasks that wait for these, and for what needs them; None: not counted."""
    until_ms: int | None = None


class RunWhy(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Why a run has not ended, or how it came to end."""

    run: str
    workflow: str
    state: str
    because: str
    text: str
    unblock: str = ""
    since_ms: int | None = None
    until_ms: int | None = None
    waiting: int = 0
    """Tasks that wait for others; they are in no group."""
    causes: list[CauseGroup] = []
    """Of what has not ended and waits for no other task of the run; what only somebody can end comes first."""
    unseen: int = 0
    """Tasks that were too many to be looked at one by one."""


class QueueCause(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Ready tasks that the same nodes can run, and what holds them."""

    namespace: str
    executor: str
    requires: list[str]
    because: str
    text: str
    unblock: str = ""
    count: int
    oldest: TaskRef | None = None
    """The one that would be next."""


class QueueWhy(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What holds the ready tasks of all runs."""

    text: str
    ready: int
    aside: int = 0
    """Of these, tasks that are in no class: they wait in the line of a lock, a key or a rate, or their run is paused;
    and those beyond the first of each class."""
    causes: list[QueueCause] = []
