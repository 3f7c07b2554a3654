"""Which runs: the options by which commands choose many of them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Annotated, Any, Final

import typer

from skep.cli import completion
from skep.cli.moments import parse_past_ms
from skep.cli.shape import parameters_of, shaped
from skep.client import Filter
from skep.model.state import RunState

STATES: Final = tuple(state.label for state in RunState)

State = Annotated[
    list[str] | None,
    typer.Option(
        "--state", metavar="STATE", help=f"In this state: {', '.join(STATES)}. Repeat it.", autocompletion=lambda: STATES
    ),
]
Workflow = Annotated[
    str | None,
    typer.Option("--workflow", metavar="NAME", help="Of this workflow.", autocompletion=completion.definitions),
]
Label = Annotated[
    list[str] | None, typer.Option("--label", metavar="NAME[=VALUE]", help="With this label, and value. Repeat it.")
]
Namespace = Annotated[str | None, typer.Option("--namespace", metavar="NAME", help="Of this namespace.")]
Search = Annotated[str | None, typer.Option("--search", metavar="TEXT", help="In the id, the workflow's name or a label.")]
Since = Annotated[str | None, typer.Option("--since", metavar="TIME", help="Accepted since: a time, or how long ago, as 2h.")]
Until = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Accepted before.")]
Schedule = Annotated[
    str | None,
    typer.Option("--schedule", metavar="NAME", help="Started by this schedule.", autocompletion=completion.schedules),
]
Parent = Annotated[
    str | None, typer.Option("--parent", metavar="RUN", help="Children of this run.", autocompletion=completion.runs)
]


def choosing(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command, in the place of its parameter `wanted`, the options that make it."""
    own, options = parameters_of(command), parameters_of(chosen)

    def run(**given: Any) -> None:
        wanted = chosen(**{name: given.pop(name) for name in options})
        command(wanted=wanted, **given)

    spread = [([*options.values()] if name == "wanted" else [parameter]) for name, parameter in own.items()]
    return shaped(run, command, itertools.chain.from_iterable(spread))


def chosen(
    state: State = None,
    workflow: Workflow = None,
    label: Label = None,
    namespace: Namespace = None,
    search: Search = None,
    since: Since = None,
    until: Until = None,
    schedule: Schedule = None,
    parent: Parent = None,
) -> Filter:
    """The filter that the options make. Raises BadParameter."""
    now_ms = time.time_ns() // 1_000_000
    for name, value in locals().items():
        if value == "" or (isinstance(value, list) and "" in value):  # a variable of a script that is not set
            raise typer.BadParameter("is empty", param_hint=f"--{name}")
    if unknown := [word for word in state or () if word not in STATES]:
        raise typer.BadParameter(f"found {unknown[0]!r}, expected one of {', '.join(STATES)}", param_hint="--state")
    return Filter(
        namespace=namespace,
        state=state or (),
        workflow=workflow,
        label=label or (),
        search=search,
        schedule=schedule,
        parent=parent,
        since_ms=parse_past_ms(since, "--since", now_ms),
        until_ms=parse_past_ms(until, "--until", now_ms),
    )
