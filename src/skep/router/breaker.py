"""The circuit breaker: a node that fails where others do not gets no more tasks of that type, until one that is tried works.

For each node and task type there is a circuit:

    closed ── evidence of failures ──▶ open ── after a while ──▶ half-open ── one task, the canary, works ──▶ closed
                                        ▲                            │
                                        └── the canary fails: twice the while ──┘

Evidence is a running sum (CUSUM): each failure adds how much likelier it is on a broken node than on the others, each success
takes off likewise. So three failures in a row open a circuit where hardly anything fails. Where most nodes are suspect it is
not the nodes, and none is taken out. In the same way a node is noticed that takes twice as long as predicted while others do
not: it is marked slow, which the predictions take into account; one that is much slower is taken out like one that fails.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Final

import msgspec

CLOSED, OPEN, HALF_OPEN = "closed", "open", "half-open"
ENOUGH: Final = 6.0
"""Evidence at which a circuit opens: the logarithm of the odds."""
LEAST_RATE, MOST_RATE = 0.03, 0.5
"""Between these the others' rate of failures counts; above, nobody is to blame."""
FIRST_MS, LONGEST_MS = 10_000, 300_000
"""How long a circuit stays open: the first time, and at most."""
CANARY_MS: Final = 600_000
"""After so long without an end, another canary may be tried."""
SLOW, VERY_SLOW = 1.6, 4.0
"""So many times the predicted time is slow; so much slower on the whole, and the node is taken out."""
LEAST_S: Final = 0.5
"""Less than this beyond the prediction is no slowness, however many times it is: short tasks vary with all that goes on."""
FORGIVEN: Final = 200
"""Ends after which a node that is still as slow is simply like that: the predictions know it by then."""
MOST_CIRCUITS: Final = 100_000

Key = tuple[str, str]
"""Node and task type."""


class Circuit(msgspec.Struct):
    """What is known of one node for one type of task. Plain data."""

    state: str = CLOSED
    since_ms: int = 0
    """When it came to this state."""
    for_ms: int = 0
    """How long it stays open."""
    failing: float = 0.0
    """Evidence that it fails more than others."""
    slowing: float = 0.0
    """Evidence that it is slower than predicted more often than others."""
    slow: bool = False
    slowness: float = 0.0
    """Logarithm of how many times the predicted time things take there, lately."""
    ends: int = 0
    failures: int = 0
    canary: Hashable = None
    """The lease that tries it; True: it was chosen, and nobody told yet that it began."""
    canary_ms: int = 0
    why: str = ""
    """The reason why it opened, or is slow, in words."""


class _Baseline:
    """How often ends of one type are bad, over the fleet: a mean that forgets."""

    __slots__ = ("ends", "failed", "slow")

    def __init__(self) -> None:
        self.ends = 20.0
        self.failed = 0.02 * self.ends
        self.slow = 0.02 * self.ends

    def add(self, failed: bool, slow: bool) -> None:
        for name, value in (("ends", 1.0), ("failed", float(failed)), ("slow", float(slow))):
            setattr(self, name, getattr(self, name) * 0.99 + value)


class Breaker:
    """All circuits. Pure: the time is handed in; a clock that steps back only makes it wait longer, at most once more."""

    def __init__(self) -> None:
        self._circuits: dict[Key, Circuit] = {}
        self._tripped: dict[str, dict[str, Circuit]] = {}
        """Type → node → circuit that is not closed."""
        self._all: dict[str, _Baseline] = {}
        self._types: dict[str, set[str]] = {}
        """Type → nodes that have run it."""
        self._suspects: dict[tuple[str, str], set[str]] = {}
        """(`failing` or `slowing`, type) → nodes on which there is some evidence of it."""

    def circuits(self) -> dict[Key, Circuit]:
        """Every circuit that has something to tell, by node and type."""
        return {key: circuit for key, circuit in self._circuits.items() if circuit.ends or circuit.state != CLOSED}

    def barred(self, type_: str, now_ms: int) -> dict[str, bool]:
        """The nodes that get no task of this type now (True), or only one, as a canary (False)."""
        tripped = self._tripped.get(type_)
        return {node: not self._may_try(circuit, now_ms) for node, circuit in tripped.items()} if tripped else {}

    def _may_try(self, circuit: Circuit, now_ms: int) -> bool:
        if circuit.state == OPEN:
            passed_ms = now_ms - circuit.since_ms
            if passed_ms < 0:
                circuit.since_ms = now_ms  # the clock went back
            elif passed_ms >= circuit.for_ms:
                circuit.state, circuit.since_ms, circuit.canary = HALF_OPEN, now_ms, None
        if circuit.state == HALF_OPEN and circuit.canary is not None and not 0 <= now_ms - circuit.canary_ms < CANARY_MS:
            circuit.canary = None
        return circuit.state == HALF_OPEN and circuit.canary is None

    def try_on(self, node: str, type_: str, now_ms: int) -> None:
        """A task was chosen to be the canary there."""
        circuit = self._tripped.get(type_, {}).get(node)
        if circuit is not None and circuit.state == HALF_OPEN:
            circuit.canary, circuit.canary_ms = True, now_ms

    def began(self, lease: Hashable, node: str, type_: str, now_ms: int) -> None:
        """An attempt began there."""
        circuit = self._tripped.get(type_, {}).get(node)
        if circuit is not None and circuit.state == HALF_OPEN and circuit.canary in (None, True):
            circuit.canary, circuit.canary_ms = lease, now_ms

    def ended(
        self,
        lease: Hashable,
        node: str,
        type_: str,
        ok: bool | None,
        now_ms: int,
        *,
        ran_s: float = 0.0,
        expected_s: float = 0.0,
    ) -> None:
        """An attempt is over: it worked, it failed (timed out, or was lost with its process), or says nothing of the node
        (None: cancelled, snoozed). `expected_s`: how long it was predicted to take there; 0: unknown."""
        circuit = self._circuit((node, type_))
        canary = circuit.state == HALF_OPEN and circuit.canary in (lease, True)
        if canary:
            circuit.canary = None
        if ok is None:
            return
        ratio = ran_s / expected_s if ok and ran_s > 0 and expected_s > 0 else 1.0
        if ratio > 1 and ran_s - expected_s < LEAST_S:
            ratio = 1.0
        baseline = self._all.get(type_) or self._all.setdefault(type_, _Baseline())
        failing = _evidence(not ok, baseline.failed / baseline.ends)
        slowing = _evidence(ratio >= SLOW, baseline.slow / baseline.ends) if ok else 0.0
        baseline.add(not ok, ratio >= SLOW)
        circuit.ends += 1
        circuit.failures += not ok
        circuit.failing = max(circuit.failing + failing, 0.0)
        circuit.slowing = max(circuit.slowing + slowing, 0.0)
        if ok:
            circuit.slowness += (math.log(min(max(ratio, 1e-3), 1e3)) - circuit.slowness) / 4
        self._suspect("failing", (node, type_), circuit.failing)
        self._suspect("slowing", (node, type_), circuit.slowing)
        if circuit.state == HALF_OPEN:
            if canary or not ok:
                self._tried((node, type_), circuit, ok and ratio < VERY_SLOW, now_ms)
        elif circuit.state == CLOSED:
            self._watch((node, type_), circuit, ratio, now_ms)

    def _watch(self, key: Key, circuit: Circuit, ratio: float, now_ms: int) -> None:
        times = math.exp(circuit.slowness)
        if circuit.failing >= ENOUGH and self._stands_out("failing", key[1]):
            self._open(key, circuit, now_ms, f"{circuit.failures} of {circuit.ends} failed, more than elsewhere")
        elif circuit.slowing >= ENOUGH and self._stands_out("slowing", key[1]):
            why = f"takes {times:.1f} times as long as predicted"
            if times >= VERY_SLOW:
                self._open(key, circuit, now_ms, why)
            elif not circuit.slow:
                circuit.slow, circuit.why, circuit.ends, circuit.failures = True, why, 0, 0
        elif circuit.slow and (circuit.ends > FORGIVEN or (circuit.slowing == 0 and circuit.slowness < -0.2)):
            circuit.slow, circuit.why = False, ""  # it is as fast as it was, or has always been like that by now

    def _tried(self, key: Key, circuit: Circuit, works: bool, now_ms: int) -> None:
        if not works:
            self._open(key, circuit, now_ms, circuit.why)
            return
        circuit.state, circuit.since_ms, circuit.for_ms, circuit.why = CLOSED, now_ms, 0, ""
        circuit.failing = circuit.slowing = circuit.slowness = 0.0
        circuit.slow, circuit.ends, circuit.failures, circuit.canary = False, 0, 0, None
        node, type_ = key
        self._tripped.get(type_, {}).pop(node, None)
        for what in ("failing", "slowing"):
            self._suspect(what, key, 0.0)

    def _open(self, key: Key, circuit: Circuit, now_ms: int, why: str) -> None:
        circuit.for_ms = min(max(2 * circuit.for_ms, FIRST_MS), LONGEST_MS)
        circuit.state, circuit.since_ms, circuit.why, circuit.canary = OPEN, now_ms, why, None
        node, type_ = key
        self._tripped.setdefault(type_, {})[node] = circuit

    def _suspect(self, what: str, key: Key, evidence: float) -> None:
        node, type_ = key
        suspects = self._suspects.setdefault((what, type_), set())
        if evidence >= ENOUGH / 3:
            suspects.add(node)
        else:
            suspects.discard(node)

    def _stands_out(self, what: str, type_: str) -> bool:
        """Whether only some of the nodes that run such tasks are suspect. Where most are, or there is only one, it is not the
        nodes."""
        return 2 * len(self._suspects[what, type_]) <= max(len(self._types[type_]), 1)

    def _circuit(self, key: Key) -> Circuit:
        circuit = self._circuits.get(key)
        if circuit is None:
            if len(self._circuits) >= MOST_CIRCUITS:
                self.forget(next(iter(self._circuits))[0])
            circuit = self._circuits[key] = Circuit()
            self._types.setdefault(key[1], set()).add(key[0])
        return circuit

    def forget(self, node: str) -> None:
        """The node is gone: when it comes back it is judged anew."""
        for type_ in [type_ for type_, nodes in self._types.items() if node in nodes]:
            self._types[type_].discard(node)
            for what in ("failing", "slowing"):
                self._suspects.get((what, type_), set()).discard(node)
            self._circuits.pop((node, type_), None)
            self._tripped.get(type_, {}).pop(node, None)


def _evidence(bad: bool, rate: float) -> float:
    """How much an end speaks for a node on which things are bad, where on the others they are at this rate."""
    if rate >= MOST_RATE:
        return 0.0 if bad else -1.0
    usual = max(rate, LEAST_RATE)
    broken = min(max(0.5, 3 * usual), 0.95)
    return math.log(broken / usual) if bad else math.log((1 - broken) / (1 - usual))
