"""The router as a library: endpoints of whatever kind, and where the next request should go.

Nothing here waits, or reads a clock: `clock` gives milliseconds. Calls are short. Tasks of one event loop may share a Balancer
as it is; for several threads hand in a lock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from itertools import count
from typing import Any, Final

import msgspec
import numpy as np

from skep.errors import SkepError
from skep.model.node import LiveNode, NodeInfo, Requirement
from skep.router.breaker import CLOSED
from skep.router.look import Failed, Policy
from skep.router.predictor import Predictor
from skep.router.router import Router
from skep.router.settings import RouterSettings
from skep.router.wanted import Kind, Wanted

EXECUTOR: Final = "request"
PRIORITY: Final = 5
"""Of requests that say nothing; from this up, speed counts more than money."""


class NoEndpointError(SkepError):
    """No endpoint can take the request; the message says why."""


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Something that takes requests: a swarm, a server, a worker."""

    id: str
    address: str = ""
    region: str = ""
    weight: float = 1.0
    """Its share under the `weighted` policy."""
    cost_per_hour: float = 0.0
    capabilities: tuple[str, ...] = ("cpu",)
    slots: int = 100
    """Requests that it works on at once."""
    cpus: int = 1

    def __post_init__(self) -> None:
        if not self.id:
            raise ValueError("id: expected a name")
        if not self.weight > 0:
            raise ValueError(f"weight: expected more than 0, found {self.weight}")
        if not 0 <= self.cost_per_hour < float("inf"):
            raise ValueError(f"cost_per_hour: expected a number of 0 or more, found {self.cost_per_hour}")
        if self.slots < 0 or self.cpus < 1:
            raise ValueError(f"expected slots of 0 or more and cpus of 1 or more, found {self.slots} and {self.cpus}")


class Needs(msgspec.Struct, frozen=True, kw_only=True):
    """What a request is like. Everything has a default."""

    kind: str = "request"
    """Requests of one kind are expected to take equally long; what is learned is learned by kind."""
    type: str = ""
    requires: tuple[str, ...] = ()
    """Capabilities."""
    requires_gpu: bool = False
    cpu_intensive: bool = False
    """It keeps a core busy: no more of these go to an endpoint than it has `cpus`."""
    cost_sensitive: bool = False
    """The cheapest endpoint that is good enough, rather than the fastest."""
    priority: int = PRIORITY
    """1 to 10. One of 8 or more is never routed by cost."""
    region: str = ""
    """Only there."""
    affinity: str = ""
    """Requests of one key go to one endpoint, as long as it is there and has room."""
    prefer: tuple[str, ...] = ()
    """Endpoints by id, or capabilities, the first choice first."""
    due_s: float = 0.0
    """How soon it should be done; 0: whenever."""
    estimate_s: float = 0.0
    """How long it may take, where nothing was learned yet."""
    policy: str = ""


class Metrics(msgspec.Struct, frozen=True, kw_only=True):
    """What one endpoint did so far."""

    id: str
    region: str
    in_flight: int
    routed: int
    succeeded: int
    failed: int
    mean_s: float
    """Of those that succeeded, newer ones counting more."""
    utilisation: float
    """Share of its slots in use."""
    cost: float
    """Of the time that requests took there."""
    breaker: dict[str, str]
    """Type → `open` or `half-open`; types that are not named are `closed`."""


class _State:
    __slots__ = ("cost", "endpoint", "failed", "flying", "info", "live", "mean_s", "routed", "succeeded")

    def __init__(self, endpoint: Endpoint, incarnation: int) -> None:
        self.endpoint = endpoint
        capabilities = tuple(dict.fromkeys(endpoint.capabilities))
        self.info = NodeInfo(
            endpoint.id,
            incarnation=incarnation,
            capabilities=capabilities,
            executors=(EXECUTOR,),
            slots=endpoint.slots,
            cpu_milli=1_000 * endpoint.cpus,
            region=endpoint.region,
            cost_per_hour=endpoint.cost_per_hour,
            weight=endpoint.weight,
        )
        self.flying: dict[int, tuple[Wanted, int]] = {}
        self.routed = self.succeeded = self.failed = 0
        self.mean_s = self.cost = 0.0
        self.live: LiveNode | None = None

    def seen(self) -> LiveNode:
        """As the router sees it; the same object, as long as nothing changed."""
        if self.live is None:
            cpu = sum(wanted.requirement.cpu_milli for wanted, _ in self.flying.values())
            free = {"slots": self.info.slots - len(self.flying), "cpu": self.info.cpu_milli - cpu, "memory": 0, "vram": 0}
            self.live = LiveNode(self.info, free, len(self.flying), draining=False)
        return self.live


class Balancer:
    """Endpoints, and where the next request should go.

    `route` chooses and counts the request as in flight until `report` says how it went. What it learns is by kind of request;
    endpoints that fail where others do not are left alone for a while, and tried again with one request.
    """

    def __init__(
        self,
        clock: Callable[[], int],
        settings: RouterSettings | None = None,
        *,
        lock: AbstractContextManager[Any] | None = None,
        predictor: Predictor | None = None,
        policies: Mapping[str, Policy] | None = None,
        chance: np.random.Generator | None = None,
        failed: Failed | None = None,
    ) -> None:
        self._clock = clock
        self._lock = lock if lock is not None else nullcontext()
        settings = msgspec.structs.replace(settings or RouterSettings(), hold=False)  # whoever asks wants an answer now
        self._router = Router(settings, predictor=predictor, policies=policies, chance=chance, failed=failed)
        self._states: dict[str, _State] = {}
        self._numbers = count(1)
        self._incarnations = count(1)

    def register(self, endpoint: Endpoint) -> None:
        """Takes an endpoint in; one that is known under this id is changed, and keeps what is in flight."""
        with self._lock:
            old = self._states.get(endpoint.id)
            new = self._states[endpoint.id] = _State(endpoint, next(self._incarnations))
            if old is not None:
                new.flying, new.routed, new.succeeded = old.flying, old.routed, old.succeeded
                new.failed, new.mean_s, new.cost = old.failed, old.mean_s, old.cost

    def deregister(self, endpoint: str) -> None:
        """Takes it out; harmless when it is not there. What is in flight there may still be reported."""
        with self._lock:
            self._states.pop(endpoint, None)

    def route(self, needs: Needs | None = None) -> Endpoint:
        """Where the request should go. Raises NoEndpointError."""
        wanted = _wanted(needs or Needs())
        with self._lock:
            now_ms = self._clock()
            states = list(self._states.values())
            self._router.sync([state.seen() for state in states])
            choice = self._router.route([wanted], now_ms)[0]
            node = choice.node
            if not node:
                raise NoEndpointError(self._why_not(wanted, choice.why))
            state = self._states[node]
            number = next(self._numbers)
            state.flying[number] = (wanted, now_ms)
            state.live = None
            state.routed += 1
            self._router.began((node, number), node, wanted.kind, now_ms)
            return state.endpoint

    def report(self, endpoint: Endpoint | str, ok: bool, seconds: float | None = None, *, kind: str = "") -> None:
        """How a request went: the oldest one in flight there, of that kind if it is named. Without `seconds` the time since it
        was routed counts."""
        with self._lock:
            state = self._states.get(endpoint if isinstance(endpoint, str) else endpoint.id)
            if state is None:
                return
            numbers = (number for number, (wanted, _) in state.flying.items() if not kind or wanted.kind.name == kind)
            number = next(numbers, 0)
            if not number:
                return
            now_ms = self._clock()
            wanted, since_ms = state.flying.pop(number)
            state.live = None
            ran_s = max(now_ms - since_ms, 0) / 1000 if seconds is None else max(seconds, 0.0)
            state.succeeded += ok
            state.failed += not ok
            state.cost += ran_s / 3600 * state.endpoint.cost_per_hour
            if ok:
                state.mean_s += (ran_s - state.mean_s) / min(state.succeeded, 100)
            result = "succeeded" if ok else "failed"
            node = state.endpoint.id
            self._router.ended((node, number), node, wanted.kind, result, round(ran_s * 1000), now_ms)

    def metrics(self) -> list[Metrics]:
        """Of every endpoint."""
        with self._lock:
            circuits = self._router.breaker.circuits()
            return [
                Metrics(
                    id=name,
                    region=state.endpoint.region,
                    in_flight=len(state.flying),
                    routed=state.routed,
                    succeeded=state.succeeded,
                    failed=state.failed,
                    mean_s=state.mean_s,
                    utilisation=len(state.flying) / max(state.endpoint.slots, 1),
                    cost=state.cost,
                    breaker={
                        type_: circuit.state
                        for (node, type_), circuit in circuits.items()
                        if node == name and circuit.state != CLOSED
                    },
                )
                for name, state in self._states.items()
            ]

    def _why_not(self, wanted: Wanted, why: str) -> str:
        if not self._states:
            return "there are no endpoints; register one"
        if why == "full":
            return "all endpoints that could take it are full; report requests that are done, or register more"
        out = "; ".join(f"{one.node} {one.why}" for one in self._router.explain(wanted, self._clock(), 5).ruled_out)
        return f"no endpoint can take it: {out}"


def _wanted(needs: Needs) -> Wanted:
    requires = (*needs.requires, "gpu") if needs.requires_gpu and "gpu" not in needs.requires else needs.requires
    return Wanted(
        Requirement(EXECUTOR, requires, 1_000 if needs.cpu_intensive else 0),
        Kind(needs.kind, needs.type, EXECUTOR, 0, round(needs.estimate_s * 1000)),
        needs.policy,
        needs.prefer,
        needs.affinity,
        cost_sensitive=needs.cost_sensitive and needs.priority < 8,
        due_ms=round(needs.due_s * 1000),
        region=needs.region,
    )
