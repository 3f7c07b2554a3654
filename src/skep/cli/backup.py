"""`skep backup`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer

from skep.cli import remote
from skep.client import Client, UnreachableError
from skep.config import data_home
from skep.errors import NotFoundError
from skep.model.units import format_bytes
from skep.record.sql import SqlRecord
from skep.wiring.data import RECORD_FILE, own

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")


@app.command()
def backup(
    target: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.", file_okay=False)],
    data: remote.Home = None,
    json: remote.Json = False,
) -> None:
    """Write a copy of all that is recorded, consistent in itself, while work goes on. It does without a server too.

    **Examples**

    - `skep backup ~/backups/skep-$(date +%F)`
    - `skep restore ~/backups/skep-2026-03-01 --data /srv/skep`
    """
    with remote.told(json):
        note = _write(data_home(data), target.expanduser().absolute())
        if json:
            remote.document(note)
        else:
            remote.note(
                f"{note['path']}: {note['runs']:,} runs, {note['tasks']:,} tasks, {note['artifacts']:,} artifacts,"
                f" {format_bytes(note['bytes'])}"
            )


def _write(home: Path, target: Path) -> dict[str, Any]:
    try:
        with Client(home) as client:
            return client.insight.backup(target)
    except UnreachableError:
        return asyncio.run(_write_alone(home, target))


async def _write_alone(home: Path, target: Path) -> dict[str, Any]:
    """Owns the data directory meanwhile. Raises NotFoundError, DataInUseError, RecordError."""
    if not (home / RECORD_FILE).is_file():
        raise NotFoundError(f"there is nothing to back up in {home}: it has no {RECORD_FILE}")
    with own(home):
        record = SqlRecord(home / RECORD_FILE)
        await record.open()
        try:
            return await record.backup(target)
        finally:
            await record.close()
