"""`skep placement`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from skep.cli import remote
from skep.cli.screen import Line
from skep.errors import SpecError
from skep.sdk.yaml import read_data, read_file, with_lines

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", no_args_is_help=True)


@app.callback()
def placement() -> None:
    """Say how nodes are chosen in the whole fleet, where tasks say nothing themselves.

    **Examples**

    - `skep placement show`
    - `skep placement set placement.yaml`
    """


@app.command()
def show(data: remote.Data = None, json: remote.Json = False) -> None:
    """Show the policy, the weights, and which nodes are preferred for what.

    **Examples**

    - `skep placement show`
    - `skep placement show --json > placement.json`, change it, `skep placement set placement.json`
    """
    with remote.server(data, json) as client:
        found = client.placement.get()
        remote.document(found) if json else remote.say(*_lines(found))


@app.command("set")
def set_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="YAML or JSON: policy, swarms, prefer, weights, hold.")],
    data: remote.Data = None,
    json: remote.Json = False,
) -> None:
    """Set all of it, at once and on every server; what the file does not name is as at first.

    **Example**

    - `skep placement set placement.yaml`
    """
    with remote.server(data, json) as client:
        text = read_file(file)
        try:
            found = client.placement.set(read_settings_file(text, str(file)))
        except SpecError as error:
            raise with_lines(error, text, str(file)) from None
        remote.document(found) if json else remote.say(*_lines(found))


@app.command()
def reset(data: remote.Data = None, json: remote.Json = False) -> None:
    """Set all of it to what it was at first.

    **Example**

    - `skep placement reset`
    """
    with remote.server(data, json) as client:
        found = client.placement.reset()
        remote.document(found) if json else remote.say(*_lines(found))


def read_settings_file(text: str, source: str) -> Mapping[str, Any]:
    """What stands in a file; the server says what is wrong with it. Raises SpecError."""
    found = read_data(text, source)
    if not isinstance(found, Mapping):
        raise SpecError.at("", "expected a mapping with policy, swarms, prefer, weights or hold")
    return found


def _lines(found: Mapping[str, Any]) -> Iterator[Line]:
    yield [("policy   ", "dim"), (found["policy"], "bold")]
    for swarm, policy in found.get("swarms", {}).items():
        yield [("swarm    ", "dim"), (f"{swarm}: {policy}", "")]
    for kind, places in found.get("prefer", {}).items():
        yield [("prefer   ", "dim"), (f"{kind}: {', '.join(places)}", "")]
    yield [("weights  ", "dim"), (", ".join(f"{name} {weight:g}" for name, weight in found["weights"].items()), "")]
    if not found.get("hold", True):
        yield [("hold     ", "dim"), ("no: nothing waits for a busy node", "")]
