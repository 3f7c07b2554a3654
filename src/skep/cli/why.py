"""`skep why`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Annotated, Final

import typer

from skep.cli import completion, remote
from skep.cli.grid import Cell, Column, Grid
from skep.cli.moments import age
from skep.cli.screen import Line, plain
from skep.cli.show import STYLES
from skep.model.units import format_duration
from skep.model.why import CandidateView, CauseGroup, LineView, PlacedView, QueueWhy, RunWhy, TaskWhy

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")

NODES: Final = (
    Column("", cut=False),
    Column("node", cut=True),
    Column("cost", right=True),
    Column("predicted", right=True),
    Column("made of", cut=True),
)


@app.command()
def why(
    run: remote.Run = "last",
    task: Annotated[str | None, typer.Argument(metavar="TASK", help="Of this task.", autocompletion=completion.tasks)] = None,
    queue: Annotated[bool, typer.Option("--queue", help="Of what is ready, in all runs.")] = False,
    namespace: remote.Namespace = None,
    data: remote.Data = None,
    json: remote.Json = False,
) -> None:
    """Say why a task, a run or the queue stands where it stands, and what would change that.

    Of a task that waits: what holds it, followed to the root. Of one that has a node: how it came there, what was predicted,
    and how long it took.

    **Examples**

    - `skep why last`
    - `skep why 0192f0c1 build`
    - `skep why --queue`
    - `skep why last build --json | jq -r .because`
    """
    if queue and (task is not None or run != "last"):
        raise typer.BadParameter("is of all runs: name no run with it", param_hint="--queue")
    with remote.server(data, json) as client:
        now_ms = time.time_ns() // 1_000_000
        if queue:
            found = client.insight.why_queue(namespace)
            remote.document(found) if json else remote.say(*_queue(found))
            return
        meant = remote.find_run(client, run)
        if task is None:
            whole = client.insight.why_run(meant)
            remote.document(whole) if json else remote.say(*_run(whole, now_ms))
        else:
            one = client.insight.why_task(meant, task)
            remote.document(one) if json else remote.say(*_task(one, now_ms))


def _fact(name: str, text: str, style: str = "") -> Line:
    return [(f"  {name:<10}", "dim"), (plain(text), style)]


def _head(name: str, state: str, because: str, since_ms: int | None, now_ms: int) -> Line:
    since = f"  {age(since_ms, now_ms)}" if since_ms else ""
    word = f"  {because}" if because != state else ""
    return [(plain(name), "bold"), (f"  {state}", STYLES.get(state, "")), (word, "yellow"), (since, "dim")]


# -- a task


def _task(one: TaskWhy, now_ms: int) -> Iterator[Line]:
    yield _head(one.task, one.state, one.because, one.since_ms, now_ms)
    yield _fact("why", one.text)
    if one.unblock:
        yield _fact("until", one.unblock + _when(one.until_ms, now_ms))
    if len(one.chain) > 1:
        yield _fact("chain", " → ".join(ref.task for ref in one.chain))
    if one.line is not None:
        yield from _line(one.line)
    if one.placement is not None:
        yield from _placement(one.placement)
    elif one.candidates:
        yield []
        yield from _nodes(one.candidates)


def _when(until_ms: int | None, now_ms: int) -> str:
    return f"  ({age(until_ms, now_ms)})" if until_ms and until_ms > now_ms else ""


def _line(line: LineView) -> Iterator[Line]:
    place = "next" if line.position == 1 else f"{line.position:,} of {line.waiters:,}"
    yield _fact("line", f"{place} in the line of {line.claim}")
    for holder in line.holders:
        who = f"{holder.task} of run {holder.run} on {holder.node}" if holder.run else "an attempt on a node that was lost"
        yield _fact("held by", who)
    if line.more:
        yield _fact("", "and perhaps more")


def _placement(placed: PlacedView) -> Iterator[Line]:
    yield _fact("node", placed.node)
    if placed.policy:
        yield _fact("policy", f"{placed.policy}, {placed.able:,} nodes were able")
    if placed.predicted_ms is not None or placed.actual_ms is not None:
        yield _fact("duration", _duration(placed))
    if placed.note:
        yield _fact("", placed.note, "dim")
    if placed.candidates:
        yield []
        yield from _nodes(placed.candidates)


def _duration(placed: PlacedView) -> str:
    """`took 12s, predicted 10s: 20 % longer`."""
    actual, predicted = placed.actual_ms, placed.predicted_ms
    if actual is None:
        return f"predicted {format_duration(predicted or 0)}"
    if predicted is None:
        return f"took {format_duration(actual)}; nothing was predicted"
    share = (actual - predicted) / max(predicted, 1)
    than = "as predicted" if abs(share) < 0.05 else f"{abs(share):.0%} {'longer' if share > 0 else 'shorter'}"
    return f"took {format_duration(actual)}, predicted {format_duration(predicted)}: {than}"


def _nodes(candidates: list[CandidateView]) -> Iterator[Line]:
    yield from Grid(NODES, remote.width()).page(_row(one) for one in candidates)


def _row(one: CandidateView) -> list[Cell]:
    terms = "  ".join(f"{name} {value:.3g}" for name, value in one.terms.items())
    preferred = f"preference {one.preferred}  " if one.preferred else ""
    return [
        ("→" if one.chosen else " ", "green"),
        one.node,
        f"{one.cost:.3g}" if one.cost is not None else "-",
        format_duration(one.predicted_ms) if one.predicted_ms is not None else "-",
        (one.out, "dim") if one.out else preferred + terms,
    ]


# -- runs and the queue


def _run(whole: RunWhy, now_ms: int) -> Iterator[Line]:
    yield _head(f"{whole.workflow}  {whole.run}", whole.state, whole.because, whole.since_ms, now_ms)
    if not whole.causes:
        yield _fact("why", whole.text)
        if whole.unblock:
            yield _fact("until", whole.unblock + _when(whole.until_ms, now_ms))
    for cause in whole.causes:
        yield []
        yield from _cause(cause, now_ms)
    if whole.causes and whole.state in ("failed", "cancelled"):
        yield []
        yield _fact("until", whole.unblock)
    if whole.waiting:
        yield []
        yield [(f"{whole.waiting:,} more wait for tasks of the run", "dim")]
    if whole.unseen:
        yield [(f"{whole.unseen:,} more were not looked at", "dim")]


def _cause(cause: CauseGroup, now_ms: int) -> Iterator[Line]:
    behind = (
        f"  {cause.behind:,} {'waits' if cause.behind == 1 else 'wait'} for {'it' if cause.count == 1 else 'them'}"
        if cause.behind
        else ""
    )
    more = cause.count - len(cause.tasks)
    names = ", ".join(cause.tasks) + (f" and {more:,} more" if more else "")
    yield [(cause.because, "yellow"), (f"  {plain(names)}", "bold"), (behind, "dim")]
    yield _fact("why", cause.text)
    if cause.unblock:
        yield _fact("until", cause.unblock + _when(cause.until_ms, now_ms))


def _queue(found: QueueWhy) -> Iterator[Line]:
    yield [(found.text if not found.causes else f"{found.ready:,} ready", "bold")]
    for cause in found.causes:
        requires = f" {', '.join(cause.requires)}" if cause.requires else ""
        yield []
        yield [
            (cause.because, "yellow"),
            (f"  {cause.count:,} of {cause.namespace}", "bold"),
            (f"  {cause.executor}{requires}", "dim"),
        ]
        yield _fact("why", cause.text)
        yield _fact("until", cause.unblock)
        if cause.oldest is not None:
            yield _fact("next", f"{cause.oldest.task} of run {cause.oldest.run}")
    if found.aside:
        yield []
        yield [(f"{found.aside:,} more wait for a lock, a key or a rate, or are of paused runs: skep why RUN", "dim")]
