"""`skep doctor`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

from skep.cli import remote
from skep.cli.doctor import data as data_directory
from skep.cli.doctor import machine, record, server
from skep.cli.doctor.finding import FINE, NOTE, WRONG, Finding
from skep.cli.screen import Line
from skep.config import data_home

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")

SIGNS = {FINE: ("✓ ", "green"), NOTE: ("! ", "yellow"), WRONG: ("✗ ", "red")}


@app.command()
def doctor(
    record_url: Annotated[
        str,
        typer.Option(
            "--record", metavar="URL", envvar="SKEP_RECORD", help="The PostgreSQL in which the server keeps its record."
        ),
    ] = "",
    data: remote.Home = None,
    json: remote.Json = False,
) -> None:
    """Look for what is wrong with this machine, the data directory and the server; exits with 1 when something is.

    **Examples**

    - `skep doctor`
    - `skep doctor --record postgresql://skep@db/skep`
    - `skep doctor --json | jq '.findings[] | select(.level != "fine")'`
    """
    home = data_home(data)
    found: list[Finding] = []
    for look in (machine.look(), data_directory.look(home), record.look(home, record_url), server.look(home)):
        for finding in look:
            found.append(finding)
            if not json:
                remote.say(*_lines(finding))
    wrong = [finding for finding in found if finding.level == WRONG]
    if json:
        remote.document({"ok": not wrong, "findings": found})
    else:
        remote.note(f"{len(wrong)} thing{'' if len(wrong) == 1 else 's'} wrong" if wrong else "nothing is wrong")
    if wrong:
        raise typer.Exit(1)


def _lines(finding: Finding) -> Iterator[Line]:
    yield [SIGNS[finding.level], (f"{finding.what:<17} ", "bold" if finding.level == WRONG else "dim"), (finding.found, "")]
    if finding.advice:
        yield [(f"{'':20}→ {finding.advice}", SIGNS[finding.level][1])]
