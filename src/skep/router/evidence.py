"""What durations say of kinds of tasks and of nodes, when each is a product of both: how much work, and how fast.

In logarithms it is a sum: `log seconds = mean of the kind + pace of the node (+ how well the type suits the node) + noise`. The
ends of one kind on one node are one `Pair`. A node's pace is what its pairs say when each kind is judged by its pairs on the
other nodes; a kind's mean is what its pairs say when each node is judged by its pace. Settling one node after the other, a few
steps at each end, solves for all of them together.
"""

from __future__ import annotations

import math
from typing import Final

PAIRS_A_KIND: Final = 16
PAIRS_A_NODE: Final = 64
MOST_ENDS: Final = 20
"""A pair is the mean of about so many ends; older ones fade."""
FADE, FADING = 0.88, 4
"""What the other pairs of a kind keep of their weight, each time that so many more have ended."""
LEAST_PRIOR_VAR: Final = 0.02
"""What is known of a kind beside its pairs is never surer than that."""
PACE_VAR: Final = 0.25
"""Variance of the paces of nodes of which nothing is known: speeds that differ by a factor of 4 are nothing special."""
SUIT_VAR: Final = 0.03
"""Variance of how well a type suits a node."""
ODD_VAR: Final = 0.01
"""Variance of how much a kind deviates on one node from what kind, node and type say."""
LEAST_NOISE: Final = 1e-3
"""Variance of equal tasks, at least: nobody is sure to better than 3 %."""

ROUNDED_S: Final = 0.0005
"""Durations are told in whole milliseconds, which blurs short ones by so much."""


class Pair:
    """The ends of one kind on one node."""

    __slots__ = ("adds", "ends", "kind", "mean", "node", "weight")

    def __init__(self, kind: KindEvidence, node: NodeEvidence) -> None:
        self.kind = kind
        self.node = node
        self.ends = 0.0
        self.mean = 0.0
        """Of the logarithms."""
        self.weight = 0.0
        """What it counts in the sum of its kind, …"""
        self.adds = 0.0
        """… and what it adds there."""

    def off(self, mean: float, var: float) -> tuple[float, float]:
        """By how much the kind takes longer on this very node than the sum says, as far as its own ends tell; and the variance
        that is left of that."""
        node = self.node
        suit, suit_var = node.suit(self.kind.type)
        sum_var = var + node.pace_var + suit_var + ODD_VAR
        own_var = self.kind.noise / self.ends
        share = sum_var / (sum_var + own_var)
        return share * (self.mean - mean - node.pace - suit), share * own_var


class KindEvidence:
    """One kind: its pairs, and their sum."""

    __slots__ = (
        "bias",
        "ends",
        "noise",
        "pairs",
        "prior",
        "prior_var",
        "size_cov",
        "size_mean",
        "size_var",
        "total",
        "type",
        "weight",
    )

    def __init__(self, type_: str, prior: float, prior_var: float, noise: float) -> None:
        self.type = type_
        self.prior = prior
        self.prior_var = prior_var
        self.noise = noise
        self.ends = 0
        self.bias = 0.0
        self.pairs: dict[str, Pair] = {}
        self.weight = 0.0
        self.total = 0.0
        self.size_mean = 0.0
        self.size_var = 0.0
        self.size_cov = 0.0

    def mean(self, without: Pair | None = None) -> tuple[float, float]:
        """The logarithm of the seconds on an ordinary node, and the variance of that; perhaps without one of its pairs."""
        weight, total = 1 / self.prior_var, self.prior / self.prior_var
        weight += self.weight
        total += self.total
        if without is not None:
            weight -= without.weight
            total -= without.adds
        return total / weight, 1 / weight

    def by_size(self, size: int) -> float:
        """What the size adds to the logarithm: a slope that is careful while little is known."""
        if not size or not self.size_var:
            return 0.0
        return self.size_cov / (self.size_var + 0.5) * (math.log2(size) - self.size_mean)

    def learn_size(self, size: int, off: float) -> None:
        """How far off the mean of the kind a task of that size was."""
        if not size:
            return
        log = math.log2(size)
        rate = 1 / min(self.ends, 50)
        gap = log - self.size_mean if self.ends > 1 else 0.0
        self.size_mean += rate * gap if self.ends > 1 else log - self.size_mean
        self.size_cov += rate * (gap * off * (1 - rate) - self.size_cov)
        self.size_var += rate * (gap * gap * (1 - rate) - self.size_var)


class NodeEvidence:
    """One node: its pairs, and what it is by them."""

    __slots__ = ("base", "base_weight", "bias", "name", "pace", "pace_var", "pairs", "suits")

    def __init__(self, name: str) -> None:
        self.name = name
        self.pairs: dict[int, Pair] = {}
        """By the identity of the kind's evidence."""
        self.pace = 0.0
        """How much longer than on an ordinary node, as a logarithm."""
        self.pace_var = PACE_VAR
        self.base_weight = 1 / PACE_VAR
        self.base = 0.0
        """What is known beside the pairs: of nodes in general, and of pairs that were given up."""
        self.bias = 0.0
        self.suits: dict[str, tuple[float, float]] = {}
        """By type: how much longer it takes here than the pace says, and the variance of that."""

    def suit(self, type_: str) -> tuple[float, float]:
        return self.suits.get(type_, (0.0, SUIT_VAR))

    def settle(self) -> None:
        """Its pace and what suits it, judged anew by all of its pairs; and their sums with it."""
        weight, total = self.base_weight, self.base
        found: list[tuple[Pair, float, float]] = []
        for pair in self.pairs.values():
            mean, var = pair.kind.mean(without=pair)
            says = pair.mean - mean
            trust = 1 / (pair.kind.noise / pair.ends + var)
            found.append((pair, says, trust))
            weight += trust
            total += trust * (says - self.suit(pair.kind.type)[0])
        self.pace, self.pace_var = total / weight, 1 / weight
        sums: dict[str, tuple[float, float]] = {}
        for pair, says, trust in found:
            before, already = sums.get(pair.kind.type, (0.0, 1 / SUIT_VAR))
            sums[pair.kind.type] = before + trust * (says - self.pace), already + trust
        self.suits = {type_: (total / weight, 1 / weight) for type_, (total, weight) in sums.items()}
        for pair in self.pairs.values():
            count(pair)

    def give_up(self, pair: Pair) -> None:
        """Too many pairs: this one is forgotten, what it said of the node is not."""
        mean, var = pair.kind.mean(without=pair)
        trust = 1 / (pair.kind.noise / pair.ends + var)
        self.base_weight += trust
        self.base += trust * (pair.mean - mean - self.suit(pair.kind.type)[0])
        surplus = self.base_weight / 400
        if surplus > 1:  # what is long ago shall not outweigh what is new for ever
            self.base_weight /= surplus
            self.base /= surplus
        absorb(pair)

    def doubt(self) -> None:
        """It is not what it was: what its kinds take is kept, what is known of the node counts for little."""
        for pair in list(self.pairs.values()):
            absorb(pair)
        self.base_weight = 1 / PACE_VAR
        self.base = self.pace * self.base_weight
        self.pace_var = PACE_VAR
        self.suits.clear()
        self.bias = 0.0


def count(pair: Pair) -> None:
    """Renews what the pair adds to its kind."""
    kind, node = pair.kind, pair.node
    suit, suit_var = node.suit(kind.type)
    weight = 1 / (kind.noise / pair.ends + node.pace_var + suit_var)
    adds = weight * (pair.mean - node.pace - suit)
    kind.weight += weight - pair.weight
    kind.total += adds - pair.adds
    pair.weight, pair.adds = weight, adds


def absorb(pair: Pair) -> None:
    """The pair is no more; what it said of its kind is kept."""
    kind = pair.kind
    weight = 1 / kind.prior_var + pair.weight
    kind.prior = (kind.prior / kind.prior_var + pair.adds) / weight
    kind.prior_var = max(1 / weight, LEAST_PRIOR_VAR)
    forget(pair)


def forget(pair: Pair) -> None:
    """The pair is no more."""
    pair.kind.weight = max(pair.kind.weight - pair.weight, 0.0)
    pair.kind.total -= pair.adds
    pair.kind.pairs.pop(pair.node.name, None)
    pair.node.pairs.pop(id(pair.kind), None)


def observe(kind: KindEvidence, node: NodeEvidence, log_s: float) -> Pair:
    """One more end."""
    pair = kind.pairs.pop(node.name, None) or Pair(kind, node)
    if not pair.ends and len(kind.pairs) >= PAIRS_A_KIND:
        oldest = next(iter(kind.pairs.values()))
        oldest.node.give_up(oldest)
    node.pairs.pop(id(kind), None)
    if not pair.ends and len(node.pairs) >= PAIRS_A_NODE:
        node.give_up(next(iter(node.pairs.values())))
    if kind.ends % FADING == 0:
        kind.weight, kind.total = pair.weight, pair.adds
        for other in kind.pairs.values():
            other.ends *= FADE
            other.weight = other.adds = 0.0
            count(other)
    off = log_s - pair.mean
    if pair.ends >= 0.5:
        rate = 1 / min(kind.ends + 3, 30)
        found = min(off * off * pair.ends / (pair.ends + 1), 9 * kind.noise)  # one that is far off is not noise
        kind.noise += rate * (found - kind.noise)
    kind.noise = max(kind.noise, LEAST_NOISE, (ROUNDED_S / math.exp(log_s)) ** 2)
    pair.ends = min(pair.ends + 1, MOST_ENDS)
    pair.mean += off / pair.ends
    kind.pairs[node.name] = node.pairs[id(kind)] = pair
    kind.ends += 1
    count(pair)
    return pair
