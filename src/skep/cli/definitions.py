"""`skep definitions`."""

from __future__ import annotations

import time
from typing import Annotated, Final

import typer

from skep.cli import completion, remote
from skep.cli.grid import Column, Grid
from skep.cli.moments import age
from skep.errors import NotFoundError

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", no_args_is_help=True)

COLUMNS: Final = (
    Column("name"),
    Column("version", right=True),
    Column("namespace"),
    Column("stored"),
    Column("note", cut=True),
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Its name, or NAME@VERSION.", autocompletion=completion.definitions)]


@app.callback()
def definitions() -> None:
    """Store workflows by name and version, to submit, schedule and use them without their files.

    **Examples**

    - `skep definitions put flow.yaml`
    - `skep submit release-gate@2`
    """


@app.command()
def put(
    file: Annotated[str, typer.Argument(metavar="FLOW", help="A file, `module:workflow`, or `file.py:workflow`.")],
    note: Annotated[str, typer.Option("--note", "-m", metavar="TEXT", help="What changed.")] = "",
    data: remote.Data = None,
    json: remote.Json = False,
) -> None:
    """Store the next version of a workflow; the last one stays when nothing has changed.

    **Example**

    - `skep definitions put flow.yaml --note "two more suites"`
    """
    from skep.cli.target import find_target, warn  # noqa: PLC0415  the other commands do without

    with remote.server(data, json) as client:
        target = find_target(file)
        warn(target)
        stored = client.definitions.put(target.plan.spec, note)
        remote.document(stored) if json else remote.note(f"stored {stored.name}@{stored.version}")


@app.command("list")
def list_(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="All versions of this one.", autocompletion=completion.definitions)
    ] = None,
    namespace: remote.Namespace = None,
    data: remote.Data = None,
    json: remote.Json = False,
) -> None:
    """List the newest version of each, or all versions of one.

    **Examples**

    - `skep definitions list`
    - `skep definitions list release-gate`
    """
    with remote.server(data, json) as client:
        found = client.definitions.list(name, namespace)
        if json:
            remote.document(found)
        elif not found:
            remote.note("none is stored; `skep definitions put FLOW.yaml` stores one")
        else:
            now_ms = time.time_ns() // 1_000_000
            remote.say(
                *Grid(COLUMNS, remote.width()).page(
                    [one.name, str(one.version), one.namespace, age(one.at_ms, now_ms), one.note] for one in found
                )
            )


@app.command()
def show(name: Name, namespace: remote.Namespace = None, data: remote.Data = None, json: remote.Json = False) -> None:
    """Print a stored workflow as YAML; the newest version where none is named.

    **Examples**

    - `skep definitions show release-gate`
    - `skep definitions show release-gate@2 > flow.yaml`
    """
    from skep.model.authoring import build_workflow  # noqa: PLC0415  the other commands do without
    from skep.sdk.yaml import dump  # noqa: PLC0415

    with remote.server(data, json) as client:
        stored = client.definitions.get(name, namespace=namespace)
        remote.document(stored) if json else typer.echo(dump(build_workflow(stored.source)), nl=False)


@app.command()
def remove(
    name: Name, yes: remote.Yes = False, namespace: remote.Namespace = None, data: remote.Data = None, json: remote.Json = False
) -> None:
    """Forget a stored workflow in all its versions. Runs keep what they were started with.

    **Example**

    - `skep definitions remove release-gate --yes`
    """
    with remote.server(data, json) as client:
        stored = len(client.definitions.list(name, namespace))
        if stored > 1:
            remote.sure(f"Forget {stored} versions of {name}?", yes)
        count = client.definitions.remove(name, namespace)
        if not count:
            raise NotFoundError(f"there is no definition {name!r}; `skep definitions list` lists them")
        versions = f"{count} version{'' if count == 1 else 's'}"
        remote.document({"removed": count}) if json else remote.note(f"{name}: {versions} removed")
