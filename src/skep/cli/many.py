"""What commands to runs share: runs by name, or all of a filter, which is asked for before it is done."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final

import msgspec
import typer

from skep.cli import completion, remote
from skep.cli.filters import choosing
from skep.cli.shape import parameters_of, shaped
from skep.client import Client, Filter
from skep.errors import SkepError
from skep.model.views import Bulk, RunSummary

MOST: Final = 10_000
"""Runs of one command."""
COUNTED: Final = 1_000
"""Runs that are counted before it is asked."""

Runs = Annotated[
    list[str] | None,
    typer.Argument(metavar="RUN", help="Ids or their beginnings; `last`: the newest.", autocompletion=completion.runs),
]
All = Annotated[bool, typer.Option("--all", help="Every run for which it makes sense.")]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; it is kept with the run.")]

STATES: Final = {
    "cancel": ("queued", "running"),
    "pause": ("queued", "running"),
    "resume": ("queued", "running"),
    "retry": ("failed", "cancelled"),
}
"""Runs that a filter means where it does not say."""
DONE: Final = {"cancel": "cancelling", "pause": "paused", "resume": "resumed", "retry": "retrying"}


def steers(verb: str) -> Callable[[Callable[..., RunSummary]], Callable[..., None]]:
    """Makes a command for many runs of what is done to one: a function of `client`, `run`, `reason`, and of options of its own,
    which go with exactly one run."""

    def make(one: Callable[..., RunSummary]) -> Callable[..., None]:
        own = dict(itertools.islice(parameters_of(one).items(), 3, None))

        def command(
            *,
            runs: Runs = None,
            wanted: Filter,
            all: All = False,
            reason: Reason = "",
            yes: remote.Yes = False,
            data: remote.Data = None,
            json: remote.Json = False,
            **given: Any,
        ) -> None:
            if (special := [name for name, value in given.items() if value]) and len(runs or ()) != 1:
                raise typer.BadParameter("goes with exactly one run", param_hint=f"--{special[0].strip('_')}")
            if bool(runs) + (all or any(msgspec.structs.astuple(wanted))) != 1:
                raise typer.BadParameter("name runs, or choose them by options such as --label, or say --all", param_hint="RUN")
            with remote.server(data, json) as client:
                if runs:
                    _tell(verb, *_each(client, runs, lambda run: one(client, run, reason, **given)), json)
                else:
                    _tell(verb, _all(client, verb, wanted, yes, reason), {}, json)

        parameters = parameters_of(command)
        del parameters["given"]
        first = parameters.pop("runs")
        return choosing(shaped(command, one, [first, *own.values(), *parameters.values()]))

    return make


def _each(client: Client, runs: Sequence[str], one: Callable[[str], RunSummary]) -> tuple[Bulk, dict[str, str]]:
    """How it went, and how each of the runs stands then."""
    bulk, states = Bulk([], {}), {}
    for run in dict.fromkeys(runs):
        try:
            done = one(remote.find_run(client, run))
            bulk.done.append(done.id)
            states[done.id] = done.state
        except SkepError as error:
            if len(runs) == 1 or error.exit_code != 3:
                raise
            bulk.refused[run] = str(error)
    return bulk, states


def _all(client: Client, verb: str, wanted: Filter, yes: bool, reason: str) -> Bulk:
    wanted.state = wanted.state or STATES[verb]
    if wanted.parent:
        wanted.parent = remote.find_run(client, wanted.parent)
    if not yes:
        page = client.runs.list(wanted, limit=COUNTED)
        if len(page.runs) > 1:
            count = f"{len(page.runs):,}" + (" or more" if page.next else "")
            remote.sure(f"{verb.capitalize()} {count} runs?", yes)
    bulk = client.runs.bulk(verb, wanted, reason=reason, limit=MOST)
    if len(bulk.done) + len(bulk.refused) >= MOST:
        remote.note(f"these were {MOST:,}, as many as go at once: say it again for the rest")
    return bulk


def _tell(verb: str, bulk: Bulk, states: Mapping[str, str], json: bool) -> None:
    """Exits with 3 when some were refused."""
    if json:
        remote.document(bulk)
    else:
        _say(verb, bulk, states)
    if bulk.refused:
        raise typer.Exit(3)


def _say(verb: str, bulk: Bulk, states: Mapping[str, str]) -> None:
    for run, state in states.items():
        remote.note(f"{state if state == 'cancelled' and verb == 'cancel' else DONE[verb]} {run}")
    if not states and bulk.done:
        remote.note(f"{DONE[verb]}: {len(bulk.done):,} run{'' if len(bulk.done) == 1 else 's'}")
    elif not bulk.done and not bulk.refused:
        remote.note(f"there are no runs to {verb}")
    for run, why in list(bulk.refused.items())[:20]:
        remote.note(f"refused: {run}: {why}")
    if len(bulk.refused) > 20:
        remote.note(f"and {len(bulk.refused) - 20:,} more were refused; --json has all of them")
