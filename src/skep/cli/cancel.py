"""`skep cancel`."""

from __future__ import annotations

import typer

from skep.cli import many
from skep.client import Client
from skep.model.views import RunSummary

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")


@app.command()
@many.steers("cancel")
def cancel(client: Client, run: str, reason: str) -> RunSummary:
    """Cancel runs: what runs is stopped, nothing more starts.

    A task that ends first keeps its outcome.

    **Examples**

    - `skep cancel last`
    - `skep cancel 0192f0c1 0192f0d7 --reason "wrong branch"`
    - `skep cancel --label branch=old --yes`
    - `skep cancel --workflow nightly --since 1h`
    """
    return client.runs.cancel(run, reason)
