"""Claims: units of something bounded that is shared by the fleet. Locks, concurrency keys, later budgets.

A taker fits when `used + ahead + units <= cap`, where `ahead` are the units of the waiters with a lower number: so nobody
overtakes, a waiting exclusive taker blocks later shared ones, and shared ones that fit together wake together.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Sequence

from skep.model.run import Claim


class Waiter:
    """Someone in a claim's list; `wake` is called once, when it has come to the front and fits."""

    __slots__ = ("awake", "number", "units", "wake")

    def __init__(self, number: int, units: int, wake: Callable[[], None]) -> None:
        self.number = number
        self.units = units
        self.wake = wake
        self.awake = False


class Counter:
    """One claim: who holds how much, who waits."""

    __slots__ = ("cap", "holders", "numbers", "used", "waiters")

    def __init__(self, cap: int) -> None:
        self.cap = cap
        self.used = 0
        self.holders: dict[int, int] = {}
        """Lease number to units."""
        self.numbers: list[int] = []
        self.waiters: dict[int, Waiter] = {}

    def fits(self, units: int, number: int) -> bool:
        """`number` 0: not yet waiting, so behind every waiter."""
        ahead = sum(w.units for w in self.waiters.values() if not number or w.number < number)
        return self.used + ahead + units <= self.cap


class Claims:
    """All claims of an engine by key."""

    def __init__(self) -> None:
        self._counters: dict[str, Counter] = {}
        self._number = 0
        self._withheld = False
        """Whether nobody gets anything for now."""

    def withhold(self) -> None:
        """Gives nothing until `give_again`; who asks waits."""
        self._withheld = True

    def give_again(self) -> None:
        """The first waiters that fit wake."""
        self._withheld = False
        for key, counter in tuple(self._counters.items()):
            self._wake(key, counter)

    def next_number(self) -> int:
        self._number += 1
        return self._number

    def blocked(self, claims: Sequence[Claim], number: int) -> Claim | None:
        """The first claim that does not fit, else None."""
        if self._withheld and claims:
            return claims[0]
        for claim in claims:
            counter = self._counters.get(claim.key)
            if counter is not None:
                counter.cap = claim.cap
                if not counter.fits(min(claim.units, claim.cap), number):
                    return claim
        return None

    @staticmethod
    def merged(claims: Sequence[Claim]) -> tuple[Claim, ...]:
        """Each key once: what is named twice adds up."""
        units: dict[str, int] = {}
        for claim in claims:
            units[claim.key] = units.get(claim.key, 0) + claim.units
        caps = {claim.key: claim.cap for claim in claims}
        return tuple(Claim(key, count, caps[key]) for key, count in units.items())

    def take(self, claims: Sequence[Claim], lease: int) -> None:
        """Takes all of them for a lease; the caller has checked that they fit."""
        for claim in claims:
            counter = self._counters.get(claim.key)
            if counter is None:
                counter = self._counters[claim.key] = Counter(claim.cap)
            units = min(claim.units, claim.cap)
            counter.used += units
            counter.holders[lease] = counter.holders.get(lease, 0) + units

    def held(self, key: str, lease: int) -> int:
        """The units that a lease has."""
        counter = self._counters.get(key)
        return counter.holders.get(lease, 0) if counter is not None else 0

    def wait(self, claim: Claim, number: int, wake: Callable[[], None]) -> None:
        """Enters the claim's list, or stays in it asleep."""
        counter = self._counters.get(claim.key)
        if counter is None:
            counter = self._counters[claim.key] = Counter(claim.cap)
        if number not in counter.waiters:
            insort(counter.numbers, number)
        counter.waiters[number] = Waiter(number, min(claim.units, claim.cap), wake)

    def served(self, key: str, number: int) -> None:
        """Takes a waiter that got its units off the list; nobody else can fit by that."""
        counter = self._counters.get(key)
        if counter is not None and counter.waiters.pop(number, None) is not None:
            counter.numbers.remove(number)

    def leave(self, key: str, number: int) -> None:
        """Leaves the list; those behind may wake."""
        counter = self._counters.get(key)
        if counter is not None and counter.waiters.pop(number, None) is not None:
            counter.numbers.remove(number)
            self._wake(key, counter)

    def free(self, key: str, lease: int) -> None:
        """Gives a lease's units back; the first waiters that fit wake."""
        counter = self._counters.get(key)
        if counter is not None:
            units = counter.holders.pop(lease, 0)
            if units:
                counter.used -= units
                self._wake(key, counter)

    def _wake(self, key: str, counter: Counter) -> None:
        if self._withheld:
            return
        room = counter.cap - counter.used
        for number in tuple(counter.numbers):
            waiter = counter.waiters.get(number)
            if waiter is None:
                continue
            if waiter.units > room:
                break
            room -= waiter.units
            if not waiter.awake:
                waiter.awake = True
                waiter.wake()
        if not counter.holders and not counter.waiters:
            self._counters.pop(key, None)

    def usage(self) -> dict[str, tuple[int, int, int]]:
        """Key to (used, cap, waiters)."""
        return {key: (c.used, c.cap, len(c.waiters)) for key, c in self._counters.items()}
