"""`skep keys`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Final, TypeVar

import typer

from skep.cli import remote, where
from skep.cli.grid import Cell, Column, Grid
from skep.cli.moments import age
from skep.client import Client, UnreachableError
from skep.clock import SystemClock
from skep.config import data_home
from skep.hub.keys import Keys
from skep.model.views import KeyView, NewKey
from skep.wiring.data import make_private, own
from skep.wiring.serve import record_of

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", no_args_is_help=True)

T = TypeVar("T")

COLUMNS: Final = (Column("key"), Column("role"), Column("state"), Column("made"), Column("note", cut=True))
Role = Annotated[str, typer.Option("--role", metavar="node|admin", help="`node`: only to be a node. `admin`: everything.")]
Record = Annotated[
    str,
    typer.Option("--record", metavar="URL", envvar="SKEP_RECORD", help="Without a server: the record that `skep up` is given."),
]


@app.callback()
def keys() -> None:
    """Make, list and revoke the keys with which other machines come in.

    They need no server: without one they are kept for its next start.

    **Examples**

    - `skep keys create --role node --note "gpu0 and gpu1"`
    - `skep keys revoke 5f0c1a9e`
    """


@app.command()
def create(
    role: Role,
    note: Annotated[str, typer.Option("--note", "-m", metavar="TEXT", help="What it is for.")] = "",
    record: Record = "",
    data: remote.Data = None,
    json: remote.Json = False,
) -> None:
    """Make a key, and print it: this once, since only its digest is kept.

    **Example**

    - `SKEP_TOKEN=$(skep keys create --role node) skep node --server https://skep.example:7420`
    """
    with remote.told(json):
        made: NewKey = _ask(data, record, lambda client: client.keys.create(role, note), lambda keys: keys.create(role, note))
        if json:
            remote.document(made)
            return
        remote.note(f"key {made.id} for role {made.role}; keep it, it is not shown again:")
        typer.echo(made.key)


@app.command("list")
def list_(record: Record = "", data: remote.Data = None, json: remote.Json = False) -> None:
    """List the keys, also those that were revoked; never the keys themselves.

    **Example**

    - `skep keys list`
    """
    with remote.told(json):
        found: list[KeyView] = _ask(data, record, lambda client: client.keys.list(), lambda keys: keys.list())
        if json:
            remote.document(found)
        elif not found:
            remote.note("there are no keys; `skep keys create --role node` makes one")
        else:
            now_ms = time.time_ns() // 1_000_000
            remote.say(*Grid(COLUMNS, remote.width()).page(_row(key, now_ms) for key in found))


@app.command()
def revoke(
    id: Annotated[str, typer.Argument(metavar="ID", help="Of the key, as `skep keys list` shows it.")],
    record: Record = "",
    data: remote.Data = None,
    json: remote.Json = False,
) -> None:
    """Make a key useless, within seconds: nodes that came in with it end, and what they ran is run elsewhere.

    **Example**

    - `skep keys revoke 5f0c1a9e`
    """
    with remote.told(json):
        gone: KeyView = _ask(data, record, lambda client: client.keys.revoke(id), lambda keys: keys.revoke(id))
        remote.document(gone) if json else remote.note(f"key {gone.id} is revoked")


def _row(key: KeyView, now_ms: int) -> list[Cell]:
    state: Cell = ("revoked", "dim") if key.revoked_ms else ("good", "green")
    return [key.id, key.role, state, age(key.created_ms, now_ms), (key.note, "dim")]


def _ask(data: Path | None, record: str, there: Callable[[Client], T], here: Callable[[Keys], Awaitable[T]]) -> T:
    """From the server; where none runs on the data directory, from the record."""
    try:
        with Client(**where.given(data)) as client:
            return there(client)
    except UnreachableError:
        if client.reach.elsewhere:
            raise
    return asyncio.run(_alone(data_home(data), record, here))


async def _alone(home: Path, url: str, here: Callable[[Keys], Awaitable[T]]) -> T:
    """Owns the data directory meanwhile. Raises DataInUseError, RecordError, RefusedError."""
    make_private(home)
    with own(home):
        record = record_of(url, home)
        await record.open()
        try:
            return await here(Keys(record, SystemClock()))
        finally:
            await record.close()
