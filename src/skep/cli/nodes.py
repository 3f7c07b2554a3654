"""`skep nodes`."""

from __future__ import annotations

import time
from typing import Annotated, Final

import typer

from skep.cli import remote
from skep.cli.grid import Cell, Column, Grid
from skep.cli.moments import age
from skep.model.units import format_bytes, format_cost
from skep.model.views import NodeView

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")

STYLES: Final = {"live": "green", "draining": "yellow", "silent": "yellow", "lost": "red", "retired": "dim"}
COLUMNS: Final = (
    Column("node", cut=True),
    Column("state"),
    Column("running", right=True),
    Column("slots free", right=True),
    Column("cpu free", right=True),
    Column("memory free", right=True),
    Column("heard"),
    Column("has", cut=True),
)
PRICE: Final = Column("per hour", right=True)
"""Where a node costs anything."""


@app.command()
def nodes(
    all: Annotated[bool, typer.Option("--all", help="Also those that left or were lost.")] = False,
    data: remote.Data = None,
    json: remote.Json = False,
) -> None:
    """List the nodes: what they have, what is free, what they run.

    **Examples**

    - `skep nodes`
    - `skep nodes --all --json | jq -r '.[] | select(.state == "lost") | .id'`
    """
    with remote.server(data, json) as client:
        found = client.nodes.list(all=all)
        if json:
            remote.document(found)
        elif not found:
            remote.note("no node is here")
        else:
            now_ms = time.time_ns() // 1_000_000
            priced = any(node.cost_per_hour for node in found)
            columns = (*COLUMNS[:-1], *([PRICE] if priced else ()), COLUMNS[-1])
            remote.say(*Grid(columns, remote.width()).page(_row(node, now_ms, priced) for node in found))


def _state(node: NodeView) -> Cell:
    """With the types of tasks that it does not get, or only slowly."""
    shut = [one.type or "tasks of no type" for one in node.circuits if one.state != "closed"]
    slow = [one.type or "tasks of no type" for one in node.circuits if one.state == "closed"]
    more = [f"no {', '.join(shut)}"] * bool(shut) + [f"slow at {', '.join(slow)}"] * bool(slow)
    return (f"{node.state}: {'; '.join(more)}", "yellow") if more else (node.state, STYLES.get(node.state, ""))


def _row(node: NodeView, now_ms: int, priced: bool) -> list[Cell]:
    there = node.state in ("live", "draining", "silent")
    labels = [f"{name}={value}" if value else name for name, value in node.labels.items()]
    return [
        node.id,
        _state(node),
        str(node.running),
        f"{node.slots_free:,}/{node.slots:,}" if there else "-",
        f"{node.cpu_free:g}/{node.cpu:g}" if there else "-",
        f"{format_bytes(node.memory_free)}/{format_bytes(node.memory)}" if there and node.memory else "-",
        age(node.beat_ms, now_ms),
        *([format_cost(node.cost_per_hour) if node.cost_per_hour else "-"] if priced else ()),
        (" ".join([*node.capabilities, *labels]), "dim"),
    ]
