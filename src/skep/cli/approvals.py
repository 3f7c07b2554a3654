"""`skep approvals`."""

from __future__ import annotations

import time
from typing import Annotated, Final

import typer

from skep.cli import completion, remote
from skep.cli.grid import SHORT, Cell, Column, Grid
from skep.cli.moments import age
from skep.model.wait import APPROVAL, WaitView

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")

COLUMNS: Final = (
    Column("run", short=SHORT),
    Column("workflow", cut=True),
    Column("task", cut=True),
    Column("since"),
    Column("until"),
    Column("asks", cut=True),
)


@app.command()
def approvals(
    run: Annotated[str | None, typer.Option(metavar="RUN", help="Only of this run.", autocompletion=completion.runs)] = None,
    namespace: remote.Namespace = None,
    data: remote.Data = None,
    json: remote.Json = False,
) -> None:
    """List what waits for a person; `skep approve RUN TASK` answers.

    **Examples**

    - `skep approvals`
    - `skep approvals --json | jq -r '.[] | "\\(.run) \\(.task)"'`
    """
    with remote.server(data, json) as client:
        found = remote.find_run(client, run) if run else None
        waits = client.tasks.waits(kind=APPROVAL, run=found, namespace=namespace)
        if json:
            remote.document(waits)
        elif not waits:
            remote.note("nothing waits for a person")
        else:
            now_ms = time.time_ns() // 1_000_000
            remote.say(*Grid(COLUMNS, remote.width()).page(_row(wait, now_ms) for wait in waits))


def _row(wait: WaitView, now_ms: int) -> list[Cell]:
    wanted = (wait.form or {}).get("properties") if isinstance(wait.form, dict) else None
    asks = wait.message.partition("\n")[0] + (f" (--field {', '.join(wanted)})" if wanted else "")
    return [wait.run, wait.workflow, wait.task, age(wait.since_ms, now_ms), age(wait.due_ms, now_ms), asks]
