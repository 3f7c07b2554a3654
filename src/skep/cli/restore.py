"""`skep restore`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from skep.cli import remote
from skep.cli.moments import local
from skep.config import data_home
from skep.errors import DataInUseError
from skep.record.backup import restore_backup
from skep.wiring.data import make_private, own, try_lock, unlock

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")


@app.command()
def restore(
    source: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that `skep backup` wrote.", file_okay=False)],
    force: Annotated[
        bool, typer.Option("--force", help="Put the record that is there aside, and this one in its place.")
    ] = False,
    data: remote.Home = None,
    json: remote.Json = False,
) -> None:
    """Put a backup in the place of the data. No server may run there; the next `skep up` goes on from it.

    **Examples**

    - `skep restore ~/backups/skep-2026-03-01`
    - `skep restore ~/backups/skep-2026-03-01 --data /srv/skep --force`
    """
    home = data_home(data)
    with remote.told(json):
        make_private(home)
        with own(home, "restore to another directory with --data"):
            _check_idle(home)
            note = restore_backup(source.expanduser().absolute(), home, force=force)
        if json:
            remote.document(note)
        else:
            remote.note(
                f"{home} is as it was at {local(note.at_ms)}: {note.runs:,} runs, {note.tasks:,} tasks; `skep up` goes on"
            )


def _check_idle(home: Path) -> None:
    """Raises DataInUseError when a `skep run` writes there."""
    for path in (home / "engines").glob("*.lock"):
        lock = try_lock(path)
        if lock is None:
            raise DataInUseError(f"a `skep run` is at work on {home}; wait for its end")
        unlock(lock)
