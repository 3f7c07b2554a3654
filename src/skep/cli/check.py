"""`skep check`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import typer

from skep.cli.problems import problems_of
from skep.cli.target import check_wishes, find_target, warnings_of
from skep.errors import SkepError, SpecError
from skep.flow import graph
from skep.flow.plan import Plan
from skep.model.node import Requirement
from skep.model.units import format_bytes, format_duration

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")


@app.command()
def check(
    workflow: Annotated[
        str, typer.Argument(metavar="FLOW", help="A YAML or JSON file, `module:workflow`, or `file.py:workflow`.")
    ],
    json: Annotated[bool, typer.Option("--json", help="Print what was found as one JSON document.")] = False,
    graph: Annotated[bool, typer.Option("--graph", help="Print the graph as a Mermaid drawing.")] = False,
) -> None:
    """Say what is wrong with a workflow, with line numbers, or what it is.

    **Examples**

    - `skep check flow.yaml`
    - `skep check flow.yaml --json | jq .critical_path`
    - `skep check reports.py:daily --graph > daily.mmd`
    """
    try:
        target = find_target(workflow)
        check_wishes(target)
    except SkepError as error:
        if not json:
            raise
        _print({"ok": False, "problems": problems_of(error)})
        raise typer.Exit(error.exit_code) from None
    plan, warnings = target.plan, warnings_of(target)
    if graph:
        typer.echo(mermaid(plan), nl=False)
    elif json:
        found = {"ok": True, **facts(plan)}
        _print({**found, "warnings": [problem._asdict() for problem in target.refuse(SpecError(plan.warnings)).problems]})
    else:
        typer.echo("\n".join([*_text(plan, facts(plan)), *(f"  warning: {text}" for text in warnings)]))


def _print(document: dict[str, Any]) -> None:
    typer.echo(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())


def facts(plan: Plan) -> dict[str, Any]:
    """What there is to know about a workflow before it runs. Durations are ms, as estimated by its tasks."""
    spec, needs = plan.spec, plan.needs
    ordered = graph.order(needs, plan.shape.successors)
    level = [0] * len(needs)
    for task in ordered:
        level[task] = 1 + max((level[up] for up in needs[task]), default=-1)
    estimates = [task.estimated_ms for task in spec.tasks]
    path = graph.critical_path(needs, ordered, estimates if any(estimates) else [1] * len(estimates))
    classes = Counter(task.wanted for task in plan.tasks)
    return {
        "workflow": spec.name,
        "description": spec.description,
        "tasks": len(needs),
        "maps": [task.name for task in spec.tasks if task.map is not None],
        "edges": sum(map(len, needs)),
        "levels": [count for _, count in sorted(Counter(level).items())],
        "critical_path": [plan.names[task] for task in path],
        "critical_path_ms": sum(estimates[task] for task in path),
        "work_ms": sum(estimates),
        "classes": [
            {"executor": wanted.executor, "requires": _describe(wanted), "tasks": count} for wanted, count in classes.items()
        ],
        "inputs": spec.inputs or {},
        "required": list(spec.required),
    }


def _text(plan: Plan, found: dict[str, Any]) -> list[str]:
    levels, path = found["levels"], found["critical_path"]
    estimated = found["work_ms"] > 0
    maps = f"; once for each item of a list: {', '.join(found['maps'][:5])}" if found["maps"] else ""
    rows = [
        ("tasks", f"{found['tasks']:,}{maps}"),
        ("edges", f"{found['edges']:,}"),
        ("levels", f"{len(levels)}, up to {max(levels):,} tasks side by side"),
        ("critical path" if estimated else "longest path", _path(path)),
        *([("estimated", _estimate(found))] if estimated else []),
        *[("requires", f"{one['requires']} ({one['executor']}) × {one['tasks']:,}") for one in found["classes"]],
        *[("input", f"{name} = {msgspec.json.encode(value).decode()}") for name, value in found["inputs"].items()],
        *[("input", f"{name}, required") for name in found["required"]],
    ]
    title = f"{plan.spec.name}: {plan.spec.description}" if plan.spec.description else plan.spec.name
    return [title.rstrip(), *(f"  {name:<14} {value}" for name, value in rows), "  ok"]


def _path(names: Sequence[str]) -> str:
    shown = names if len(names) <= 12 else [*names[:6], "…", *names[-5:]]
    return " → ".join(shown)


def _estimate(found: dict[str, Any]) -> str:
    ms, work_ms = found["critical_path_ms"], found["work_ms"]
    return f"{format_duration(ms)} along the critical path, {format_duration(work_ms)} of work in all"


def _describe(wanted: Requirement) -> str:
    sizes = [f"{wanted.cpu_milli / 1000:g} cpu"] if wanted.cpu_milli else []
    sizes += [f"{format_bytes(size)} {name}" for size, name in ((wanted.memory, "memory"), (wanted.vram, "vram")) if size]
    return ", ".join([*wanted.requires, *sizes]) or "nothing special"


def mermaid(plan: Plan) -> str:
    """The graph as a Mermaid flowchart."""
    lines = ["flowchart LR"]
    for at, task in enumerate(plan.spec.tasks):
        shape = ('[["', ' × n"]]') if task.map is not None else ('["', '"]')
        lines.append(f"    t{at}{shape[0]}{task.name}{shape[1]}")
    lines += [f"    t{up} --> t{at}" for at, needed in enumerate(plan.needs) for up in needed]
    return "\n".join(lines) + "\n"
