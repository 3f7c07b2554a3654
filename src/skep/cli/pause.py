"""`skep pause`."""

from __future__ import annotations

import typer

from skep.cli import many
from skep.client import Client
from skep.model.views import RunSummary

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")


@app.command()
@many.steers("pause")
def pause(client: Client, run: str, reason: str) -> RunSummary:
    """Pause runs: what runs goes on, nothing more starts.

    **Examples**

    - `skep pause last`
    - `skep pause --label team=web --yes`
    """
    return client.runs.pause(run, reason)
