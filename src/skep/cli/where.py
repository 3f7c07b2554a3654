"""Which server a command speaks to: beside --data, every such command takes --server, --token and --tls-ca."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

import typer
from typer.main import get_command

DATA: Final = "The server's data directory (or set SKEP_HOME)."
"""What the help of `--data` says where it names a server: such commands get the options below too."""
_said: dict[str, Any] = {}
"""What the command line says of the server."""


def keep(param: typer.CallbackParam, value: Any) -> Any:
    """Keeps what was given for `given`."""
    if value is not None and not str(value).strip():
        raise typer.BadParameter("is empty")
    _said[str(param.name)] = value
    return value


Server = Annotated[
    str | None,
    typer.Option("--server", metavar="URL", help="A server elsewhere (or set SKEP_URL).", callback=keep, expose_value=False),
]
Token = Annotated[
    str | None,
    typer.Option("--token", metavar="KEY", help="The key for it (better: set SKEP_TOKEN).", callback=keep, expose_value=False),
]
TlsCa = Annotated[
    Path | None,
    typer.Option(
        "--tls-ca",
        metavar="FILE",
        help="Certificates to trust instead of the system's (or set SKEP_TLS_CA).",
        callback=keep,
        expose_value=False,
    ),
]


def _options(server: Server = None, token: Token = None, tls_ca: TlsCa = None) -> None:
    """Only its options are used."""


def add_options(command: Any) -> None:
    """Gives the options to a command, or to those of a group, that speaks to a server."""
    for one in (command, *getattr(command, "commands", {}).values()):
        at = next((at for at, param in enumerate(one.params) if getattr(param, "help", None) == DATA), None)
        if at is not None and not any(param.name == "server" for param in one.params):
            app = typer.Typer(add_completion=False)
            app.command()(_options)
            one.params[at + 1 : at + 1] = [param for param in get_command(app).params if param.name != "help"]


def given(data: Path | None) -> dict[str, Any]:
    """What was said of the server, as arguments of `Client`. Raises BadParameter."""
    url = _said.get("server")
    if url is not None and data is not None:
        raise typer.BadParameter("give --server or --data", param_hint="--server")
    return {"data": data, "url": url, "token": _said.get("token"), "tls_ca": _said.get("tls_ca")}
