"""`skep runs`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Annotated, Final

import msgspec
import typer

from skep.cli import filters, remote
from skep.cli.grid import SHORT, Cell, Column, Grid
from skep.cli.moments import age
from skep.client import Client, Filter
from skep.model.units import format_duration
from skep.model.views import RunList, RunSummary

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")

PAGE: Final = 500
"""Runs of one question when all are wanted."""
STYLES: Final = {"running": "cyan", "cancelling": "yellow", "succeeded": "green", "failed": "red", "cancelled": "yellow"}
COLUMNS: Final = (
    Column("run", short=SHORT),
    Column("workflow", cut=True),
    Column("state"),
    Column("tasks", right=True),
    Column("accepted"),
    Column("took", right=True),
    Column("labels", cut=True),
)


@app.command()
@filters.choosing
def runs(
    *,
    wanted: Filter,
    children: Annotated[bool, typer.Option("--children", help="Also runs that tasks of others started.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=1_000, metavar="N", help="Runs on a page.")] = 50,
    cursor: Annotated[str | None, typer.Option(metavar="CURSOR", help="Show the page that begins here.")] = None,
    all: Annotated[bool, typer.Option("--all", help="All pages; with --json a line for each run.")] = False,
    data: remote.Data = None,
    json: remote.Json = False,
) -> None:
    """List runs, the newest first; those that tasks of others started only with --children or --parent.

    **Examples**

    - `skep runs`
    - `skep runs --state failed --since 2h`
    - `skep runs --workflow nightly --label team=web --limit 200`
    - `skep runs --json | jq -r '.runs[].id'`
    - `skep runs --all --json > runs.jsonl`
    """
    wanted.roots = not (children or wanted.parent)
    with remote.server(data, json) as client:
        if wanted.parent:
            wanted.parent = remote.find_run(client, wanted.parent)
        if not all:
            page = client.runs.list(wanted, limit=limit, cursor=cursor)
            remote.document(page) if json else _draw([page], wanted, more=True)
        elif json:
            for page in _pages(client, wanted, cursor):
                typer.echo(b"".join(msgspec.json.encode(run) + b"\n" for run in page.runs), nl=False)
        else:
            _draw(_pages(client, wanted, cursor), wanted, more=False)


def _pages(client: Client, wanted: Filter, cursor: str | None) -> Iterator[RunList]:
    while True:
        page = client.runs.list(wanted, limit=PAGE, cursor=cursor)
        yield page
        cursor = page.next
        if not cursor:
            return


def _draw(pages: Iterable[RunList], wanted: Filter, more: bool) -> None:
    grid = Grid(COLUMNS, remote.width())
    now_ms = time.time_ns() // 1_000_000
    shown = 0
    for page in pages:
        shown += len(page.runs)
        if shown:
            remote.say(*grid.page(row(run, now_ms) for run in page.runs))
        if more and page.next:
            remote.note(f"more: --cursor {page.next}, or --all")
    if not shown:
        remote.note("no such runs" + ("; --children looks at more" if wanted.roots else ""))


def row(run: RunSummary, now_ms: int) -> list[Cell]:
    """One run as a row."""
    until_ms = run.finished_ms or (now_ms if run.started_ms else 0)
    took = format_duration(until_ms - run.started_ms) if run.started_ms else "-"
    labels = " ".join(f"{name}={value}" for name, value in run.labels.items())
    tasks = f"{run.tasks:,}" if run.tasks else "-"
    return [run.id, run.workflow, standing(run, now_ms), tasks, age(run.accepted_ms, now_ms), took, (labels, "dim")]


def standing(run: RunSummary, now_ms: int) -> tuple[str, str]:
    """`failed (timeout)`, in its colour."""
    reason = f" ({run.reason.replace('_', ' ')})" if run.reason and run.reason not in ("task_failed", run.state) else ""
    if run.paused and not run.finished_ms:
        return f"{run.state}, paused", "yellow"
    if run.state == "queued" and run.due_ms and run.due_ms > now_ms:
        return f"queued, due {age(run.due_ms, now_ms)}", "dim"
    return run.state + reason, STYLES.get(run.state, "")
