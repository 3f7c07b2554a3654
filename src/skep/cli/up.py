"""`skep up`."""

from __future__ import annotations

import platform
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
    engine: Annotated[
        str,
        typer.Option(
            metavar="URL",
            envvar="SKEP_ENGINE",
            help="A Redis or Valkey that coordinates, such as redis://host:6379/0: several servers may share it.",
        ),
    ] = "",
    record: Annotated[
        str,
        typer.Option(
            metavar="URL",
            envvar="SKEP_RECORD",
            help="A PostgreSQL that remembers, such as postgresql://user@host/skep; else a file in the data directory.",
        ),
    ] = "",
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
    - `skep up --engine redis://db:6379/0 --record postgresql://skep@db/skep`
    """
    if node and no_node:
        raise typer.BadParameter("give --node or --no-node", param_hint="--no-node")
    keep_ms = parse_span(keep, "--keep")
    # Where servers share an engine, so do their nodes: each machine's has a name of its own.
    name = platform.node().partition(".")[0] if engine else ""
    nodes = [] if no_node else local_nodes(node or (), name or "local")
    raise typer.Exit(serve(data_home(data), nodes=nodes, keep_ms=keep_ms, quiet=quiet, engine=engine, record=record))
