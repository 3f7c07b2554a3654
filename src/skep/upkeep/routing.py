"""Routing: the router of an engine, from the pass on in which there is more than one node to choose from.

With one node there is nothing to choose, and NumPy is not loaded. What runs is told to the router once, by whoever knows first:
the place loop when the engine has granted it, or the recorded event, which is all that is known of what an earlier engine, or
another server, has granted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from skep.model.node import LiveNode, Requirement
from skep.model.views import CircuitView
from skep.router.fit import room
from skep.router.settings import RouterSettings
from skep.router.wanted import Choice, Kind, Wanted

if TYPE_CHECKING:
    from skep.router.explain import Explanation
    from skep.router.router import Router

log = logging.getLogger(__name__)

MOST_RUNNING: Final = 500_000
"""More attempts cannot be under way; some of these were never told to have ended."""


class Attempt(NamedTuple):
    """What names an attempt."""

    run: str
    task: int
    number: int


class Running(NamedTuple):
    """Where an attempt runs."""

    node: str
    kind: Kind
    since_ms: int


class Routing:
    """The one router, and what it was told."""

    def __init__(self, policies: Callable[[], Mapping[str, Any]] = dict) -> None:
        """`policies`: those beside Skep's, by name."""
        self._policies = policies
        self.router: Router | None = None
        self.running: dict[Attempt, Running] = {}
        self.on_made: Callable[[], None] = lambda: None
        """Called when there is a router, which knows nothing yet."""
        self.on_choose: Callable[[Router, Sequence[Wanted], int], None] = lambda router, wanted, now_ms: None
        """Called before each choice, with all that are to be chosen for."""
        self._settings = RouterSettings()

    @property
    def settings(self) -> RouterSettings:
        return self._settings

    @settings.setter
    def settings(self, settings: RouterSettings) -> None:
        self._settings = settings
        if self.router is not None:
            self.router.settings = settings

    def choose(self, wanted: Sequence[Wanted], nodes: Sequence[LiveNode], now_ms: int) -> list[Choice]:
        """A choice for each, in the order in which they are offered."""
        router = self.router or self.make()
        router.sync(nodes)
        self.on_choose(router, wanted, now_ms)
        return router.route(wanted, now_ms)

    def explained(self, wanted: Wanted, nodes: Sequence[LiveNode], now_ms: int, most: int) -> Explanation | None:
        """Where a task would go now, with up to so many nodes that it could go to. None: there is no router."""
        if self.router is None:
            return None
        self.router.sync([node for node in nodes if not node.coming])
        return self.router.explain(wanted, now_ms, most)

    def shut(self, kind: Kind, now_ms: int) -> list[str]:
        """Nodes that get no task of this kind now: it kept failing there."""
        barred = self.router.breaker.barred(kind.type, now_ms) if self.router is not None else {}
        return [node for node, is_shut in barred.items() if is_shut]

    def circuits(self) -> dict[str, list[CircuitView]]:
        """By node, the types of tasks with which it is not trusted."""
        found: dict[str, list[CircuitView]] = {}
        for (node, kind), one in (self.router.breaker.circuits() if self.router is not None else {}).items():
            if one.slow or one.state != "closed":
                view = CircuitView(type=kind, state=one.state, slow=one.slow, why=one.why, since_ms=one.since_ms)
                found.setdefault(node, []).append(view)
        return found

    def rooms(self, wanted: Sequence[Requirement], nodes: Sequence[LiveNode]) -> list[int | None]:
        """For how many attempts of each of these there is room now, as if there were nothing else; None: no node ever has."""
        if len(nodes) < 2:
            return [room(one, nodes) for one in wanted]
        router = self.router or self.make()
        router.sync(nodes)
        fleet = router.fleet
        found: list[int | None] = []
        for one in wanted:
            able = fleet.able(one)
            fits = fleet.space(one.takes()).room[able & fleet.open]
            found.append(int(fits.sum(where=fits > 0)) if able.any() else None)
        return found

    def expected_s(self, kind: Kind, wanted: Requirement) -> float | None:
        """How long a task of this kind is expected to run, averaged over the nodes that can run it; None: nothing is known."""
        from skep.router.predictor import sound  # noqa: PLC0415  as below

        if self.router is None:
            return None
        fleet = self.router.fleet
        known, able = sound(self.router.predictor.predict(kind, fleet), fleet), fleet.able(wanted)
        return float(known.median_s[able].mean()) if known is not None and able.any() else None

    def make(self) -> Router:
        """The router, made if there is none."""
        if self.router is not None:
            return self.router
        from skep.router.router import Router  # noqa: PLC0415  it needs NumPy, and one node needs no router

        router = self.router = Router(self._settings, policies=self._policies(), failed=_failed)
        self.on_made()
        return router

    def forget(self) -> None:
        """Somebody else places from here on, and knows more."""
        self.router = None
        self.running.clear()

    # -- what runs

    def began(self, attempt: Attempt, node: str, kind: Kind, now_ms: int) -> None:
        """The engine has granted it. Harmless when repeated."""
        if self.router is None or attempt in self.running:
            return
        if len(self.running) >= MOST_RUNNING:
            self.running.clear()
        self.running[attempt] = Running(node, kind, now_ms)
        self.router.began(attempt, node, kind, now_ms)

    def ended(self, attempt: Attempt, result: str, ran_ms: int, now_ms: int) -> None:
        """It is over; see `Router.ended`. Of one that is not known nothing is learned."""
        running = self.running.pop(attempt, None)
        if self.router is not None and running is not None:
            self.router.ended(attempt, running.node, running.kind, result, ran_ms or now_ms - running.since_ms, now_ms)


def _failed(policy: str, what: str) -> None:
    log.warning("the placement policy %s does not work, and the least loaded node is taken: %s", policy, what)
