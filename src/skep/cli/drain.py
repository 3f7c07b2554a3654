"""`skep drain`."""

from __future__ import annotations

from typing import Annotated

import typer

from skep.cli import completion, remote

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")


@app.command()
def drain(
    node: Annotated[
        str, typer.Argument(metavar="NODE", help="Its name; `skep nodes` lists them.", autocompletion=completion.nodes)
    ],
    undo: Annotated[bool, typer.Option("--undo", help="Give it work again.")] = False,
    data: remote.Data = None,
    json: remote.Json = False,
) -> None:
    """Give a node nothing new; what runs there ends in peace.

    It is kept in mind when the node or the server starts again, until --undo.

    **Examples**

    - `skep drain local`
    - `skep drain local --undo`
    """
    with remote.server(data, json) as client:
        seen = client.nodes.drain(node, on=not undo)
        if json:
            remote.document(seen)
        elif undo:
            remote.note(f"{seen.id} takes work again")
        else:
            rest = "1 task still runs there" if seen.running == 1 else f"{seen.running or 'no'} tasks run there"
            remote.note(f"{seen.id} gets nothing new; {rest}")
