"""`skep submit`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from skep.cli import completion, remote
from skep.cli.follow import follow
from skep.cli.moments import parse_future_ms
from skep.cli.options import parse_inputs, parse_pairs, parse_span, parse_timeout, parse_urgency
from skep.cli.target import check_given, find_target, warn
from skep.client import Client
from skep.model.views import RunSummary

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")

SUFFIXES = (".yaml", ".yml", ".json", ".py")


@app.command()
def submit(
    workflow: Annotated[
        str,
        typer.Argument(
            metavar="FLOW",
            help="A YAML or JSON file, `module:workflow`, `file.py:workflow`, or a stored one: `NAME`, `NAME@VERSION`.",
            autocompletion=completion.definitions,
        ),
    ],
    input: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="An input: JSON, else text. Repeat it.")] = None,
    inputs: Annotated[Path | None, typer.Option(metavar="FILE.json", help="Inputs as one JSON mapping.")] = None,
    at: Annotated[
        str | None, typer.Option(metavar="TIME", help="Not before: 08:00, 2026-03-01T08:00, with a zone or local.")
    ] = None,
    in_: Annotated[
        str | None, typer.Option("--in", metavar="DURATION", help="Not before so long from now, such as 2h.")
    ] = None,
    priority: Annotated[str | None, typer.Option(metavar="N|NAME", help="1 to 10, or low, normal, high, critical.")] = None,
    label: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="A label of the run. Repeat it.")] = None,
    timeout: Annotated[str | None, typer.Option(metavar="DURATION", help="Longest duration of the run, such as 10m.")] = None,
    namespace: Annotated[str | None, typer.Option(metavar="NAME", help="In place of the workflow's own.")] = None,
    idempotency_key: Annotated[
        str | None, typer.Option("--idempotency-key", metavar="TEXT", help="The same key again gives the same run.")
    ] = None,
    unique: Annotated[
        str | None, typer.Option(metavar="TEXT", help="While a run with this key goes on, give that run and start nothing.")
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", "-w", help="Watch it, print its output, and exit as `skep run` does.")
    ] = False,
    data: remote.Data = None,
    json: Annotated[bool, typer.Option("--json", help="Print the run as one JSON document; with --wait all of it.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No live view; say only what fails, and the end.")] = False,
    no_color: Annotated[bool, typer.Option("--no-color", help="Plain lines without colours (or set NO_COLOR).")] = False,
) -> None:
    """Hand a workflow to the server, which runs it.

    The id of the run goes to standard output once the run is on disk; from then on it is not lost. Ctrl-C during --wait leaves
    the run alone.

    **Examples**

    - `skep submit flow.yaml`
    - `skep submit flow.yaml --input repo=. --label team=web --wait`
    - `skep submit nightly@3 --at 02:30`
    - `skep submit reports.py:daily --in 10m --priority high`
    - `id=$(skep submit flow.yaml --idempotency-key "$CI_JOB_ID")`
    - `skep submit nightly --unique nightly`
    """
    if at and in_:
        raise typer.BadParameter("give --at or --in", param_hint="--at")
    options: dict[str, Any] = {
        "priority": parse_urgency(priority),
        "labels": parse_pairs(label or (), "--label"),
        "timeout_ms": parse_timeout(timeout),
        "at_ms": parse_future_ms(at, "--at", time.time_ns() // 1_000_000),
        "in_ms": parse_span(in_, "--in"),
        "namespace": namespace,
        "idempotency_key": idempotency_key,
        "unique": unique,
    }
    with remote.server(data, json) as client:
        given = parse_inputs(input or (), inputs)
        run = accept(client, workflow, given, options)
        if run.known:
            remote.note(f"nothing was started: run {run.id} has this key, and is {run.state}")
        if not wait:
            remote.document(run) if json else typer.echo(run.id)
            return
        code = follow(client, run.id, json=json, quiet=quiet, no_color=no_color, output=True)
    raise typer.Exit(code)


def accept(client: Client, workflow: str, inputs: dict[str, Any], options: dict[str, Any]) -> RunSummary:
    """Submits what the command line names: a workflow, or a stored definition. Raises SpecError, RefusedError."""
    if not is_target(workflow):
        return client.runs.submit(workflow, inputs, **options)
    target = find_target(workflow)
    check_given(target, inputs)
    warn(target)
    return client.runs.submit(target.plan.spec, inputs, base=str(target.base), **options)


def is_target(name: str) -> bool:
    """Whether it names a file or module rather than a stored definition."""
    return ":" in name or name.endswith(SUFFIXES) or "/" in name or Path(name).is_file()
