"""Several policies meet the same: each workflow alone on the fleet, or all of them together as they arrive."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

import msgspec

from skep.errors import RefusedError
from skep.router.fit import unroutable
from skep.router.settings import RouterSettings
from skep.testing.lab.simulate.bound import Bounds
from skep.testing.lab.simulate.fleetfile import Arrivals, FleetFile
from skep.testing.lab.simulate.heft import Heft
from skep.testing.lab.simulate.measure import Measured
from skep.testing.lab.simulate.play import BLIND, LEARNED, NOTHING, PERFECT, Player, play
from skep.testing.lab.simulate.simulation import Span
from skep.testing.lab.simulate.trace import Trace, trace_of
from skep.testing.lab.simulate.work import Work, kind_key, took_ms

TOGETHER: Final = "all together"
"""In the place of a workflow: all of them, as they arrive."""
HEFT_MOST: Final = 20_000_000
"""Steps times slots up to which HEFT is computed: it looks at every slot for every step."""
WIDE: Final = 1_000
"""With more nodes than that, what happens within `WIDE_MS` is looked at together."""
WIDE_MS: Final = 50


class Options(NamedTuple):
    """How it is played."""

    policies: Sequence[str]
    predictions: Sequence[str] = (PERFECT, LEARNED)
    seed: int = 0
    noise: float = 0.0
    """0.3: each duration is between 70 % and 130 % of the true one, as the seed decides."""
    learn_runs: int = 3
    arrivals: Arrivals = Arrivals()
    cost_sensitive: bool = False
    settings: RouterSettings = RouterSettings()
    keep: bool = False
    """All attempts, for a picture: of the first policy that predicts, with what it learned, and of round robin."""


class Result(msgspec.Struct, kw_only=True):
    """One row: a policy and a workflow. The ratios are of makespans; below 1 is faster."""

    fleet: str
    policy: str
    predictions: str
    player: str
    """Both in words."""
    workflow: str
    measured: Measured
    to_heft: float | None = None
    """None: HEFT was not computed, for it would take too long."""
    to_round_robin: float | None = None
    to_bound: float = 0.0


class Baseline(msgspec.Struct, kw_only=True):
    """What a workflow is compared with, on one fleet."""

    fleet: str
    workflow: str
    steps: int
    work_ms: int
    """At speed 1."""
    bound_ms: int
    heft_ms: int | None


class Mean(msgspec.Struct, kw_only=True):
    """A policy over all workflows. Ratios are geometric means."""

    fleet: str
    policy: str
    predictions: str
    player: str
    to_heft: float | None
    to_round_robin: float | None
    to_bound: float
    utilisation: float
    cost: float
    """The sum."""


class Report(msgspec.Struct, kw_only=True):
    """All that `--json` prints."""

    seed: int
    noise: float
    learn_runs: int
    arrivals: str
    fleets: dict[str, int]
    """How many nodes each has."""
    assumed: list[str]
    baselines: list[Baseline]
    results: list[Result]
    means: list[Mean]


class Picture(NamedTuple):
    """The attempts of one simulation."""

    fleet: str
    player: str
    workflow: str
    works: Sequence[Work]
    """Run n was one of these: the one at n modulo their number."""
    makespan_ms: int
    spans: Sequence[Span]


Tell = Callable[[str, int, int], None]
"""Who plays what; how many attempts of how many there were so far."""


def compare(
    fleets: Sequence[FleetFile], works: Sequence[Work], options: Options, tell: Tell | None = None
) -> tuple[Report, list[Picture]]:
    """Lets every policy meet every trace on every fleet. Raises RefusedError when a task can run on no node."""
    players = list(players_of(options))
    scenes = [scene for fleet in fleets for scene in scenes_of(fleet, works, options)]
    for fleet in fleets:
        check(fleet, works)
    report = Report(
        seed=options.seed,
        noise=options.noise,
        learn_runs=options.learn_runs,
        arrivals=options.arrivals.process or "alone",
        fleets={fleet.name: len(fleet.nodes) for fleet in fleets},
        assumed=[f"{work.name}: {text}" for work in works for text in work.assumed],
        baselines=[],
        results=[],
        means=[],
    )
    pictures: list[Picture] = []
    drawn = drawn_of(players) if options.keep else []
    done, whole = 0, sum(scene.steps * (1 + len(player_runs(player, options))) for scene in scenes for player in players)
    for scene in scenes:
        report.baselines.append(scene.baseline())
        rows = []
        for player in players:
            earlier = [scene.again(number) for number in player_runs(player, options)]

            def heard(count: int, player: Player = player, done: int = done, scene: Scene = scene) -> None:
                if tell is not None:
                    tell(f"{player.name}: {scene.workflow}", done + count, whole)

            heard(0)
            played = play(
                player,
                scene.fleet.nodes,
                scene.trace,
                earlier=earlier,
                seed=options.seed,
                pass_ms=WIDE_MS if len(scene.fleet.nodes) > WIDE else 0,
                keep=player in drawn,
                tell=heard,
            )
            done += scene.steps * (1 + len(earlier))
            rows.append(_row(scene, player, played.measured, report.baselines[-1]))
            if player in drawn:
                told = (scene.fleet.name, player.name, scene.workflow, scene.works)
                pictures.append(Picture(*told, played.measured.makespan_ms, played.spans))
        plain = next((row.measured.makespan_ms for row in rows if row.policy == "round-robin"), None)
        for row in rows:
            row.to_round_robin = row.measured.makespan_ms / plain if plain else None
        report.results += rows
    report.means = [_mean(fleet.name, player, report.results) for fleet in fleets for player in players]
    return report, pictures


def players_of(options: Options) -> Iterator[Player]:
    """Every policy, and those that look at predictions once for each way to have some."""
    for policy in options.policies:
        for predictions in (NOTHING,) if policy in BLIND else options.predictions:
            learn_runs = options.learn_runs if predictions == LEARNED else 0
            yield Player(policy, predictions, learn_runs, options.settings, options.cost_sensitive)


def drawn_of(players: Sequence[Player]) -> list[Player]:
    """Two of them, to be looked at side by side."""
    seeing = [player for player in players if player.policy not in BLIND]
    first = next((player for player in seeing if player.policy == "hybrid" and player.predictions != PERFECT), None)
    chosen = [first or (seeing or list(players))[0], next(player for player in reversed(players) if player.policy in BLIND)]
    plain = [player for player in players if player.policy == "round-robin"]
    return [chosen[0], (plain or chosen[1:])[0]]


def player_runs(player: Player, options: Options) -> range:
    """The numbers of the earlier runs from which a player learns."""
    return range(1, options.learn_runs + 1) if player.predictions == LEARNED else range(0)


def check(fleet: FleetFile, works: Sequence[Work]) -> None:
    """Refuses work that no node can do: it would wait for ever."""
    infos = [node.info for node in {kind_key(node): node for node in fleet.nodes}.values()]
    for work in works:
        for at, task in enumerate(work.plan.tasks):
            if why := unroutable(task.wanted, infos):
                name = work.plan.names[at]
                raise RefusedError(f"{work.name}: no node of {fleet.name} can run `{name}`: {why}; add one to the fleet file")


# -- what is played


class Scene(NamedTuple):
    """A trace on a fleet."""

    fleet: FleetFile
    workflow: str
    works: Sequence[Work]
    trace: Trace
    options: Options

    @property
    def steps(self) -> int:
        return sum(run.work.size for run in self.trace.runs)

    def again(self, number: int) -> Trace:
        """An earlier time at which the same work came, with other noise and other arrivals."""
        return _trace(self.fleet, self.works, self.options, seed=self.options.seed * 1_000 + number)

    def baseline(self) -> Baseline:
        """What is possible at best, and with a plan made beforehand."""
        runs = self.trace.runs
        return Baseline(
            fleet=self.fleet.name,
            workflow=self.workflow,
            steps=self.steps,
            work_ms=round(sum(float(run.true_ms().sum()) for run in runs)),
            bound_ms=Bounds(self.fleet.nodes).lower_bound_ms(runs),
            heft_ms=planned_ms(self.fleet, self.trace),
        )


def scenes_of(fleet: FleetFile, works: Sequence[Work], options: Options) -> Iterator[Scene]:
    """All workflows as they arrive, or each alone."""
    groups = {TOGETHER: list(works)} if options.arrivals.process else {work.name: [work] for work in works}
    for name, group in groups.items():
        yield Scene(fleet, name, group, _trace(fleet, group, options, seed=options.seed), options)


def _trace(fleet: FleetFile, works: Sequence[Work], options: Options, seed: int) -> Trace:
    arrivals = options.arrivals if options.arrivals.process else Arrivals("at-once")
    speed = sum(max(node.speeds.values()) * node.info.slots for node in fleet.nodes)
    work_ms = sum(float(work.step_ms.sum()) for work in works) / speed
    return trace_of(works, fleet, arrivals, seed=seed, noise=options.noise, work_ms=work_ms)


def planned_ms(fleet: FleetFile, trace: Trace) -> int | None:
    """The makespan of HEFT's plan. It knows every duration, noise included; runs are planned one after the other as they
    arrive, into the gaps of those before; no node is lost."""
    slots = [node for node in fleet.nodes for _ in range(node.info.slots)]
    if sum(run.work.size for run in trace.runs) * len(slots) > HEFT_MOST:
        return None
    kinds = {kind_key(node): node for node in fleet.nodes}
    of_slot = [kind_key(node) for node in slots]
    heft, last = Heft(len(slots)), 0.0
    for run in trace.runs:
        work, true = run.work, run.true_ms().tolist()
        durations: list[Sequence[float | None]] = []
        for step, base in enumerate(work.bases):
            type = work.type(base)
            each = {
                key: took_ms(true[step], node.speed(type)) if work.able(base, node.info) else None
                for key, node in kinds.items()
            }
            durations.append([each[key] for key in of_slot])
        alone = {step: float(took_ms(true[step], 1.0)) for step in work.alone}
        last = max([last, *(one.end for one in heft.plan(work.needs, durations, alone=alone, from_=run.at_ms))])
    return round(last) - trace.runs[0].at_ms


# -- what came of it


def _row(scene: Scene, player: Player, measured: Measured, baseline: Baseline) -> Result:
    makespan = measured.makespan_ms
    return Result(
        fleet=scene.fleet.name,
        policy=player.policy,
        predictions=player.predictions,
        player=player.name,
        workflow=scene.workflow,
        measured=measured,
        to_heft=makespan / baseline.heft_ms if baseline.heft_ms else None,
        to_bound=makespan / max(baseline.bound_ms, 1),
    )


def _mean(fleet: str, player: Player, results: Sequence[Result]) -> Mean:
    rows = [row for row in results if (row.fleet, row.policy, row.predictions) == (fleet, player.policy, player.predictions)]
    return Mean(
        fleet=fleet,
        policy=player.policy,
        predictions=player.predictions,
        player=player.name,
        to_heft=geometric_mean([row.to_heft for row in rows]),
        to_round_robin=geometric_mean([row.to_round_robin for row in rows]),
        to_bound=geometric_mean([row.to_bound for row in rows]) or 0.0,
        utilisation=sum(row.measured.utilisation for row in rows) / len(rows),
        cost=sum(row.measured.cost for row in rows),
    )


def geometric_mean(values: Sequence[float | None]) -> float | None:
    """None when one of them is not known."""
    known = [value for value in values if value]
    return math.exp(sum(map(math.log, known)) / len(known)) if known and len(known) == len(values) else None
