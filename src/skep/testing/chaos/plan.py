"""The plan of an attack: which faults, when, on what, for how long. The same seed makes the same plan."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

QUIET_S: Final = (3.0, 8.0)
"""Before the first faults, and between those that come together."""
TOGETHER: Final = ((1, 2, 3), (5, 3, 1))
"""How many come together, and how often."""
APART_S: Final = 2.0
"""Within which those begin."""


class Kind(NamedTuple):
    """A kind of fault, as the plan sees it."""

    name: str
    on: str
    """What it hits: `node`, `server`, `redis`, `postgres`, `fleet`. Two faults that come together never hit the same one."""
    shortest_s: float
    longest_s: float


class Fault(NamedTuple):
    kind: str
    subject: int
    """Which of the nodes, of the servers."""
    at_s: float
    """From the start of the attack."""
    for_s: float


def plan(seed: int, seconds: float, kinds: Sequence[Kind], counts: Mapping[str, int]) -> list[Fault]:
    """Faults that all end within so many seconds, in the order in which they begin.

    `counts`: how many there are of what can be hit. Every kind comes before one comes again, as far as time allows.
    """
    chance = random.Random(seed)
    deck = _deck(chance, kinds)
    found: list[Fault] = []
    at = chance.uniform(*QUIET_S) / 2
    while kinds:
        (many,) = chance.choices(*TOGETHER)
        left = seconds - at
        together: dict[tuple[str, int], Fault] = {}
        for kind in _few(deck, len(kinds)):
            if len(together) == many:
                break
            begin = chance.uniform(0, APART_S) if together else 0.0
            room = left - begin
            where = kind.on, chance.randrange(counts[kind.on])
            if kind.shortest_s <= room and where not in together:
                for_s = chance.uniform(kind.shortest_s, min(kind.longest_s, room))
                together[where] = Fault(kind.name, where[1], round(at + begin, 3), round(for_s, 3))
        if not together:
            break
        found += together.values()
        at = max(fault.at_s + fault.for_s for fault in together.values()) + chance.uniform(*QUIET_S)
    return sorted(found, key=lambda fault: fault.at_s)


def _deck(chance: random.Random, kinds: Sequence[Kind]) -> Iterator[Kind]:
    while True:
        yield from chance.sample(kinds, len(kinds))


def _few(deck: Iterator[Kind], many: int) -> Iterator[Kind]:
    for _ in range(many):
        yield next(deck)
