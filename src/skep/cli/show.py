"""`skep show`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Final

import msgspec
import typer

from skep.cli import completion, remote
from skep.cli.grid import Cell, Column, Grid
from skep.cli.moments import age, both
from skep.cli.runs import standing
from skep.cli.screen import Line, cut, plain
from skep.client import Client
from skep.model.run import TaskView
from skep.model.state import TaskState
from skep.model.units import format_cost, format_duration
from skep.model.views import RunSummary
from skep.model.wait import WaitView

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")

FEW: Final = 60
"""Tasks of a run up to which each is shown."""
SOME: Final = 15
"""Of those that went wrong, and of those that go on, of a larger run."""
INPUTS: Final = 300
"""Columns of the inputs that are shown."""
STATES: Final = tuple(state.label for state in TaskState)
STYLES: Final = {
    "running": "cyan",
    "parked": "yellow",
    "delayed": "yellow",
    "succeeded": "green",
    "failed": "red",
    "cancelled": "yellow",
    "waiting": "dim",
    "ready": "dim",
    "skipped": "dim",
}
WAITS: Final = {"map": "waits for its children", "approval": "waits for an approval", "event": "waits for an event"}
"""Reasons of parked tasks, as people say them."""
COLUMNS: Final = (
    Column("task", cut=True),
    Column("state"),
    Column("node", cut=True),
    Column("tries", right=True),
    Column("took", right=True),
    Column("", cut=True),
)


@app.command()
def show(
    run: remote.Run = "last",
    task: Annotated[
        str | None,
        typer.Argument(metavar="TASK", help="Show this task: its output, error and attempts.", autocompletion=completion.tasks),
    ] = None,
    tasks: Annotated[bool, typer.Option("--tasks", help="Page through the tasks.")] = False,
    state: Annotated[
        list[str] | None,
        typer.Option(metavar="STATE", help="Tasks in this state; implies --tasks. Repeat it.", autocompletion=lambda: STATES),
    ] = None,
    search: Annotated[str | None, typer.Option(metavar="TEXT", help="Tasks with this in their names; implies --tasks.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, metavar="N", help="Tasks on a page.")] = 200,
    cursor: Annotated[str | None, typer.Option(metavar="CURSOR", help="Show the page of tasks that begins here.")] = None,
    all: Annotated[bool, typer.Option("--all", help="All pages of tasks; with --json a line for each task.")] = False,
    data: remote.Data = None,
    json: Annotated[bool, typer.Option("--json", help="Print the run, the task or the page as one JSON document.")] = False,
) -> None:
    """Show a run: how it stands, what it waits for, what went wrong, and its tasks.

    Of a large run the tasks that went wrong and those that go on are shown; --tasks shows them all.

    **Examples**

    - `skep show last`
    - `skep show 0192f0c1 build`
    - `skep show last --state failed`
    - `skep show last --tasks --all --json | jq -r .name`
    - `skep show last --json | jq .output`
    """
    with remote.server(data, json) as client:
        found = remote.find_run(client, run)
        if task is not None:
            one = client.runs.get(found)
            seen = client.tasks.get(one.id, task)
            remote.document(seen) if json else remote.say(*_task(seen))
        elif tasks or state or search or cursor or all:
            _pages(client, found, state or (), search, limit, cursor, all, json)
        elif json:
            remote.document(client.runs.view(found))
        else:
            remote.say(*_run(client, client.runs.get(found)))


# -- a run


def _run(client: Client, run: RunSummary) -> Iterator[Line]:
    now_ms = time.time_ns() // 1_000_000
    waits = client.tasks.waits(run=run.id) if run.counts.get("parked") else []
    yield [(run.workflow, "bold"), ("  ", ""), standing(run, now_ms)]
    for name, text in _facts(run, now_ms):
        yield [(f"  {name:<10}", "dim"), (plain(text), "")]
    yield [("  tasks     ", "dim"), *_counts(run)]
    for wait in waits[:SOME]:
        yield [("  waits     ", "dim"), (plain(waiting(wait)), "yellow"), (f"  {age(wait.since_ms, now_ms)}", "dim")]
    if len(waits) > SOME:
        yield [(f"            and {len(waits) - SOME:,} more: skep show {run.id} --state parked", "dim")]
    if not waits and (held := _held(client, run)):
        yield [("  held      ", "dim"), (held, "yellow")]
    shown, rest = _chosen(client, run)
    if shown:
        yield []
        yield from Grid(COLUMNS, remote.width()).page(row(task, now_ms) for task in shown)
    if rest > 0:
        yield [(f"and {rest:,} more: skep show {run.id} --tasks", "dim")]


def _facts(run: RunSummary, now_ms: int) -> Iterator[tuple[str, str]]:
    yield "run", run.id
    if run.namespace != "default":
        yield "namespace", run.namespace
    if run.labels:
        yield "labels", " ".join(f"{name}={value}" for name, value in run.labels.items())
    if run.priority != 5:
        yield "priority", str(run.priority)
    if run.parent:
        yield "child of", run.parent
    if run.schedule:
        yield "schedule", run.schedule
    if run.inputs:
        yield "inputs", cut(msgspec.json.encode(run.inputs).decode(), INPUTS)
    yield "accepted", both(run.accepted_ms, now_ms)
    if run.due_ms and not run.started_ms:
        yield "due", both(run.due_ms, now_ms)
    if run.started_ms:
        yield "started", both(run.started_ms, now_ms)
        took = format_duration((run.finished_ms or now_ms) - run.started_ms)
        yield ("finished", f"{both(run.finished_ms, now_ms)}, after {took}") if run.finished_ms else ("runs for", took)
    if run.cost:
        yield "cost", format_cost(run.cost) + ("" if run.finished_ms else " so far")


def _held(client: Client, run: RunSummary) -> str | None:
    """Why nothing of a run is at work, where that lies with the queue or the nodes."""
    if run.finished_ms or run.paused or run.counts.get("running") or not (run.counts.get("ready") or run.counts.get("waiting")):
        return None
    queue = client.queue.stats(run.namespace)
    if {"*", run.namespace} & {*queue.paused}:
        return "the queue is paused; `skep queue resume` goes on"
    if run.state == "queued":
        return "as many tasks are live as may be; it waits its turn" if queue.full else None
    if lost := sum(one.unplaced - one.why.get("held", 0) for one in queue.classes):
        tasks = "a task finds" if lost == 1 else f"{lost:,} tasks find"
        return f"{tasks} no node with room in the queue; see `skep queue stats`, `skep nodes`"
    return None


def _counts(run: RunSummary) -> Line:
    counts = sorted(run.counts.items(), key=lambda found: STATES.index(found[0]), reverse=True)
    return [(f"{run.tasks:,}", ""), *((f"  {count:,} {state}", STYLES.get(state, "")) for state, count in counts)]


def waiting(wait: WaitView) -> str:
    """What a task waits for, in a line."""
    if wait.kind == "approval":
        return f"{wait.task}: an approval: {wait.message}".partition("\n")[0]
    if wait.kind == "child":
        return f"{wait.task}: run {wait.child}"
    return f"{wait.task}: the event {wait.event}" + (f" of {wait.key}" if wait.key else "")


def _chosen(client: Client, run: RunSummary) -> tuple[list[TaskView], int]:
    """The tasks to show, and how many are not: all of a small run, those that went wrong before the others."""
    if run.tasks <= FEW:
        tasks = client.runs.tasks(run.id, limit=FEW).tasks
        return sorted(tasks, key=lambda task: task.state != "failed"), 0
    shown: list[TaskView] = []
    for states in (["failed"], ["running", "parked", "delayed"]):
        if any(run.counts.get(state) for state in states):
            shown += client.runs.tasks(run.id, state=states, limit=SOME).tasks
    return shown, run.tasks - len(shown)


# -- tasks


def _pages(
    client: Client,
    run: str,
    state: Sequence[str],
    search: str | None,
    limit: int,
    cursor: str | None,
    all: bool,
    json: bool,
) -> None:
    grid = Grid(COLUMNS, remote.width())
    now_ms = time.time_ns() // 1_000_000
    while True:
        page = client.runs.tasks(run, state=state, search=search, limit=10_000 if all else limit, cursor=cursor)
        cursor = page.next
        if json and all:
            typer.echo(b"".join(msgspec.json.encode(task) + b"\n" for task in page.tasks), nl=False)
        elif json:
            remote.document(page)
        elif page.tasks:
            remote.say(*grid.page(row(task, now_ms) for task in page.tasks))
        else:
            remote.note("no such tasks")
        if not cursor or not all:
            break
    if cursor and not json:
        remote.note(f"more: --cursor {cursor}, or --all")


def row(task: TaskView, now_ms: int) -> list[Cell]:
    """One task as a row."""
    until_ms = task.finished_ms or (now_ms if task.state == "running" else 0)
    took = format_duration(until_ms - task.started_ms) if task.started_ms and until_ms else "-"
    style = STYLES.get(task.state, "")
    why = _error(task.error) if task.error else _words(task.reason)
    return [
        task.name,
        (task.state, style),
        task.node or "-",
        str(task.attempts or "-"),
        took,
        (why, "red" if task.state == "failed" else "dim"),
    ]


def _words(reason: str | None) -> str:
    return WAITS.get(reason or "", (reason or "").replace("_", " "))


def _error(error: Any) -> str:
    return f"{error.get('type')}: {str(error.get('message', '')).partition(chr(10))[0]}"


def _task(task: TaskView) -> Iterator[Line]:
    now_ms = time.time_ns() // 1_000_000
    yield [(task.name, "bold"), (f"  {task.state}", STYLES.get(task.state, "")), (f"  {_words(task.reason)}".rstrip(), "")]
    if task.started_ms:
        yield [("  started   ", "dim"), (both(task.started_ms, now_ms), "")]
    if task.finished_ms:
        yield [("  finished  ", "dim"), (both(task.finished_ms, now_ms), "")]
    for tried in task.history:
        took = format_duration((tried.finished_ms or now_ms) - tried.started_ms) if tried.started_ms else "-"
        error = f": {_error(tried.error)}" if tried.error else ""
        text = f"{tried.attempt}: {tried.state} after {took}" + (f" on {tried.node}" if tried.node else "")
        text += f", cost {format_cost(tried.cost)}" if tried.cost else ""
        yield [("  attempt   ", "dim"), (text, ""), (plain(error), "red")]
    if task.error:
        yield []
        text = task.error.get("traceback") or task.error.get("message") or ""
        yield from ([("  │ ", "dim"), (plain(line), "")] for line in text.rstrip().split("\n"))
    if task.output is not None:
        yield []
        written = msgspec.json.format(msgspec.json.encode(task.output), indent=2).decode()
        yield from ([(line, "")] for line in written.split("\n"))
