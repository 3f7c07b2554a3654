"""`skep resume`."""

from __future__ import annotations

import typer

from skep.cli import many
from skep.client import Client
from skep.model.views import RunSummary

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")


@app.command()
@many.steers("resume")
def resume(client: Client, run: str, reason: str) -> RunSummary:
    """Let paused runs go on.

    **Examples**

    - `skep resume last`
    - `skep resume --label team=web --yes`
    """
    return client.runs.resume(run, reason)
