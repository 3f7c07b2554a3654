"""`skep queue`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Annotated, Final

import typer

from skep.cli import remote
from skep.cli.grid import Column, Grid
from skep.cli.moments import age
from skep.cli.screen import Line
from skep.model.views import QueueClass, QueueStats

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", no_args_is_help=True)

COLUMNS: Final = (
    Column("namespace"),
    Column("executor"),
    Column("requires", cut=True),
    Column("ready", right=True),
    Column("no place"),
)


@app.callback()
def queue() -> None:
    """See what waits for a node; stop and go on starting tasks; share nodes between namespaces.

    **Examples**

    - `skep queue stats`
    - `skep queue pause`, later `skep queue resume`
    - `skep queue share production 4`
    """


@app.command()
def stats(namespace: remote.Namespace = None, data: remote.Data = None, json: remote.Json = False) -> None:
    """Say what waits, what runs, and why what waits does not run.

    **Examples**

    - `skep queue stats`
    - `skep queue stats --json | jq .ready`
    """
    with remote.server(data, json) as client:
        found = client.queue.stats(namespace)
        remote.document(found) if json else remote.say(*_lines(found))


@app.command()
def pause(namespace: remote.Namespace = None, data: remote.Data = None, json: remote.Json = False) -> None:
    """Start nothing new, in one namespace or all; what runs goes on, and submissions are accepted.

    **Examples**

    - `skep queue pause`
    - `skep queue pause --namespace batch`
    """
    with remote.server(data, json) as client:
        found = client.queue.pause(namespace)
        remote.document(found) if json else remote.note(f"{_of(namespace)}: nothing new is started until `skep queue resume`")


@app.command()
def resume(namespace: remote.Namespace = None, data: remote.Data = None, json: remote.Json = False) -> None:
    """Start tasks again; without a namespace in all of them.

    **Example**

    - `skep queue resume`
    """
    with remote.server(data, json) as client:
        found = client.queue.resume(namespace)
        remote.document(found) if json else remote.note(f"{_of(namespace)}: tasks are started again")


@app.command()
def share(
    namespace: Annotated[str, typer.Argument(metavar="NAMESPACE", help="Whose share it is.")],
    weight: Annotated[float, typer.Argument(metavar="WEIGHT", help="From 0.001 to 1000; 1 is what every namespace has.")],
    data: remote.Data = None,
    json: remote.Json = False,
) -> None:
    """Give a namespace more or less of the slots, when several want more than there are.

    A namespace of weight 2 gets twice as many slots as one of weight 1. What one does not use goes to the others.

    **Examples**

    - `skep queue share production 4`
    - `skep queue share batch 0.5`
    """
    with remote.server(data, json) as client:
        found = client.queue.share(namespace, weight)
        remote.document(found) if json else remote.note(f"{_of(namespace)}: weight {weight:g}")


REASONS: Final = {
    "full": "no room",
    "unable": "no such node",
    "unhealthy": "nodes shut off",
    "held": "wait for a faster node",
    "paused": "paused",
}
"""Why tasks found no place, as people say it."""


def _reasons(one: QueueClass) -> str:
    return ", ".join(f"{count:,} {REASONS.get(why, why)}" for why, count in one.why.items()) or "-"


def _of(namespace: str | None) -> str:
    return f"namespace {namespace}" if namespace else "all namespaces"


def _lines(found: QueueStats) -> Iterator[Line]:
    now_ms = time.time_ns() // 1_000_000
    if found.paused:
        which = "everything" if "*" in found.paused else f"namespace {', '.join(found.paused)}"
        yield [("paused", "yellow"), (f": {which}; `skep queue resume` goes on", "")]
    if found.full:
        yield [("full", "yellow"), (": as many tasks are live as may be; other runs wait their turn", "")]
    oldest = f", the oldest {age(found.oldest_ready_ms, now_ms).removesuffix(' ago')}" if found.oldest_ready_ms else ""
    rows = (
        ("ready", f"{found.ready:,}{oldest}"),
        ("running", f"{found.running:,}"),
        ("delayed", f"{found.delayed:,}"),
        ("parked", f"{found.parked:,}"),
        ("waiting", f"{found.waiting:,}"),
        ("slots", f"{found.slots_free:,} of {found.slots:,} free"),
        ("shares", ", ".join(f"{name} {weight:g}" for name, weight in found.shares.items()) or "equal"),
        ("runs", ", ".join(f"{count:,} {state}" for state, count in found.runs.items()) or "none"),
    )
    yield from ([(f"  {name:<9}", "dim"), (text, "")] for name, text in rows)
    if found.classes:
        yield []
        yield from Grid(COLUMNS, remote.width()).page(
            [
                one.namespace,
                one.executor,
                ", ".join(one.requires) or "-",
                f"{one.ready:,}",
                (_reasons(one), "yellow" if one.unplaced else ""),
            ]
            for one in found.classes
        )
