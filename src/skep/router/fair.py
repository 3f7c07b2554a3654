"""Fair shares: in which order the tasks of several namespaces are offered to nodes. Pure.

A free slot goes to the namespace that holds the fewest slots for its weight. That is start-time fair queueing (Goyal, Vin and
Cheng, 1996) with slots in place of a link: a task's start tag is what its namespace holds before it, divided by the weight, and
the lowest tag goes first. Who has nothing to start has no tag: its share goes to the others, and nothing is owed to it later.

Tags alone would go by whole slots: where a share is less than a slot, or not a whole number of them, some would always round
down to nothing. So each namespace that waits has a lag, as in weighted fair queueing (Parekh and Gallager, 1993): slots times
seconds that it held beyond its exact share. A tag moves by the lag, by one task at the most.

Inside of a namespace the lowest score goes first: priority, age and rank are in it, so that what is not urgent has its turn.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

LAG_MS: Final = 1_000
"""Who was short of a slot for so long is treated as if it held one less."""


class Offer(NamedTuple):
    """Ready tasks of one requirement class, the best score first."""

    namespace: str
    scores: Sequence[int]
    running: int
    """Slots that all attempts of the namespace hold now."""
    slots: int = 1
    """What each of these tasks takes."""


class FairShare:
    """Hands out rounds. Between them it keeps what each waiting namespace holds, and its lag."""

    def __init__(self) -> None:
        self.weights: Mapping[str, float] = {}
        """Above 0; 1 for whoever is not in here. A namespace of weight 2 gets twice as many slots as one of weight 1."""
        self._lag: dict[str, float] = {}
        self._holds: dict[str, int] = {}
        self._at_ms = 0

    def weight(self, namespace: str) -> float:
        return self.weights.get(namespace, 1.0)

    def round(self, offers: Sequence[Offer], now_ms: int) -> Round:
        """All these tasks in the order in which they are to be offered."""
        self._settle(now_ms)
        self._holds = {offer.namespace: offer.running for offer in offers if offer.scores}
        self._lag = {namespace: self._lag.get(namespace, 0.0) for namespace in self._holds}
        return Round(offers, self._lag, self.weight)

    def started(self, namespace: str, slots: int) -> None:
        """So many slots were given to it since the round began."""
        if namespace in self._holds:
            self._holds[namespace] += slots

    def _settle(self, now_ms: int) -> None:
        """Counts the time since the last round: who held more than its share, and who less."""
        passed_ms, self._at_ms = max(now_ms - self._at_ms, 0), now_ms
        weights = {namespace: self.weight(namespace) for namespace in self._holds}
        level = sum(self._holds.values()) / sum(weights.values()) if weights else 0.0
        for namespace, held in self._holds.items():
            self._lag[namespace] += (held - level * weights[namespace]) * passed_ms / LAG_MS


class Round:
    """Gives (number of the offer, position in it), the first choice first."""

    def __init__(self, offers: Sequence[Offer], lags: Mapping[str, float], weights: Callable[[str], float]) -> None:
        flows: dict[str, _Flow] = {}
        for number, offer in enumerate(offers):
            if offer.scores:
                flow = flows.get(offer.namespace)
                if flow is None:
                    lag, weight = lags.get(offer.namespace, 0.0), weights(offer.namespace)
                    flow = flows[offer.namespace] = _Flow(offer.running, lag, weight)
                flow.add(number, offer)
        self._flows = list(flows.values())
        self._tags = [(*flow.tag(), at) for at, flow in enumerate(self._flows)]
        """Of every flow, with its place; that of the flow whose task was given last is old."""
        heapq.heapify(self._tags)
        self._given = False

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return self

    def __next__(self) -> tuple[int, int]:
        if self._given:
            self._move()
        self._given = bool(self._tags)
        if not self._given:
            raise StopIteration
        return self._flows[self._tags[0][-1]].give()

    def _move(self) -> None:
        """Puts the flow whose task was given last where it belongs now."""
        at = self._tags[0][-1]
        flow = self._flows[at]
        if flow.heap:
            heapq.heapreplace(self._tags, (*flow.tag(), at))
        else:
            heapq.heappop(self._tags)

    def full(self) -> None:
        """No node has room for the task that was given last: it does not count, and the rest of its offer is given no more."""
        self._flows[self._tags[0][-1]].take_back()


class _Flow:
    """A namespace in a round."""

    __slots__ = ("heap", "held", "lag", "last", "most", "weight")

    def __init__(self, held: int, lag: float, weight: float) -> None:
        self.held = held
        self.lag = lag
        self.weight = weight
        self.most = 0
        """Slots of its largest task."""
        self.heap: list[tuple[int, int, int, Offer]] = []
        """The first of each offer that is left: its score, number of the offer, position in it."""
        self.last: tuple[int, Offer]

    def add(self, number: int, offer: Offer) -> None:
        self.most = max(self.most, offer.slots)
        heapq.heappush(self.heap, (offer.scores[0], number, 0, offer))

    def tag(self) -> tuple[float, float, int]:
        """The lowest goes first; on a par, who lags behind most, then the best score."""
        lag = min(max(self.lag, -self.most), self.most)
        return (self.held + lag) / self.weight, self.lag, self.heap[0][0]

    def give(self) -> tuple[int, int]:
        """The best of its tasks: number of the offer, and position."""
        _, number, position, offer = self.heap[0]
        if position + 1 < len(offer.scores):
            heapq.heapreplace(self.heap, (offer.scores[position + 1], number, position + 1, offer))
        else:
            heapq.heappop(self.heap)
        self.held += offer.slots
        self.last = number, offer
        return number, position

    def take_back(self) -> None:
        """The task that was given last did not start, and no other one of its offer will."""
        number, offer = self.last
        self.held -= offer.slots
        self.heap = [entry for entry in self.heap if entry[1] != number]
        heapq.heapify(self.heap)
