"""`skep pause`."""

from __future__ import annotations

import typer

from skep.cli import filters, many, remote

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")


@app.command()
def pause(
    runs: many.Runs = None,
    state: filters.State = None,
    workflow: filters.Workflow = None,
    label: filters.Label = None,
    namespace: filters.Namespace = None,
    search: filters.Search = None,
    since: filters.Since = None,
    until: filters.Until = None,
    schedule: filters.Schedule = None,
    parent: filters.Parent = None,
    all: many.All = False,
    reason: many.Reason = "",
    yes: remote.Yes = False,
    data: remote.Data = None,
    json: remote.Json = False,
) -> None:
    """Pause runs: what runs goes on, nothing more starts.

    **Examples**

    - `skep pause last`
    - `skep pause --label team=web --yes`
    """
    wanted = filters.chosen(state, workflow, label, namespace, search, since, until, schedule, parent)
    many.command(
        "pause",
        runs,
        wanted,
        lambda client, run: client.runs.pause(run, reason),
        all=all,
        yes=yes,
        reason=reason,
        data=data,
        json=json,
    )
