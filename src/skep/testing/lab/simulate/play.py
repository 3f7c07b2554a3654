"""Who decides: a policy with its predictions, and how it meets a trace."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np

from skep.engine.protocol import Load
from skep.flow.plan import order_ms
from skep.router.look import Costs, Look, Policy
from skep.router.policies import POLICIES
from skep.router.predictor import Predictor
from skep.router.router import Router
from skep.router.settings import RouterSettings
from skep.router.wanted import Kind, Wanted
from skep.testing.lab.simulate.fleetfile import SimulatedNode
from skep.testing.lab.simulate.measure import Measured
from skep.testing.lab.simulate.oracle import Oracle
from skep.testing.lab.simulate.simulation import Simulation, Span
from skep.testing.lab.simulate.trace import Arriving, Trace
from skep.testing.lab.simulate.work import Work

PERFECT, LEARNED, ESTIMATES, NOTHING = "perfect", "learned", "estimates", ""
"""Where predictions come from: the truth; what was seen in earlier runs; what authors expect; or there are none."""

BLIND: Final = frozenset(
    {"round-robin", "weighted", "least-loaded", "power-of-two", "consistent-hash", "specialised", "random"}
)
"""Policies that look at no predictions. They take tasks in the order in which they became ready, as a plain queue does."""


def at_random(look: Look) -> Costs:
    """Any node that has room."""
    return Costs(look.chance.random(len(look)))


OWN: Final[Mapping[str, Policy]] = {"random": at_random}
"""Policies that are only here, to compare with."""
NAMES: Final = (*POLICIES, *OWN)


class Player(NamedTuple):
    """A policy, and what it knows beforehand."""

    policy: str
    predictions: str = NOTHING
    learn_runs: int = 0
    """`learned`: from so many earlier runs of the same trace, with other noise."""
    settings: RouterSettings = RouterSettings()
    cost_sensitive: bool = False

    @property
    def name(self) -> str:
        """`hybrid, learned from 3 earlier runs`."""
        if self.predictions == LEARNED:
            return f"{self.policy}, learned from {self.learn_runs} earlier run{'s'[: self.learn_runs - 1]}"
        return f"{self.policy}, {self.predictions}" if self.predictions else self.policy


class Played(NamedTuple):
    """One trace under one player."""

    measured: Measured
    spans: Sequence[Span]


def play(
    player: Player,
    nodes: Sequence[SimulatedNode],
    trace: Trace,
    *,
    earlier: Sequence[Trace] = (),
    seed: int = 0,
    pass_ms: int = 0,
    keep: bool = False,
    tell: Callable[[int], None] | None = None,
) -> Played:
    """Lets the trace happen; before that, for a player who learns, what happened `earlier`, each on a fleet of its own."""
    predictor = Oracle(nodes) if player.predictions == PERFECT else None
    settings = msgspec.structs.replace(player.settings, policy=player.policy)
    router = Router(settings, predictor=predictor, policies=OWN, chance=np.random.default_rng(seed))
    for before in earlier if player.predictions == LEARNED else ():
        Simulation(nodes, before, router, Offers(player, router, predictor), pass_ms=pass_ms, tell=tell).run()
    simulation = Simulation(nodes, trace, router, Offers(player, router, predictor), pass_ms=pass_ms, keep=keep, tell=tell)
    return Played(simulation.run(), simulation.spans or ())


class Offers:
    """How runs are handed to the engine and the router: ranks and kinds, by what the player knows."""

    def __init__(self, player: Player, router: Router, oracle: Oracle | None) -> None:
        self._player = player
        self._router = router
        self._oracle = oracle
        self._wanted: dict[Work, list[Wanted]] = {}

    def __call__(self, arriving: Arriving) -> tuple[Load, Sequence[Wanted]]:
        work = arriving.work
        own = bool(self._oracle) and bool(arriving.noise)
        wanted = self._wanted.get(work)
        if wanted is None or own:
            wanted = self._asked(work, f"{arriving.id}/" if own else "")
            if not own:
                self._wanted[work] = wanted
        if self._oracle is not None:
            for one, ms in zip(wanted, arriving.true_ms().tolist(), strict=True):
                self._oracle.tell(one.kind, ms)
        shape = work.plan.shape
        shape = msgspec.structs.replace(shape, order_ms=self._order_ms(work, wanted))
        load = Load(
            run=arriving.id,
            namespace=work.plan.spec.namespace,
            shape=shape,
            first=0,
            count=shape.size,
            read_ms=0,
            accepted_ms=0,
        )
        return load, wanted

    def _asked(self, work: Work, prefix: str) -> list[Wanted]:
        """What is asked of the router for each step."""
        said = self._player.predictions == ESTIMATES
        spec = work.plan.spec
        by_base: list[Wanted] = []
        for base, (task, plan) in enumerate(zip(spec.tasks, work.plan.tasks, strict=True)):
            estimate_ms = task.estimated_ms if said else 0
            kind = Kind(work.kind_name(base), task.type, task.executor, 0, estimate_ms)
            by_base.append(Wanted(plan.wanted, kind, cost_sensitive=self._player.cost_sensitive, due_ms=plan.deadline_ms))
        if not prefix:
            return [by_base[base] for base in work.bases]
        kinds = [by_base[base].kind._replace(name=f"{prefix}{work.step_name(step)}") for step, base in enumerate(work.bases)]
        return [by_base[base]._replace(kind=kind) for base, kind in zip(work.bases, kinds, strict=True)]

    # -- ranks

    def _order_ms(self, work: Work, wanted: Sequence[Wanted]) -> list[int]:
        """Priority first, then the longest way to the end by what is predicted, where anything is."""
        expected = None if self._player.policy in BLIND else self._expected_ms(work, wanted)
        by_base = [0] * len(work.plan.tasks) if expected is None else expected[: len(work.plan.tasks)]
        for parent, first in work.first.items():
            if expected is not None and work.children[parent]:
                by_base[parent] = expected[first]
        return order_ms(work.plan, by_base, 0)

    def _expected_ms(self, work: Work, wanted: Sequence[Wanted]) -> list[int] | None:
        """Of each step the predicted duration, averaged over the nodes; None: nothing is known of any."""
        router, found = self._router, list[float | None]()
        predictor: Predictor = router.predictor
        known: dict[Kind, float | None] = {}
        for step, one in enumerate(wanted):
            if step in work.alone:
                found.append(0.0)
                continue
            if one.kind not in known:
                prediction = predictor.predict(one.kind, router.fleet) if len(router.fleet) else None
                able = router.fleet.able(one.requirement)
                known[one.kind] = (
                    float(prediction.median_s[able].mean()) * 1000 if prediction is not None and able.any() else None
                )
            found.append(known[one.kind])
        told = [ms for ms in found if ms is not None]
        if not any(told):
            return None
        typical = float(np.median(told))
        return [round(typical if ms is None else ms) for ms in found]
