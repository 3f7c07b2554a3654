"""`skep approve` and `skep reject`."""

from __future__ import annotations

import getpass
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from skep.cli import completion, remote
from skep.cli.options import parse_values
from skep.client import Client
from skep.errors import NotFoundError, RefusedError
from skep.model.wait import APPROVAL

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")

Task = Annotated[
    str | None,
    typer.Argument(help="The task; not needed where only one waits.", autocompletion=completion.waiting),
]
Comment = Annotated[str, typer.Option("--comment", "-m", metavar="TEXT", help="Why.")]
Field = Annotated[
    list[str] | None, typer.Option("--field", metavar="NAME=VALUE", help="Data that was asked for: JSON, else text. Repeat it.")
]
By = Annotated[str | None, typer.Option("--by", metavar="NAME", help="Who decides; else the user of this terminal.")]


@app.command()
def approve(
    run: remote.Run,
    task: Task = None,
    comment: Comment = "",
    field: Field = None,
    by: By = None,
    data: remote.Data = None,
    json: remote.Json = False,
) -> None:
    """Approve a task that waits for a person: it succeeds, and its run goes on.

    **Examples**

    - `skep approve last`
    - `skep approve 0192f0c1 ship --comment "looks good" --field version=1.2`
    """
    _decide("approve", run, task, comment, field, by, data, json)


@app.command()
def reject(
    run: remote.Run,
    task: Task = None,
    comment: Comment = "",
    field: Field = None,
    by: By = None,
    data: remote.Data = None,
    json: remote.Json = False,
) -> None:
    """Reject a task that waits for a person: it fails.

    **Example**

    - `skep reject last ship --comment "not on a Friday"`
    """
    _decide("reject", run, task, comment, field, by, data, json)


def _decide(
    verb: str,
    run: str,
    task: str | None,
    comment: str,
    fields: Sequence[str] | None,
    by: str | None,
    data: Path | None,
    json: bool,
) -> None:
    given: dict[str, Any] | None = parse_values(fields, "--field") if fields else None
    with remote.server(data, json) as client:
        found = client.runs.get(remote.find_run(client, run)).id
        name = task or _only(client, found)
        decide = client.tasks.approve if verb == "approve" else client.tasks.reject
        seen = decide(found, name, by=by or _user(), comment=comment, data=given)
        if json:
            remote.document(seen)
        else:
            remote.note(f"{name} of run {found} is {'approved' if verb == 'approve' else 'rejected'}")


def _only(client: Client, run: str) -> str:
    waits = client.tasks.waits(kind=APPROVAL, run=run)
    if not waits:
        raise NotFoundError(f"no task of run {run} waits for a person; `skep approvals` lists what does")
    if len(waits) > 1:
        names = ", ".join(wait.task for wait in waits[:10])
        raise RefusedError(f"{len(waits)} tasks of run {run} wait for a person, name one: {names}")
    return waits[0].task


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
