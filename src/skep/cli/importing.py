"""`skep import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from skep.errors import Problem, RefusedError, SpecError
from skep.model.spec import WorkflowSpec
from skep.sdk.wfformat import import_instance
from skep.sdk.yaml import dump, read_file

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", no_args_is_help=True)


@app.callback()
def importing() -> None:
    """Turn a recorded workflow of another system into one of Skep.

    **Example**

    - `skep import wfformat montage.json -o montage.yaml --time-scale 0.02`
    """


@app.command()
def wfformat(
    file: Annotated[Path, typer.Argument(metavar="FILE.json", help="A WfCommons WfFormat 1.5 instance (JSON).")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FLOW.yaml", help="The file to write.")],
    time_scale: Annotated[float, typer.Option(metavar="X", help="By what recorded durations are multiplied.")] = 1.0,
    command: Annotated[
        str | None, typer.Option(metavar="LINE", help="Run this for every task; {id}, {program}, {arguments}, {runtime}.")
    ] = None,
    keep_resources: Annotated[bool, typer.Option("--keep-resources", help="Take the recorded memory and cores.")] = False,
    force: Annotated[bool, typer.Option("--force", "-f", help="Overwrite the file if there is one.")] = False,
) -> None:
    """Import a recorded scientific workflow that replays each task by sleeping as long as it ran.

    **Examples**

    - `skep import wfformat montage.json -o montage.yaml`
    - `skep import wfformat montage.json -o fast.yaml --time-scale 0.001`
    - `skep import wfformat montage.json -o echo.yaml --command 'echo {program} took {runtime} s'`
    """
    if output.exists() and not force:
        raise RefusedError(f"{output} is there already; give another name, or --force to overwrite it")
    spec = read_instance(file, time_scale, command, keep_resources)
    header = f"# Imported by `skep import wfformat` from {file.name}, a WfCommons WfFormat 1.5 instance.\n"
    try:
        output.write_text(header + dump(spec), encoding="utf-8")
    except OSError as error:
        raise RefusedError(f"{output} cannot be written: {error.strerror}") from None
    typer.echo(f"{output}: {spec.name}, {len(spec.tasks):,} tasks", err=True)


def read_instance(file: Path, time_scale: float, command: str | None = None, keep_resources: bool = False) -> WorkflowSpec:
    """The workflow in a WfFormat file. Raises SpecError."""
    try:
        data = msgspec.json.decode(read_file(file))
        return import_instance(data, time_scale=time_scale, command=command, keep_resources=keep_resources)
    except msgspec.DecodeError as error:
        raise SpecError([Problem("", f"is not JSON: {error}")], str(file)) from None
    except SpecError as error:
        raise SpecError(error.problems, error.source or str(file)) from None
