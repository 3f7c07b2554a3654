"""`skep up`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from skep.cli.local import NODE, local_nodes
from skep.cli.options import parse_span
from skep.config import data_home
from skep.wiring.serve import serve

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")


@app.command()
def up(
    node: Annotated[list[str] | None, typer.Option(metavar="NODE", help=NODE)] = None,
    no_node: Annotated[bool, typer.Option("--no-node", help="Start no node.")] = False,
    keep: Annotated[str, typer.Option(metavar="DURATION", help="How long ended runs are kept; 0: for ever.")] = "30d",
    data: Annotated[Path | None, typer.Option(metavar="DIR", help="Where everything is kept (or set SKEP_HOME).")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say only what goes wrong.")] = False,
) -> None:
    """Start the server, with a node on this machine, and stay.

    Other terminals submit, watch and steer runs. What was accepted is never lost: stop it or let it crash, start it again, and
    every run goes on. Ctrl-C lets running tasks end, a second one stops them, a third one ends everything at once.

    **Examples**

    - `skep up`
    - `skep up --node "fast:cpu,ssd;slots=4" --node "gpu0:cpu,gpu;slots=1"`
    - `skep up --data /srv/skep --keep 90d`
    """
    if node and no_node:
        raise typer.BadParameter("give --node or --no-node", param_hint="--no-node")
    keep_ms = parse_span(keep, "--keep")
    nodes = [] if no_node else local_nodes(node or ())
    raise typer.Exit(serve(data_home(data), nodes=nodes, keep_ms=keep_ms, quiet=quiet))
