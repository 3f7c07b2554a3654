"""`skep watch`."""

from __future__ import annotations

from typing import Annotated

import typer

from skep.cli import remote
from skep.cli.follow import follow

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")


@app.command()
def watch(
    run: remote.Run = "last",
    data: remote.Data = None,
    json: Annotated[bool, typer.Option("--json", help="Print the whole run as one JSON document when it ends.")] = False,
    output: Annotated[bool, typer.Option("--output", help="Print what it gave back when it ends.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No live view; say only what fails, and the end.")] = False,
    no_color: Annotated[bool, typer.Option("--no-color", help="Plain lines without colours (or set NO_COLOR).")] = False,
) -> None:
    """Watch a run live until it ends; exits as `skep run` does.

    It goes on when the server is started again. Ctrl-C leaves the run alone.

    **Examples**

    - `skep watch`
    - `skep watch 0192f0c1`
    - `skep watch last --json | jq .output`
    """
    with remote.server(data) as client:
        code = follow(client, remote.find_run(client, run), json=json, quiet=quiet, no_color=no_color, output=output)
    raise typer.Exit(code)
