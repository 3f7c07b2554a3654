"""`skep cancel`."""

from __future__ import annotations

import typer

from skep.cli import filters, many, remote

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")


@app.command()
def cancel(
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
    """Cancel runs: what runs is stopped, nothing more starts.

    A task that ends first keeps its outcome.

    **Examples**

    - `skep cancel last`
    - `skep cancel 0192f0c1 0192f0d7 --reason "wrong branch"`
    - `skep cancel --label branch=old --yes`
    - `skep cancel --workflow nightly --since 1h`
    """
    wanted = filters.chosen(state, workflow, label, namespace, search, since, until, schedule, parent)
    many.command(
        "cancel",
        runs,
        wanted,
        lambda client, run: client.runs.cancel(run, reason),
        all=all,
        yes=yes,
        reason=reason,
        data=data,
        json=json,
    )
