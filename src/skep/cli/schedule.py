"""`skep schedule`."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer

from skep.cli import completion, remote
from skep.cli.grid import Cell, Column, Grid
from skep.cli.moments import age, both
from skep.cli.options import parse_inputs, parse_pairs, parse_urgency
from skep.cli.screen import Line, plain
from skep.errors import NotFoundError
from skep.model.schedule import ScheduleView

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", no_args_is_help=True)

COLUMNS: Final = (
    Column("schedule"),
    Column("when", cut=True),
    Column("workflow", cut=True),
    Column("next"),
    Column("last"),
    Column("trouble", cut=True),
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The schedule.", autocompletion=completion.schedules)]


@app.callback()
def schedule() -> None:
    """Start runs by the clock.

    **Examples**

    - `skep schedule put nightly flow.yaml --cron "30 2 * * *" --timezone Europe/Berlin`
    - `skep schedule list`
    """


@app.command()
def put(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the schedule; one of that name is replaced.")],
    file: Annotated[
        str | None, typer.Argument(metavar="FLOW", help="A file, `module:workflow`, or `file.py:workflow`.")
    ] = None,
    workflow: Annotated[
        str | None,
        typer.Option(metavar="NAME[@V]", help="In place of FLOW: a stored workflow.", autocompletion=completion.definitions),
    ] = None,
    cron: Annotated[str | None, typer.Option(metavar="EXPRESSION", help="Five fields, or @daily and the like.")] = None,
    every: Annotated[str | None, typer.Option(metavar="DURATION", help="An interval such as 15m, from the start on.")] = None,
    timezone: Annotated[str | None, typer.Option(metavar="ZONE", help="Whose local time --cron means; else UTC.")] = None,
    start: Annotated[str | None, typer.Option(metavar="TIME", help="Nothing fires before: 2026-03-01T08:00, or 2h.")] = None,
    end: Annotated[str | None, typer.Option(metavar="TIME", help="Nothing fires at or after it.")] = None,
    overlap: Annotated[
        str | None,
        typer.Option(metavar="POLICY", help="While an earlier run goes on: skip, queue, cancel or allow."),
    ] = None,
    catch_up: Annotated[
        str | None,
        typer.Option("--catch-up", metavar="POLICY", help="Times that passed without a server: skip, last (default) or all."),
    ] = None,
    input: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="An input: JSON, else text. Repeat it.")] = None,
    inputs: Annotated[Path | None, typer.Option(metavar="FILE.json", help="Inputs as one JSON mapping.")] = None,
    priority: Annotated[str | None, typer.Option(metavar="N|NAME", help="Of its runs.")] = None,
    label: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="A label of its runs. Repeat it.")] = None,
    namespace: remote.Namespace = None,
    data: remote.Data = None,
    json: remote.Json = False,
) -> None:
    """Start a workflow at certain times, from now on.

    **Examples**

    - `skep schedule put nightly flow.yaml --cron "30 2 * * *" --timezone Europe/Berlin`
    - `skep schedule put poll --workflow poll-feeds --every 15m --overlap cancel`
    - `skep schedule put report reports.py:daily --cron "0 8 * * MON-FRI" --catch-up skip --input team=web`
    """
    options: dict[str, Any] = {
        "cron": cron,
        "every": every,
        "timezone": timezone,
        "start": start,
        "end": end,
        "overlap": overlap,
        "catch_up": catch_up,
        "priority": parse_urgency(priority) or None,
        "labels": parse_pairs(label or (), "--label") or None,
    }
    if (file is None) == (workflow is None):
        raise typer.BadParameter("give a FLOW, or --workflow NAME for a stored one", param_hint="FLOW")
    with remote.server(data, json) as client:
        options["inputs"] = parse_inputs(input or (), inputs) or None
        if file is not None:
            from skep.cli.target import find_target, warn  # noqa: PLC0415  the other commands do without

            target = find_target(file)
            warn(target)
            options["spec"], options["base"] = target.plan.spec, str(target.base)
        else:
            options["workflow"], options["base"] = workflow, os.getcwd()
        put = client.schedules.put(name, {key: value for key, value in options.items() if value is not None}, namespace)
        if json:
            remote.document(put)
        else:
            remote.note(f"{put.name}: {put.when}, next {both(put.next_ms, _now_ms())}")


@app.command("list")
def list_(namespace: remote.Namespace = None, data: remote.Data = None, json: remote.Json = False) -> None:
    """List the schedules, and when they fire next.

    **Example**

    - `skep schedule list`
    """
    with remote.server(data, json) as client:
        found = client.schedules.list(namespace)
        if json:
            remote.document(found)
        elif not found:
            remote.note("there are no schedules; `skep schedule put` makes one")
        else:
            now_ms = _now_ms()
            remote.say(*Grid(COLUMNS, remote.width()).page(_row(one, now_ms) for one in found))


@app.command()
def show(name: Name, namespace: remote.Namespace = None, data: remote.Data = None, json: remote.Json = False) -> None:
    """Show a schedule: its next times and its last runs.

    **Example**

    - `skep schedule show nightly`
    """
    with remote.server(data, json) as client:
        found = client.schedules.get(name, namespace)
        remote.document(found) if json else remote.say(*_lines(found))


@app.command()
def remove(name: Name, namespace: remote.Namespace = None, data: remote.Data = None, json: remote.Json = False) -> None:
    """Forget a schedule; its runs stay.

    **Example**

    - `skep schedule remove nightly`
    """
    with remote.server(data, json) as client:
        if not client.schedules.remove(name, namespace):
            raise NotFoundError(f"there is no schedule {name!r}; `skep schedule list` lists them")
        remote.document({"removed": True}) if json else remote.note(f"{name} is removed")


@app.command()
def pause(name: Name, namespace: remote.Namespace = None, data: remote.Data = None, json: remote.Json = False) -> None:
    """Let it fire no more, until it is resumed.

    **Example**

    - `skep schedule pause nightly`
    """
    with remote.server(data, json) as client:
        found = client.schedules.pause(name, namespace)
        remote.document(found) if json else remote.note(f"{found.name} is paused")


@app.command()
def resume(name: Name, namespace: remote.Namespace = None, data: remote.Data = None, json: remote.Json = False) -> None:
    """Let a paused schedule fire again.

    **Example**

    - `skep schedule resume nightly`
    """
    with remote.server(data, json) as client:
        found = client.schedules.resume(name, namespace)
        remote.document(found) if json else remote.note(f"{found.name} fires next {both(found.next_ms, _now_ms())}")


@app.command()
def fire(name: Name, namespace: remote.Namespace = None, data: remote.Data = None, json: remote.Json = False) -> None:
    """Start a run of it now, beside its times; prints the run's id.

    **Example**

    - `skep watch $(skep schedule fire nightly)`
    """
    with remote.server(data, json) as client:
        run = client.schedules.fire(name, namespace)
        remote.document(run) if json else typer.echo(run.id)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _row(one: ScheduleView, now_ms: int) -> list[Cell]:
    following: Cell = ("paused", "yellow") if one.paused else age(one.next_ms, now_ms)
    return [one.name, one.when, one.workflow, following, age(one.fired_ms, now_ms), (one.trouble or "", "red")]


def _lines(one: ScheduleView) -> Iterator[Line]:
    now_ms = _now_ms()
    yield [(one.name, "bold"), ("  paused" if one.paused else "", "yellow")]
    if one.trouble:
        yield [("  trouble   ", "dim"), (f"its last time started no run: {plain(one.trouble)}", "red")]
    rows = [
        ("when", one.when + (f" [{one.cron}]" if one.cron else "")),
        ("workflow", one.workflow),
        *([("inputs", msgspec.json.encode(one.inputs).decode())] if one.inputs else []),
        ("policies", f"overlap {one.overlap}, catch up {one.catch_up}"),
        *([("start", both(one.start_ms, now_ms))] if one.start_ms else []),
        *([("end", both(one.end_ms, now_ms))] if one.end_ms else []),
        ("last", both(one.fired_ms, now_ms)),
        *([] if one.paused else [("next" if not at else "", both(ms, now_ms)) for at, ms in enumerate(one.upcoming_ms[:5])]),
        *(("runs" if not at else "", run) for at, run in enumerate(one.runs[:5])),
    ]
    yield from ([(f"  {name:<10}", "dim"), (text, "")] for name, text in rows)
