"""`skep up`."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Annotated

import typer

from skep.cli.local import NODE, local_nodes
from skep.cli.options import parse_span
from skep.config import data_home
from skep.server.network import Network, Tls, parse_address
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
    listen: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            envvar="SKEP_LISTEN",
            help="Also be there on the network (or set SKEP_LISTEN). Beyond loopback a key must exist: `skep keys create`.",
        ),
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(metavar="FILE", help="Speak TLS with --listen: a certificate.")] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="FILE", help="The private key of --tls-cert.")] = None,
    tls_client_ca: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Let in only who shows a certificate of these authorities.")
    ] = None,
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
    - `skep up --listen 0.0.0.0:7420 --tls-cert cert.pem --tls-key key.pem`
    - `skep up --engine redis://db:6379/0 --record postgresql://skep@db/skep`
    """
    if node and no_node:
        raise typer.BadParameter("give --node or --no-node", param_hint="--no-node")
    keep_ms = parse_span(keep, "--keep")
    # Where servers share an engine, so do their nodes: each machine's has a name of its own.
    name = platform.node().partition(".")[0] if engine else ""
    nodes = [] if no_node else local_nodes(node or (), name or "local")
    network = _network(listen, tls_cert, tls_key, tls_client_ca)
    code = serve(data_home(data), nodes=nodes, keep_ms=keep_ms, quiet=quiet, engine=engine, record=record, network=network)
    raise typer.Exit(code)


def _network(listen: str | None, cert: Path | None, key: Path | None, client_ca: Path | None) -> Network | None:
    """Raises BadParameter, RefusedError."""
    if (cert is None) != (key is None):
        raise typer.BadParameter("--tls-cert and --tls-key belong together", param_hint="--tls-cert")
    if client_ca is not None and cert is None:
        raise typer.BadParameter("needs --tls-cert and --tls-key", param_hint="--tls-client-ca")
    if not listen:
        if cert is not None:
            raise typer.BadParameter("needs --listen HOST:PORT", param_hint="--tls-cert")
        return None
    try:
        at = parse_address(listen)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--listen") from None
    return Network(at, Tls(cert, key, client_ca) if cert is not None and key is not None else None)
