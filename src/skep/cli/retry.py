"""`skep retry`."""

from __future__ import annotations

from typing import Annotated

import typer

from skep.cli import completion, many
from skep.client import Client
from skep.model.views import RunSummary

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")

From = Annotated[
    list[str] | None,
    typer.Option("--from", metavar="TASK", help="From this task on. Repeat it.", autocompletion=completion.tasks),
]


@app.command()
@many.steers("retry")
def retry(client: Client, run: str, reason: str, from_: From = None) -> RunSummary:
    """Take up runs that ended: the tasks that did not succeed run again, what succeeded is kept.

    With --from a task and all that needs it run again, also where they succeeded.

    **Examples**

    - `skep retry last`
    - `skep retry 0192f0c1 --from build`
    - `skep retry --workflow nightly --state failed --since 12h --yes`
    """
    return client.runs.retry(run, from_ or (), reason)
