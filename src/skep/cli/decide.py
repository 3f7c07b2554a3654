"""`skep approve` and `skep reject`."""

from __future__ import annotations

import getpass
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from skep.cli import completion, remote
from skep.cli.options import json_or_text, parse_pairs
from skep.client import Client
from skep.errors import NotFoundError, RefusedError, SpecError
from skep.model.wait import APPROVAL, WaitView

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")

Task = Annotated[
    str | None,
    typer.Argument(metavar="TASK", help="The task; not needed where only one waits.", autocompletion=completion.waiting),
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
    given = parse_pairs(fields or (), "--field")
    with remote.server(data, json) as client:
        found = client.runs.get(remote.find_run(client, run)).id
        wait = _wait(client, found, task)
        name = task or (wait.task if wait else "")
        decide = client.tasks.approve if verb == "approve" else client.tasks.reject
        try:
            seen = decide(found, name, by=by or _user(), comment=comment, data=_data(given, wait.form if wait else None))
        except SpecError as error:
            raise RefusedError(f"{error}; say it with --field NAME=VALUE") from None
        if json:
            remote.document(seen)
        else:
            remote.note(f"{name} of run {found} is {'approved' if verb == 'approve' else 'rejected'}")


def _wait(client: Client, run: str, task: str | None) -> WaitView | None:
    """The approval that is meant: the only one where none is named. Raises NotFoundError, RefusedError."""
    waits = client.tasks.waits(kind=APPROVAL, run=run)
    if task is not None:
        return next((wait for wait in waits if wait.task == task), None)
    if not waits:
        raise NotFoundError(f"no task of run {run} waits for a person; `skep approvals` lists what does")
    if len(waits) > 1:
        names = ", ".join(wait.task for wait in waits[:10])
        raise RefusedError(f"{len(waits)} tasks of run {run} wait for a person, name one: {names}")
    return waits[0]


def _data(given: Mapping[str, str], form: Any) -> dict[str, Any] | None:
    """The data as the form wants it: what is to be a text stays one, even if it looks like a number."""
    wanted = form.get("properties", {}) if isinstance(form, dict) else {}
    texts = {name for name, field in wanted.items() if isinstance(field, dict) and field.get("type") == "string"}
    if not given and form is None:
        return None
    return {name: value if name in texts else json_or_text(value) for name, value in given.items()}


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
