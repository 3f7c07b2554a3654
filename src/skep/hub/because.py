"""Because: from what is known of one task to the cause that holds it. Pure: everything is handed in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from skep.engine.protocol import HOLDERS, Holder, Line
from skep.hub.standing import SILENT_MS, Standing, Verdict, standing
from skep.model.node import LiveNode, Requirement
from skep.model.run import EXCLUSIVE, claim_words
from skep.model.state import RunState, TaskState
from skep.model.units import format_duration
from skep.model.wait import APPROVAL, CHILD, EVENT, WaitView
from skep.model.why import HolderView, LineView
from skep.record.protocol import RunRow, TaskRow

EVERYWHERE: Final = "*"
NOTHING_ENDS: Final = "it ends"
"""What unblocks a task that is at work."""


@dataclass(frozen=True, slots=True)
class Server:
    """What holds up everything, or every run of a namespace."""

    now_ms: int
    """Engine time."""
    nodes: Sequence[LiveNode] = ()
    paused: frozenset[str] = frozenset()
    """Namespaces of which nothing is started; `*`: all."""
    rejoins: bool = False
    """Nodes may still come with work that is under way."""
    crowded: bool = False
    """The engine's store has no room."""
    behind: bool = False
    """Too much is not recorded yet."""
    full: bool = False
    """As many tasks are live as may be."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What the router says of a task that nothing else holds."""

    why: str = ""
    """`held`, `unhealthy`, `full`, `unable` or nothing: it has a place for it."""
    node: str = ""
    """`held`: the node that it waits for."""
    wait_ms: int = 0
    """`held`: for how long, as predicted."""
    unhealthy: Sequence[str] = ()
    """Nodes that are shut off for tasks of its kind."""
    behind: int = 0
    """How many ready tasks of its class are before it."""
    turn: str = ""
    """Another namespace, whose turn it is."""


@dataclass(frozen=True, slots=True)
class Facts:
    """One task, and all that is known of it."""

    server: Server
    run: RunRow
    state: TaskState
    live: bool = True
    """The engine has its run."""
    usable: bool = True
    """This version knows what to do with its workflow."""
    row: TaskRow | None = None
    wish: Requirement | None = None
    """What it wants of a node; None: nothing."""
    needs: Sequence[str] = ()
    """Unfinished tasks that it waits for."""
    siblings: int = 0
    """`max_parallel` of the map whose child waits for its turn; 0: it waits for no sibling."""
    children: int = 0
    """Of a map: those that have not ended."""
    snoozed: bool = False
    """delayed: because its code asked for it."""
    wait: WaitView | None = None
    child: str = ""
    """State of the child run that it waits for."""
    line: Line | None = None
    choice: Choice = field(default_factory=Choice)
    names: Mapping[tuple[str, int], str] = field(default_factory=dict[tuple[str, int], str])
    """Names of tasks that hold claims, by run and index."""


def verdict(facts: Facts) -> Verdict:
    """The cause of one task."""
    if facts.state.ended:
        return over(facts.state, facts.row.reason if facts.row else "", facts.row.error if facts.row else b"")
    if not facts.live:
        return unloaded(facts.run, facts.server, facts.usable)
    if facts.run.state == RunState.CANCELLING:
        return Verdict("cancelling", "its run is being cancelled, and what runs is told to stop", "what still runs ends")
    match facts.state:
        case TaskState.WAITING:
            return _waiting(facts)
        case TaskState.DELAYED:
            return _delayed(facts)
        case TaskState.PARKED:
            return _parked(facts)
        case TaskState.RUNNING:
            return _running(facts)
        case _:
            return _ready(facts)


# -- what is over


_OVER: Final = {
    "when": "its own `when` was not true, so it counts as done",
    "upstream": "a task that it needs did not succeed",
    "run_failed": "its run failed before it began",
    "node_lost": "its node was lost, as often as may be",
    "deadline": "its deadline passed",
    "timeout": "the time was over",
    "child_failed": "a child of the map failed",
    "abandoned": "the process that ran it has ended",
    "rejected": "a person rejected it",
}


def over(state: int, reason: str, error: bytes) -> Verdict:
    """Of a task that has ended."""
    label = TaskState(state).label
    if state == TaskState.SUCCEEDED:
        return Verdict("succeeded", "it has succeeded")
    retry = "" if reason == "when" else "`skep retry RUN` takes the run up again once it has ended"
    word = reason if reason in _OVER else "run_failed" if state == TaskState.SKIPPED else label
    text = (
        _said(error) or _OVER.get(reason) or (f"it was {label}: {reason}" if reason and reason != label else f"it was {label}")
    )
    if state == TaskState.FAILED and not error and word == "failed":
        text = f"it has failed: {reason}" if reason else "it has failed"
    return Verdict(word, text, retry)


def _said(error: bytes) -> str:
    if not error:
        return ""
    found: Any = msgspec.json.decode(error)
    return f"{found.get('type', '')}: {found.get('message', '')}".partition("\n")[0][:500]


# -- what is not there yet


def unloaded(run: RunRow, server: Server, usable: bool = True) -> Verdict:
    """Of a run that the engine does not have."""
    if run.due_ms > server.now_ms:
        return Verdict("not_due", "its run is to start later", "it starts by itself", run.due_ms)
    if not usable:
        return Verdict(
            "unusable",
            "this version of Skep cannot use its workflow; the log of the server says why",
            "`skep cancel RUN`, and submit the workflow anew",
        )
    if server.full and run.parent is None:
        return Verdict("live_limit", "as many tasks are live as may be: its run waits in the record", "other runs end")
    return Verdict("loading", "its run was accepted and is being loaded", "wait a moment")


def _waiting(facts: Facts) -> Verdict:
    if facts.siblings:
        text = f"{facts.siblings:,} of its siblings have begun and not ended, which is `max_parallel` of their map"
        return Verdict("window", text, "one of them ends")
    if facts.needs:
        few = ", ".join(facts.needs[:3]) + (f" and {len(facts.needs) - 3:,} more" if len(facts.needs) > 3 else "")
        return Verdict("needs", f"it needs {few}", "see what holds that")
    return Verdict("placing", "all that it needs has ended: it becomes ready within a moment", "wait a moment")


def _delayed(facts: Facts) -> Verdict:
    due_ms = facts.row.due_ms or 0 if facts.row else 0
    if facts.snoozed:
        return Verdict("snoozed", "its code asked to be run again later", "it comes again by itself", due_ms)
    said = _said(facts.row.error) if facts.row else ""
    text = "its last attempt failed, and it is tried again later" + (f"; {said}" if said else "")
    return Verdict("retry", text, "it is tried again by itself", due_ms)


def _parked(facts: Facts) -> Verdict:
    wait = facts.wait
    kind = wait.kind if wait is not None else facts.row.reason if facts.row else ""
    until_ms = (wait.due_ms or 0) if wait is not None else 0
    if facts.children:
        return Verdict("children", f"{facts.children:,} of its children have not ended", "they end")
    if kind == APPROVAL and wait is not None:
        text = f"a person is asked: {wait.message}".partition("\n")[0]
        return Verdict("approval", text, f"`skep approve {wait.run} {wait.task}`, or `skep reject`", until_ms)
    if kind == EVENT and wait is not None:
        key = f" --key {wait.key}" if wait.key else ""
        named = f" with the key {wait.key}" if wait.key else ""
        return Verdict("event", f"it waits for the event {wait.event}{named}", f"`skep event {wait.event}{key}`", until_ms)
    if kind == CHILD and wait is not None:
        child = wait.child or ""
        text = f"its child run {child} {f'is {facts.child}' if facts.child else 'is to be started'}"
        return Verdict("child_run", text, f"that ends: `skep why {child}`", until_ms)
    return Verdict("placing", "what it waited for is there: it moves within a moment", "wait a moment")


def _running(facts: Facts) -> Verdict:
    if facts.line is not None:
        line = facts.line
        return Verdict("lock_inside", f"its code waits for {claim_words(line.key)}{_held(facts, line)}", "they give it back")
    node = facts.row.node if facts.row else ""
    found = next((one for one in facts.server.nodes if one.info.id == node), None)
    if found is not None and found.beat_ms and facts.server.now_ms - found.beat_ms > SILENT_MS:
        text = f"node {node}, on which it runs, gives no sign of life"
        return Verdict("silent_node", text, "the node comes back, or is lost after 10 s; then it begins elsewhere")
    return Verdict("running", f"it runs on {node}" if node else "it runs", NOTHING_ENDS)


def _ready(facts: Facts) -> Verdict:
    server, run = facts.server, facts.run
    if server.rejoins:
        text = "the server has just started: nodes may still come with work that is under way"
        return Verdict("rejoin", text, "wait: 5 s at most")
    if run.paused:
        return Verdict("run_paused", "its run is paused", f"`skep resume {run.id}`")
    if facts.line is not None:
        return _in_line(facts, facts.line)
    if paused := {EVERYWHERE, run.namespace} & server.paused:
        where = "" if EVERYWHERE in paused else f" of namespace {run.namespace}"
        option = "" if EVERYWHERE in paused else f" --namespace {run.namespace}"
        return Verdict("queue_paused", f"the queue is paused: nothing{where} is started", f"`skep queue resume{option}`")
    if server.crowded:
        text = "the store of the engine has no room for more, so that nothing is started"
        return Verdict("store_full", text, "give it more memory, or let runs end")
    if server.behind:
        text = "so much has happened that is not recorded yet that nothing more is started"
        return Verdict("record_behind", text, "the record catches up: `skep status`")
    if facts.wish is None:
        return Verdict("placing", "it needs no node: it moves within a moment", "wait a moment")
    return _on_nodes(facts, standing(facts.wish, server.nodes, server.now_ms, facts.choice.unhealthy))


def _on_nodes(facts: Facts, found: Standing) -> Verdict:
    choice = facts.choice
    if found.verdict is not None and found.verdict.because == "full" and choice.turn:
        text = f"the nodes that can run it are full, and namespace {choice.turn} is first: it has had less than its share"
        return Verdict("fair_share", text, "its turn comes as attempts end")
    if found.verdict is not None:
        return found.verdict
    if choice.why == "held" and choice.node:
        wait = f", in {format_duration(choice.wait_ms)}," if choice.wait_ms else ""
        text = f"node {choice.node} is busy, and expected{wait} to have room and to be done with it sooner than any free node"
        until_ms = facts.server.now_ms + choice.wait_ms if choice.wait_ms else 0
        return Verdict("held", text, "that node gets room; `placement: {hold: false}` starts such tasks at once", until_ms)
    if choice.behind:
        text = f"there is room, and {choice.behind:,} ready tasks are before it"
        return Verdict("behind", text, "its turn comes; a higher `priority` brings it forward")
    return Verdict("placing", f"there is room for it on {found.room[0]}: it starts within a moment", "wait a moment")


# -- lines


def _in_line(facts: Facts, line: Line) -> Verdict:
    words = claim_words(line.key)
    if line.withheld:
        text = f"the server has just started, and somebody may still have {words}"
        return Verdict("withheld", text, "wait: 15 s at most")
    if line.due_ms:
        text = f"as many were started as the {words} allows"
        return Verdict("rate", text, "its turn comes by itself", line.due_ms)
    if line.key.startswith("lock:"):
        alone = " for itself alone" if line.units == EXCLUSIVE and line.used and line.used < EXCLUSIVE else ""
        return Verdict("lock", f"it waits for {words}{alone}{_held(facts, line)}", "they give it back")
    text = f"{line.used:,} of {line.cap:,} with {words} run{_held(facts, line)}"
    return Verdict("concurrency", text, "one of them ends")


def _held(facts: Facts, line: Line) -> str:
    """Who has it, as the end of a sentence."""
    named = [_holder(facts, holder) for holder in line.holders[:3]]
    more = len(line.holders) - len(named)
    if not named:
        return ", which nobody has: others before it are called first" if line.ahead else ""
    return f": held by {', '.join(named)}" + (f" and {more}{'+' if len(line.holders) == HOLDERS else ''} more" if more else "")


def _holder(facts: Facts, holder: Holder) -> str:
    if not holder.run:
        return "an attempt on a node that was lost (for 15 s at most)"
    name = facts.names.get((holder.run, holder.task), f"task {holder.task}")
    of = "" if holder.run == facts.run.id else f" of run {holder.run}"
    return f"{name}{of} on {holder.node}"


def line_view(line: Line, names: Mapping[tuple[str, int], str]) -> LineView:
    """The line as people see it."""
    counts = line.key.startswith("key:")
    holders = [
        HolderView(
            units=holder.units,
            run=holder.run or None,
            task=names.get((holder.run, holder.task), str(holder.task)) if holder.run else None,
            node=holder.node or None,
        )
        for holder in line.holders
    ]
    return LineView(
        claim=claim_words(line.key),
        shared=line.key.startswith("lock:") and line.units < EXCLUSIVE,
        position=line.ahead + 1,
        waiters=line.waiters,
        used=line.used if counts else None,
        limit=line.cap if counts else None,
        holders=holders,
        more=len(holders) == HOLDERS,
    )
