"""`skep simulate`."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Final

import typer

from skep.cli import remote
from skep.cli.grid import Cell, Column, Grid
from skep.cli.importing import read_instance
from skep.cli.screen import Line, Region, bar
from skep.cli.target import find_target
from skep.config import data_home
from skep.errors import RefusedError
from skep.flow.plan import compile_plan
from skep.model.units import format_duration, parse_duration_ms
from skep.sdk.yaml import read_data, read_file
from skep.testing.lab.simulate.compare import TOGETHER, Mean, Options, Picture, Report, Tell, compare
from skep.testing.lab.simulate.fleetfile import Arrivals, FleetFile, read_fleet
from skep.testing.lab.simulate.gantt import gantt
from skep.testing.lab.simulate.play import ESTIMATES, LEARNED, NAMES, PERFECT
from skep.testing.lab.simulate.recorded import read_history, work_of_history
from skep.testing.lab.simulate.whatif import changed
from skep.testing.lab.simulate.work import CHILDREN, Work, work_of

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")

PLAYED: Final = ("hybrid", "least-loaded", "random")
"""Where no policy is named; `round-robin` always plays, for everything is compared with it."""
PREDICTIONS: Final = {
    "all": (PERFECT, LEARNED),
    PERFECT: (PERFECT,),
    LEARNED: (LEARNED,),
    ESTIMATES: (ESTIMATES,),
}
MOST_COLUMNS: Final = 6
"""Workflows that have a column of their own in the table."""


@app.command()
def simulate(
    fleet: Annotated[Path, typer.Argument(metavar="FLEET", help="A fleet file: nodes, failures, arrivals (YAML or JSON).")],
    workflows: Annotated[
        list[str],
        typer.Argument(metavar="WORKFLOW…", help="Workflows (as for `skep run`), WfFormat files, or recorded runs by id."),
    ],
    policy: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help=f"One of {', '.join(NAMES)}; or `all`. Repeat it.")
    ] = None,
    predictions: Annotated[
        str, typer.Option(metavar="WHICH", help="perfect, learned (from earlier runs), estimates (as authors say), or all.")
    ] = "all",
    seed: Annotated[int, typer.Option(help="The same seed makes the same noise, arrivals and losses.")] = 0,
    noise: Annotated[str, typer.Option(metavar="P%", help="Durations vary by so much, up and down.")] = "0%",
    learn_runs: Annotated[int, typer.Option("--learn-runs", min=0, max=100, help="Earlier runs to learn from.")] = 3,
    arrivals: Annotated[
        str | None,
        typer.Option(metavar="HOW", help="at-once, every=30s or poisson=30s; without it each workflow is alone."),
    ] = None,
    runs: Annotated[
        int | None, typer.Option(min=1, help="How many runs arrive, the workflows in turn; else each once.")
    ] = None,
    what_if: Annotated[
        list[str] | None,
        typer.Option("--what-if", metavar="CHANGE", help="Compare with a fleet after add=4xNAME or remove=2xNAME. Repeat it."),
    ] = None,
    cost_sensitive: Annotated[
        bool, typer.Option("--cost-sensitive", help="As if every task had asked for the cheapest node that is good enough.")
    ] = False,
    children: Annotated[int, typer.Option(min=0, help="Children of a map over what only a run knows.")] = CHILDREN,
    picture: Annotated[Path | None, typer.Option("--gantt", metavar="FILE.svg", help="Draw who ran what when.")] = None,
    data: remote.Home = None,
    json: remote.Json = False,
) -> None:
    """Try placement policies on a fleet that you describe, in simulated time.

    The engine and the router are the real ones; only the durations are made up: a task takes its `estimated_duration`, or what
    was recorded, divided by the speed of its node. Everything is compared with HEFT, which sees the whole graph and all true
    durations in advance, with round robin over free nodes, and with the time below which nobody can get.

    **Examples**

    - `skep simulate fleet.yaml flow.yaml`
    - `skep simulate fleet.yaml *.json --policy all --seed 1 --gantt fleet.svg`
    - `skep simulate fleet.yaml flow.yaml --arrivals poisson=30s --runs 100 --noise 30%`
    - `skep simulate fleet.yaml flow.yaml --what-if add=4xgpu`
    - `skep simulate fleet.yaml 0198c1d2 --data /srv/skep`: a run that took place
    """
    with remote.told(json):
        file = read_fleet(fleet)
        works = works_of(workflows, file, data_home(data), children)
        options = Options(
            policies=_policies(policy),
            predictions=_predictions(predictions),
            seed=seed,
            noise=share(noise),
            learn_runs=learn_runs,
            arrivals=_arrivals(arrivals, runs, file.arrivals),
            cost_sensitive=cost_sensitive,
            keep=picture is not None,
        )
        fleets = [file, *([changed(file, what_if)] if what_if else [])]
        with _watching() as tell:
            report, pictures = compare(fleets, works, options, tell)
        if picture is not None:
            _draw(picture, pictures, file)
        remote.document(report) if json else remote.say(*lines_of(report))


# -- what was given


def works_of(names: Sequence[str], fleet: FleetFile, home: Path, children: int) -> list[Work]:
    """The workflows by what the command line calls them; each has a name of its own. Raises SpecError, NotFoundError."""
    works: list[Work] = []
    for name in names:
        path = Path(name)
        is_file = path.is_file() or path.suffix in (".yaml", ".yml", ".json", ".py") or ":" in name
        if not is_file:
            works.append(work_of_history(read_history(home, name), fleet.nodes))
        elif path.suffix == ".json" and is_recorded(path):
            works.append(work_of(compile_plan(read_instance(path, 1.0)), path.stem, children=children))
        else:
            works.append(work_of(find_target(name).plan, children=children))
    for at, work in enumerate(works):
        same = sum(other.name == work.name for other in works[:at])
        if same:
            works[at] = named(work, f"{work.name} ({same + 1})")
    return works


def is_recorded(path: Path) -> bool:
    """Whether it is a WfFormat document."""
    found = read_data(read_file(path), str(path))
    return isinstance(found, dict) and "schemaVersion" in found


def named(work: Work, name: str) -> Work:
    """The same work under another name."""
    return replace(work, name=name)


def share(text: str) -> float:
    """`30%` or `0.3`. Raises BadParameter."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = math.nan
    if not 0 <= value < 1:
        raise typer.BadParameter(f"found {text!r}, expected a percentage from 0% to 99%, such as 30%", param_hint="--noise")
    return value


def _policies(given: Sequence[str] | None) -> list[str]:
    names = list(dict.fromkeys(NAMES if given and "all" in given else given or PLAYED))
    for name in names:
        if name not in NAMES:
            raise typer.BadParameter(f"there is no policy {name!r}; expected {', '.join(NAMES)} or all", param_hint="--policy")
    return names if "round-robin" in names else [*names, "round-robin"]


def _predictions(given: str) -> tuple[str, ...]:
    if given not in PREDICTIONS:
        raise typer.BadParameter(f"found {given!r}, expected {', '.join(PREDICTIONS)}", param_hint="--predictions")
    return PREDICTIONS[given]


def _arrivals(given: str | None, runs: int | None, file: Arrivals) -> Arrivals:
    process, equals, interval = (given or "").partition("=")
    if given is None:
        arrivals = file
        if runs and not file.process:
            raise typer.BadParameter("says how many runs arrive; say how too, with --arrivals", param_hint="--runs")
    elif process == "at-once" and not equals:
        arrivals = Arrivals(process, 0, file.runs)
    elif process in ("every", "poisson"):
        try:
            interval_ms = parse_duration_ms(interval)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--arrivals") from None
        if not interval_ms:
            raise typer.BadParameter("expected a time above 0; all at once is `at-once`", param_hint="--arrivals")
        arrivals = Arrivals(process, interval_ms, file.runs)
    else:
        raise typer.BadParameter(f"found {given!r}, expected at-once, every=30s or poisson=30s", param_hint="--arrivals")
    return Arrivals(arrivals.process, arrivals.interval_ms, runs) if runs else arrivals


# -- while it works


@contextmanager
def _watching() -> Iterator[Tell | None]:
    if not sys.stderr.isatty() or not remote.colored():
        yield None
        return
    region = Region(sys.stderr)

    def tell(doing: str, done: int, whole: int) -> None:
        region.draw([[*bar(done / max(whole, 1), 24), (f"  {done:,} of {whole:,} attempts  ", ""), (doing, "dim")]])

    try:
        yield tell
    finally:
        region.draw([])
        region.leave()


# -- what came of it


def lines_of(report: Report) -> Iterator[Line]:
    """The comparison for people: a table for each fleet."""
    for fleet, nodes in report.fleets.items():
        yield from _head(report, fleet, nodes)
        yield from _table(report, fleet)
        yield []
    yield [
        (
            "heft sees the whole graph and all true durations in advance; the policies see what became ready, and predictions.",
            "dim",
        )
    ]
    yield [("Ratios are of makespans, geometric means over the workflows; below 1.00 is faster.", "dim")]
    for text in report.assumed:
        yield [("assumed: ", "yellow"), (text, "")]


def _head(report: Report, fleet: str, nodes: int) -> Iterator[Line]:
    steps = sum(one.steps for one in report.baselines if one.fleet == fleet)
    how = {"alone": "each workflow alone", "at-once": "all at once"}.get(report.arrivals, f"arrivals: {report.arrivals}")
    noise = f", durations ±{report.noise:.0%}" if report.noise else ""
    yield [(fleet, "bold"), (f": {nodes:,} nodes, {steps:,} tasks, {how}{noise}, seed {report.seed}", "")]


def _table(report: Report, fleet: str) -> Iterator[Line]:
    baselines = [one for one in report.baselines if one.fleet == fleet]
    shown = [one.workflow for one in baselines] if len(baselines) <= MOST_COLUMNS else []
    together = report.arrivals != "alone"
    columns = [
        Column("makespan", cut=True),
        *(Column(_short(name), right=True) for name in shown),
        *(Column(head, right=True) for head in ("÷ heft", "÷ round robin", "÷ bound", "in use", "cost")),
        *(Column(head, right=True) for head in (("mean flow", "p95 flow", "fairness") if together else ())),
    ]
    grid = Grid(columns, remote.width())
    none: list[Cell] = ["-"] * (3 if together else 0)
    rows: list[list[Cell]] = []
    heft = [one.heft_ms for one in baselines]
    to_bound = [one.heft_ms / max(one.bound_ms, 1) for one in baselines if one.heft_ms]
    plain = _mean_of(report, fleet, "round-robin")
    heft_to_plain = f"{1 / plain.to_heft:.2f}" if plain and plain.to_heft else "-"
    if all(heft):
        mean = math.exp(sum(map(math.log, to_bound)) / len(to_bound))
        cells: list[Cell] = [_time(one.heft_ms) for one in baselines if shown]
        rows.append(["heft (a plan made beforehand)", *cells, "1.00", heft_to_plain, f"{mean:.2f}", "-", "-", *none])
    for mean_row in [one for one in report.means if one.fleet == fleet]:
        results = {row.workflow: row.measured for row in report.results if (row.fleet, row.player) == (fleet, mean_row.player)}
        flows: list[Cell] = []
        if together:
            all_ = results[TOGETHER]
            flows = [_time(round(all_.flow_mean_ms)), _time(all_.flow_p95_ms), f"{all_.fairness:.2f}"]
        style = "bold" if mean_row.policy == "hybrid" else ""
        rows.append(
            [
                (mean_row.player, style),
                *(_time(results[name].makespan_ms) for name in shown),
                _ratio(mean_row.to_heft),
                _ratio(mean_row.to_round_robin),
                _ratio(mean_row.to_bound),
                f"{mean_row.utilisation:.0%}",
                f"{mean_row.cost:.2f}",
                *flows,
            ]
        )
    least: list[Cell] = [_time(one.bound_ms) for one in baselines if shown]
    rows.append([("bound (nobody can be faster)", "dim"), *least, "-", "-", "1.00", "-", "-", *none])
    yield from grid.page(rows)


def _mean_of(report: Report, fleet: str, policy: str) -> Mean | None:
    return next((one for one in report.means if (one.fleet, one.policy) == (fleet, policy)), None)


def _short(name: str) -> str:
    return name if len(name) <= 16 else f"{name[:15]}…"


def _time(ms: int | None) -> str:
    return "-" if ms is None else format_duration(ms)


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _draw(path: Path, pictures: Sequence[Picture], fleet: FleetFile) -> None:
    """One panel for each policy and workflow of the fleet as it is."""
    try:
        path.write_text(gantt([one for one in pictures if one.fleet == fleet.name], fleet.nodes), encoding="utf-8")
    except OSError as error:
        raise RefusedError(f"{path} cannot be written: {error.strerror}") from None
    remote.note(f"{path}: the attempts of {len(pictures)} simulations")
