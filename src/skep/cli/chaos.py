"""`skep chaos`."""

from __future__ import annotations

import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import typer

from skep.cli import remote
from skep.cli.screen import Line, Region, bar
from skep.client import Client
from skep.errors import SkepError
from skep.testing.chaos import faults
from skep.testing.chaos.attack import Options, Progress, attack
from skep.testing.chaos.fleet import Fleet
from skep.testing.chaos.other import OtherFleet, clients_of
from skep.testing.chaos.score import SHOWN, Scorecard
from skep.testing.chaos.wide import own_fleet

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")

MOST_SEED: Final = 1_000_000
PROOF_S: Final = 36.0
"""In which a guard that is switched off shows."""


FAILOVER: Final = {
    "node": "a node was killed, its tasks run elsewhere",
    "silent": "a node was silent, its tasks run elsewhere",
    "place": "a server or Redis was hit, the next task is placed",
}


@app.command()
def chaos(
    minutes: Annotated[float | None, typer.Option(min=0.1, help="How long faults come; 1, with --break 0.6.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed makes the same faults and the same work.")] = None,
    only: Annotated[
        str | None, typer.Option("--faults", metavar="NAME,…", help="Only these; `list` prints all of them and ends.")
    ] = None,
    guard: Annotated[str | None, typer.Option("--break", metavar="GUARD", help="fence, epoch or mark: do without it.")] = None,
    small: Annotated[bool, typer.Option("--small", help="One server with SQLite, whatever is installed.")] = False,
    servers: Annotated[int, typer.Option(min=1, max=9, help="Of the fleet that is started.")] = 2,
    nodes: Annotated[int, typer.Option(min=1, max=20, help="Of the fleet that is started.")] = 3,
    rate: Annotated[float, typer.Option(min=0.1, max=100, help="Runs that are submitted in a second.")] = 3.0,
    server: Annotated[
        list[str] | None, typer.Option("--server", metavar="URL", help="Attack the fleet of this server (or several).")
    ] = None,
    token: Annotated[str | None, typer.Option(metavar="KEY", help="The key for it (better: set SKEP_TOKEN).")] = None,
    kill_command: Annotated[
        str, typer.Option("--kill-command", metavar="COMMAND", help="With --server: breaks something of it, and mends it.")
    ] = "",
    folder: Annotated[
        Path | None, typer.Option("--folder", metavar="DIR", help="For ledgers and evidence; else a temporary one.")
    ] = None,
    json: remote.Json = False,
) -> None:
    """Attack a fleet, and see that nothing is lost. Without --server it is started for that, and ended.

    While clients submit, decide and cancel, nodes, servers and stores are killed, stopped, cut off, wiped. What clients were
    promised and what tasks did is written down outside of Skep, and compared at the end with what Skep says. Exits with 1 when
    an accepted run was lost, an outcome was not that of the attempt that held the task, or anything stands still for 30 s.

    **Examples**

    - `skep chaos`
    - `skep chaos --minutes 5 --seed 1`
    - `skep chaos --faults node-kill,redis-flush --json`
    - `skep chaos --break fence`: must exit with 1
    - `skep chaos --server https://a.example:7077 --kill-command "ssh db1 systemctl restart redis"`
    """
    if only == "list":
        remote.say(*_all_faults())
        raise typer.Exit
    if guard is not None and guard not in faults.PROOF:
        raise typer.BadParameter(f"found {guard!r}, expected {', '.join(faults.PROOF)}", param_hint="--break")
    if server and (guard or small):
        raise typer.BadParameter("the fleet of a --server is taken as it is", param_hint="--break" if guard else "--small")
    if kill_command and not server:
        raise typer.BadParameter("is for a fleet that was named by --server", param_hint="--kill-command")
    seconds = minutes * 60 if minutes is not None else PROOF_S if guard else 60.0
    options = Options(seconds, random.randrange(MOST_SEED) if seed is None else seed, _chosen(only, guard), rate)
    place = _place(folder)
    fleet: Fleet
    if server:
        fleet = OtherFleet(place, clients_of([Client(url=url, token=token) for url in server]), kill_command)
    else:
        fleet = own_fleet(place, servers=servers, nodes=nodes, small=small, broken=guard or "")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # nothing of the fleet must stay
    with remote.told(json), _kept(place), _watching(options, fleet) as watch:
        card = attack(fleet, options, watch)
    remote.document(card.document()) if json else remote.say(*_lines(card))
    if not card.bad and folder is None:
        shutil.rmtree(place, ignore_errors=True)
    raise typer.Exit(1 if card.bad else 0)


def _chosen(only: str | None, guard: str | None) -> tuple[str, ...]:
    if only is None:
        return faults.PROOF[guard] if guard else ()
    names = tuple(name.strip() for name in only.split(","))
    for name in names:
        if name not in faults.ALL:
            raise typer.BadParameter(f"there is no fault {name!r}; `--faults list` shows all", param_hint="--faults")
    return names


def _place(folder: Path | None) -> Path:
    if folder is None:
        return Path(tempfile.mkdtemp(prefix="skep-chaos-"))
    if folder.exists() and any(folder.iterdir()):
        raise typer.BadParameter(f"{folder} is not empty", param_hint="--folder")
    folder.mkdir(parents=True, exist_ok=True)
    return folder.absolute()


@contextmanager
def _kept(place: Path) -> Iterator[None]:
    """An attack that itself failed leaves its folder."""
    try:
        yield
    except (SkepError, KeyboardInterrupt):
        remote.note(f"skep: what there is of it is in {place}")
        raise


# -- while it works


@contextmanager
def _watching(options: Options, fleet: Fleet) -> Iterator[Callable[[Progress], None]]:
    remote.note(f"seed {options.seed}; ledgers and logs are in {fleet.folder}")
    if not sys.stderr.isatty() or not remote.colored():
        said = ""

        def tell(now: Progress) -> None:
            nonlocal said
            if now.doing != said:
                said = now.doing
                remote.note(f"{now.left_s:5.0f} s left  {now.accepted} accepted  {now.finished} finished  {now.doing}")

        yield tell
        return
    region = Region(sys.stderr)
    try:
        yield lambda now: region.draw([_drawn(now, options)])
    finally:
        region.draw([])
        region.leave()


def _drawn(now: Progress, options: Options) -> Line:
    done = 1 - now.left_s / options.seconds
    counts = f"  {now.finished:,} of {now.accepted:,} runs ended, {now.hit} faults  "
    return [*bar(done, 20, "yellow"), (counts, ""), (now.doing, "dim" if now.calm else "red")]


# -- when it is over


def _lines(card: Scorecard) -> Iterator[Line]:
    yield [("chaos ", "bold"), (card.fleet, "bold"), (f"  seed {card.seed}", "dim")]
    hit = ", ".join(f"{name} {count}" if count > 1 else name for name, count in sorted(card.faults.items())) or "none"
    yield [("  faults     ", "dim"), (f"{sum(card.faults.values())}: {hit}", "")]
    yield [("  accepted   ", "dim"), (f"{card.accepted:,}", "")]
    yield [("  finished   ", "dim"), (f"{card.finished:,}", "" if card.finished == card.accepted else "red")]
    for name, count in (("lost", card.lost), ("stale", card.stale_commits), ("stuck", card.stuck)):
        yield [(f"  {name:<11}", "dim"), (f"{count:,}", "red" if count else "green")]
    yield [("  duplicates ", "dim"), (f"{card.duplicates:,} executions did not count, as they may", "")]
    for name, times in card.failover_ms.items():
        if times.count:
            said = f"p50 {_ms(times.p50)}, p99 {_ms(times.p99)}, max {_ms(times.max)}, of {times.count}"
            yield [(f"  {name:<11}", "dim"), (f"{said}: {FAILOVER[name]}", "")]
    if card.unanswered:
        said = ", ".join(f"{name} {count:,}" for name, count in sorted(card.unanswered.items()))
        yield [("  unanswered ", "dim"), (f"calls that clients made again: {said}", "")]
    for name, codes in card.ended_by_themselves.items():
        yield [("  ended      ", "dim"), (f"{name} by itself, with {', '.join(map(str, codes))}", "yellow")]
    for reason, names in _by_reason(card).items():
        yield [("  left out   ", "dim"), (f"{', '.join(names)}: {reason}", "dim")]
    for text in card.wrong[:SHOWN]:
        yield [("  ", ""), (text, "red")]
    if len(card.wrong) > SHOWN:
        yield [(f"  and {len(card.wrong) - SHOWN} more: --json tells all", "red")]
    if card.evidence:
        yield [("  evidence   ", "dim"), (f"{card.evidence}; the same again: --seed {card.seed}", "")]


def _by_reason(card: Scorecard) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, reason in card.left_out.items():
        found.setdefault(reason, []).append(name)
    return found


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f} ms" if value < 10_000 else f"{value / 1000:.1f} s"


def _all_faults() -> Iterator[Line]:
    for name, each in faults.ALL.items():
        shortest, longest = each.kind.shortest_s, each.kind.longest_s
        lasts = f" for {shortest:g} to {longest:g} s" if longest > faults.MOMENT[1] else ""
        yield [(f"{name:<16}", "bold"), (f"{each.text}{lasts}", "")]
