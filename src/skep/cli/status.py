"""`skep status`."""

from __future__ import annotations

import time
from collections.abc import Iterator

import typer

from skep.cli import remote
from skep.cli.moments import both
from skep.cli.screen import Line
from skep.model.units import format_bytes
from skep.model.views import ServerStatus

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")


@app.command()
def status(data: remote.Data = None, json: remote.Json = False) -> None:
    """Say how the server is; exits with 6 when there is none, with 1 when something fails.

    **Examples**

    - `skep status`
    - `skep status --json | jq .backlog`
    """
    with remote.server(data, json) as client:
        found = client.insight.status()
        remote.document(found) if json else remote.say(*_lines(found))
    if found.trouble:
        raise typer.Exit(1)


def _lines(found: ServerStatus) -> Iterator[Line]:
    now_ms = time.time_ns() // 1_000_000
    style = {"ready": "green", "failing": "red"}.get(found.state, "yellow")
    yield [("skep ", "bold"), (found.version, "bold"), (f"  {found.state}", style)]
    if found.trouble:
        yield [("  trouble   ", "dim"), (found.trouble, "red")]
    rows = (
        ("data", found.data),
        *([("listens", found.url)] if found.url else []),
        ("process", f"{found.pid}, since {both(found.started_ms, now_ms)}"),
        ("nodes", f"{found.nodes:,}"),
        ("runs", ", ".join(f"{count:,} {state}" for state, count in found.runs.items()) or "none"),
        (
            "record",
            f"{found.record_at}: {format_bytes(found.record_bytes)}, {found.commit_ms:.1f} ms a commit,"
            f" {found.backlog:,} events to write",
        ),
        ("engine", f"{found.engine_at}, epoch {found.epoch}" + ("" if found.leads else "; another server leads")),
    )
    yield from ([(f"  {name:<10}", "dim"), (text, "")] for name, text in rows)
    if found.rejected_events:
        yield [("  rejected  ", "dim"), (f"{found.rejected_events:,} events could not be recorded; see `skep doctor`", "red")]
