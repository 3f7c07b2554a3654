"""`skep demo`."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import wrap
from typing import Annotated, Final

import typer

import skep
from skep.cli.console import Console
from skep.cli.importing import read_instance
from skep.cli.local import local_nodes, take_secrets
from skep.cli.screen import Line
from skep.cli.session import Job, run_job
from skep.cli.summary import summary
from skep.cli.tables import table
from skep.cli.target import check_routes, describe_node, find_target
from skep.clock import SystemClock
from skep.errors import RefusedError
from skep.flow.plan import compile_plan
from skep.process import tune

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")

NODES: Final = (
    "builder:cpu,ssd;cpu=4;slots=8",
    "tester:cpu,high-memory;cpu=4;slots=8",
    "gateway:cpu,network;cpu=2;slots=4",
)
TOOLS: Final = ("ruff", "mypy", "pytest", "python")
SCALE: Final = 0.02
"""A fiftieth of the recorded time."""


@app.command()
def demo(
    examples: Annotated[Path | None, typer.Option(metavar="DIR", help="The folder with the examples.")] = None,
    no_color: Annotated[bool, typer.Option("--no-color", help="Plain lines without colours (or set NO_COLOR).")] = False,
) -> None:
    """Watch real workflows run across three local nodes.

    First a release gate: a small Python project is linted, type-checked, tested, built, installed and tried, with real tools.
    Then tasks that prefer certain nodes, and go elsewhere when those are full. Then Montage, a recorded workflow that makes a
    mosaic of the sky, replayed at a fiftieth of its time.

    **Examples**

    - `skep demo`
    - `skep demo --examples ~/skep/examples`
    """
    secrets = take_secrets()
    folder = _find_examples(examples)
    clock = SystemClock()
    console = Console(clock, no_color=no_color)
    code = 0
    with console.open(), _workplace() as place:
        tune()
        for number, job in enumerate((_release_gate(folder, place), _specialised(folder, place), _montage(folder, place)), 1):
            spec = job.plan.spec
            console.say(*([[]] if number > 1 else []), [(f"{number}. {spec.name}", "bold")], *_wrapped(spec.description), [])
            if number == 1:
                console.say(*([(f"  node {info.id:<8} ", "blue"), (describe_node(info), "dim")] for info in job.nodes), [])
            ended = asyncio.run(run_job(job._replace(secrets=secrets), console, clock))
            console.say(*([] if ended.exit_code else [[], *table(ended)]), *summary(ended))
            code = ended.exit_code
            if code:
                break
    raise typer.Exit(code)


def _wrapped(text: str) -> list[Line]:
    return [[(line, "")] for line in wrap(text, 98)]


def _find_examples(given: Path | None) -> Path:
    places = [given] if given else [Path(skep.__file__).parents[2] / "examples", Path("examples")]
    for place in places:
        if (place / "release-gate" / "flow.yaml").is_file():
            return place.absolute()
    raise RefusedError(
        f"there is no release-gate/flow.yaml in {' or '.join(map(str, places))}; "
        "the examples come with Skep's source: name their folder with --examples DIR"
    )


@contextmanager
def _workplace() -> Iterator[Path]:
    """A temporary folder, with this interpreter's own tools first on PATH."""
    path = os.environ.get("PATH", os.defpath)
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), path])
    try:
        if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
            raise RefusedError(f"the demo needs {', '.join(missing)} on PATH: `make setup` in Skep's source installs them")
        with tempfile.TemporaryDirectory(prefix="skep-demo-") as folder:
            yield Path(folder)
    finally:
        os.environ["PATH"] = path


def _release_gate(examples: Path, place: Path) -> Job:
    target = find_target(str(examples / "release-gate" / "flow.yaml"))
    nodes = local_nodes(NODES)
    check_routes(target, nodes)
    inputs = {"work": str(place / "work"), "python": sys.executable}
    return Job(target.plan, inputs, nodes, place / "data", target.base)


def _specialised(examples: Path, place: Path) -> Job:
    target = find_target(str(examples / "specialised.yaml"))
    return Job(target.plan, {}, local_nodes(NODES), place / "data", place)


def _montage(examples: Path, place: Path) -> Job:
    found = sorted((examples / "wfformat").glob("*montage*.json"))
    if not found:
        raise RefusedError(f"there is no Montage instance (*montage*.json) in {examples / 'wfformat'}")
    spec = read_instance(found[0], SCALE)
    return Job(compile_plan(spec), {}, local_nodes(NODES), place / "data", place)
