"""`skep run`."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from skep.cli.console import Console
from skep.cli.ended import Ended
from skep.cli.local import NODE, local_nodes, take_secrets
from skep.cli.options import parse_inputs, parse_pairs, parse_timeout, parse_urgency
from skep.cli.session import Job, run_job
from skep.cli.summary import summary
from skep.cli.target import check_alone, check_given, check_routes, check_wishes, find_target, warnings_of
from skep.clock import SystemClock
from skep.config import data_home
from skep.process import tune

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")


@app.command()
def run(
    workflow: Annotated[
        str, typer.Argument(metavar="FLOW", help="A YAML or JSON file, `module:workflow`, or `file.py:workflow`.")
    ],
    input: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="An input: JSON, else text. Repeat it.")] = None,
    inputs: Annotated[Path | None, typer.Option(metavar="FILE.json", help="Inputs as one JSON mapping.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the whole run as one JSON document.")] = False,
    timeout: Annotated[str | None, typer.Option(metavar="DURATION", help="Longest duration of the run, such as 10m.")] = None,
    priority: Annotated[str | None, typer.Option(metavar="N|NAME", help="1 to 10, or low, normal, high, critical.")] = None,
    label: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="A label of the run. Repeat it.")] = None,
    node: Annotated[list[str] | None, typer.Option(metavar="NODE", help=NODE)] = None,
    data: Annotated[Path | None, typer.Option(metavar="DIR", help="Where runs are kept (or set SKEP_HOME).")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No live view; say only what fails, and the end.")] = False,
    no_color: Annotated[bool, typer.Option("--no-color", help="Plain lines without colours (or set NO_COLOR).")] = False,
) -> None:
    """Run a workflow here and now, and watch it.

    Everything runs in this process, durably recorded. The output goes to standard output as JSON, the rest to standard error.
    Ctrl-C cancels the run and waits for its end; a second one ends it at once. `SKEP_SECRET_NAME` in the environment is the
    secret `NAME`.

    **Examples**

    - `skep run flow.yaml`
    - `skep run flow.yaml --input repo=. --input 'suites=["unit", "web"]'`
    - `skep run reports.py:daily --inputs today.json --timeout 10m`
    - `skep run flow.yaml --node "big:cpu,high-memory;cpu=4" --node "gpu0:cpu,gpu;slots=1"`
    - `skep run flow.yaml --json | jq '.tasks[] | select(.state == "failed")'`
    """
    secrets = take_secrets()
    clock = SystemClock()
    console = Console(clock, quiet=quiet, no_color=no_color)
    timeout_ms, urgency = parse_timeout(timeout), parse_urgency(priority)
    labels = parse_pairs(label or (), "--label")
    nodes = local_nodes(node or ())
    home = data_home(data)
    with console.open(json=json):
        given = parse_inputs(input or (), inputs)
        target = find_target(workflow)
        check_given(target, given)
        check_alone(target)
        for text in warnings_of(target):
            console.say([("warning: ", "yellow"), (text, "")])
        check_wishes(target)
        check_routes(target, nodes)
        _enter(target.base)
        tune()
        job = Job(target.plan, given, nodes, home, target.base, urgency, labels, timeout_ms, secrets)
        ended = asyncio.run(run_job(job, console, clock))
        _tell(ended, console, json)
    raise typer.Exit(ended.exit_code)


def _enter(base: Path) -> None:
    """Python tasks start where shell tasks do: beside the workflow's file."""
    os.chdir(base)
    if str(base) not in sys.path:
        sys.path.insert(0, str(base))


def _tell(ended: Ended, console: Console, json: bool) -> None:
    console.say(*summary(ended))
    if json:
        console.document(msgspec.json.format(msgspec.json.encode(ended.view), indent=2))
    elif ended.exit_code == 0:
        console.document(msgspec.json.format(msgspec.json.encode(ended.view.output), indent=2))
