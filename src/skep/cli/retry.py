"""`skep retry`."""

from __future__ import annotations

from typing import Annotated

import typer

from skep.cli import completion, filters, many, remote

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")


@app.command()
def retry(
    runs: many.Runs = None,
    from_: Annotated[
        list[str] | None,
        typer.Option("--from", metavar="TASK", help="From this task on. Repeat it.", autocompletion=completion.tasks),
    ] = None,
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
    """Take up runs that ended: the tasks that did not succeed run again, what succeeded is kept.

    With --from a task and all that needs it run again, also where they succeeded.

    **Examples**

    - `skep retry last`
    - `skep retry 0192f0c1 --from build`
    - `skep retry --workflow nightly --state failed --since 12h --yes`
    """
    if from_ and len(runs or ()) != 1:
        raise typer.BadParameter("goes with exactly one run", param_hint="--from")
    wanted = filters.chosen(state, workflow, label, namespace, search, since, until, schedule, parent)
    many.command(
        "retry",
        runs,
        wanted,
        lambda client, run: client.runs.retry(run, from_ or (), reason),
        all=all,
        yes=yes,
        reason=reason,
        data=data,
        json=json,
    )
