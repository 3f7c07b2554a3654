"""`skep event`."""

from __future__ import annotations

from typing import Annotated

import typer

from skep.cli import remote
from skep.cli.options import json_or_text

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")


@app.command()
def event(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its name, as in `wait_for`.")],
    key: Annotated[str, typer.Option(metavar="TEXT", help="Its key, as in `wait_for`.")] = "",
    payload: Annotated[str | None, typer.Option(metavar="VALUE", help="What it brings: JSON, else text.")] = None,
    id: Annotated[str | None, typer.Option(metavar="TEXT", help="The same id again is the same event.")] = None,
    namespace: Annotated[str | None, typer.Option(metavar="NAME", help="To this namespace.")] = None,
    data: remote.Data = None,
    json: remote.Json = False,
) -> None:
    """Send an event to tasks that wait for it, now or within seven days; prints its id.

    **Examples**

    - `skep event image-pushed --key web --payload '{"tag": "1.2"}'`
    - `skep event go`
    """
    with remote.server(data, json) as client:
        sent = client.events.send(name, key, json_or_text(payload) if payload is not None else None, namespace=namespace, id=id)
        remote.document({"id": sent}) if json else typer.echo(sent)
