"""Claims: units of something bounded that is shared by the fleet. Locks, concurrency keys, rates, later budgets.

A taker fits when `used + ahead + units <= cap`, where `ahead` are the units of the waiters with a lower number: so nobody
overtakes, a waiting exclusive taker blocks later shared ones, and shared ones that fit together wake together.

What is used of a rate comes back by itself, one unit in a microsecond: it is the leaky bucket as a meter, the same as the
generic cell rate algorithm (ITU-T I.371, annex A), in whole numbers. One number, the time at which the bucket is empty, is all
of its state. Whoever waits for a rate wakes when there is room, by one alarm for each rate, however many wait.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from typing import Final

from skep.engine.protocol import FORGET_MS
from skep.model.run import Claim, Rate

ALL: Final = 1 << 31


class Waiter:
    """Someone in a claim's list; `wake` is called once, when it has come to the front and fits."""

    __slots__ = ("awake", "cap", "number", "units", "wake")

    def __init__(self, number: int, units: int, cap: int, wake: Callable[[], None]) -> None:
        self.number = number
        self.units = units
        self.cap = cap
        self.wake = wake
        self.awake = False


class Counter:
    """One claim: who holds how much, who waits."""

    __slots__ = ("ahead", "alarm_ms", "cap", "empty_us", "holders", "numbers", "used", "waiters")

    def __init__(self, cap: int) -> None:
        self.cap = cap
        """As it was named last; what counts is each taker's own."""
        self.used = 0
        self.holders: dict[int, int] = {}
        """Lease number to units."""
        self.numbers: list[int] = []
        self.waiters: dict[int, Waiter] = {}
        self.ahead = 0
        """Units of all who wait."""
        self.alarm_ms = 0
        """A rate: when it is looked at again. 0: it is no rate."""
        self.empty_us = 0
        """A rate: when all of it has come back."""

    def ahead_of(self, number: int) -> int:
        """Units of those who wait before `number`; 0 is behind all."""
        if not number:
            return self.ahead
        units = 0
        for other in self.numbers:
            if other >= number:
                break
            units += self.waiters[other].units
        return units

    def enter(self, number: int, units: int, cap: int, wake: Callable[[], None]) -> None:
        known = self.waiters.get(number)
        if known is None:
            insort(self.numbers, number)
        else:
            self.ahead -= known.units
        self.ahead += units
        self.waiters[number] = Waiter(number, units, cap, wake)

    def remove(self, number: int) -> bool:
        known = self.waiters.pop(number, None)
        if known is not None:
            self.numbers.remove(number)
            self.ahead -= known.units
        return known is not None


class Claims:
    """All claims of an engine by key."""

    def __init__(self, alarm: Callable[[str, int], None]) -> None:
        """`alarm(key, due_ms)`: to have `look_again` called then."""
        self.now_ms = 0
        self._counters: dict[str, Counter] = {}
        self._number = 0
        self.withheld = False
        """Whether nobody gets anything for now that somebody else may hold; rates are given all the same."""
        self._alarm = alarm

    def withhold(self) -> None:
        """Gives nothing until `give_again`; who asks waits."""
        self.withheld = True

    def give_again(self) -> None:
        """The first waiters that fit wake."""
        self.withheld = False
        for key, counter in tuple(self._counters.items()):
            self._wake(key, counter)

    def next_number(self) -> int:
        self._number += 1
        return self._number

    def blocked(self, claims: Sequence[Claim | Rate], number: int) -> Claim | Rate | None:
        """The first that does not fit, else None."""
        for claim in claims:
            if self.withheld and isinstance(claim, Claim):
                return claim
            counter = self._counters.get(claim.key)
            if counter is not None:
                counter.cap = claim.cap
                used = self.used(counter) + counter.ahead_of(number)
                if used + min(claim.units, claim.cap) > claim.cap:
                    return claim
        return None

    def used(self, counter: Counter) -> int:
        """Units that are not there now."""
        return max(counter.empty_us - self.now_ms * 1_000, 0) if counter.alarm_ms else counter.used

    @staticmethod
    def merged(claims: Sequence[Claim | Rate]) -> tuple[tuple[Claim, ...], tuple[Rate, ...]]:
        """What is held and what is spent, each key once: what is named twice adds up."""
        if len(claims) == 1:
            (one,) = claims
            return ((), (one,)) if isinstance(one, Rate) else ((one,), ())
        units: dict[str, int] = {}
        for claim in claims:
            units[claim.key] = units.get(claim.key, 0) + claim.units
        last = {claim.key: claim for claim in claims}
        held = [Claim(key, units[key], one.cap) for key, one in last.items() if isinstance(one, Claim)]
        spent = [Rate(key, units[key], one.cap) for key, one in last.items() if isinstance(one, Rate)]
        return tuple(held), tuple(spent)

    def take(self, claims: Sequence[Claim], lease: int) -> None:
        """Takes all of them for a lease; the caller has checked that they fit."""
        for claim in claims:
            counter = self._counters.get(claim.key)
            if counter is None:
                counter = self._counters[claim.key] = Counter(claim.cap)
            units = min(claim.units, claim.cap)
            counter.used += units
            counter.holders[lease] = counter.holders.get(lease, 0) + units

    def spend(self, rates: Sequence[Rate]) -> None:
        """Spends of rates; the caller has checked that it fits."""
        for rate in rates:
            counter = self._counters.get(rate.key) or self._rate(rate)
            counter.empty_us = max(counter.empty_us, self.now_ms * 1_000) + min(rate.units, rate.cap)

    def _rate(self, rate: Rate) -> Counter:
        counter = self._counters[rate.key] = Counter(rate.cap)
        self._set_alarm(rate.key, counter, self.now_ms + FORGET_MS)
        return counter

    def held(self, key: str, lease: int) -> int:
        """The units that a lease has."""
        counter = self._counters.get(key)
        return counter.holders.get(lease, 0) if counter is not None else 0

    def stands(self, key: str, number: int) -> tuple[Waiter, Counter, int] | None:
        """Who waits asleep in a claim's line: itself, the claim, and how many stand before it."""
        counter = self._counters.get(key)
        waiter = counter.waiters.get(number) if counter is not None else None
        if counter is None or waiter is None or waiter.awake:
            return None
        return waiter, counter, bisect_left(counter.numbers, number)

    def turn_ms(self, counter: Counter, waiter: Waiter, ahead: int) -> int:
        """When a rate has room for a waiter, if each of those before spends as much; 0: it is no rate."""
        if not counter.alarm_ms:
            return 0
        return max(-(-(counter.empty_us + waiter.units * (ahead + 1) - waiter.cap) // 1_000), self.now_ms)

    def wait(self, claim: Claim | Rate, number: int, wake: Callable[[], None]) -> None:
        """Enters the claim's list, or stays in it asleep."""
        counter = self._counters.get(claim.key)
        if counter is None:
            counter = self._rate(claim) if isinstance(claim, Rate) else Counter(claim.cap)
            self._counters[claim.key] = counter
        counter.enter(number, min(claim.units, claim.cap), claim.cap, wake)
        if counter.alarm_ms:
            self._look_later(claim.key, counter)

    def served(self, key: str, number: int) -> None:
        """Takes a waiter that got its units off the list; nobody else can fit by that."""
        counter = self._counters.get(key)
        if counter is not None:
            counter.remove(number)

    def leave(self, key: str, number: int) -> None:
        """Leaves the list; those behind may wake."""
        counter = self._counters.get(key)
        if counter is not None and counter.remove(number):
            self._wake(key, counter)

    def free(self, key: str, lease: int) -> None:
        """Gives a lease's units back; the first waiters that fit wake."""
        counter = self._counters.get(key)
        if counter is not None:
            units = counter.holders.pop(lease, 0)
            if units:
                counter.used -= units
                self._wake(key, counter)

    def _wake(self, key: str, counter: Counter, limit: int = ALL) -> int:
        """Wakes those at the front who fit, each by its own cap; answers how many."""
        if self.withheld and not counter.alarm_ms:
            return 0
        used = self.used(counter)
        woken: list[Waiter] = []
        for number in counter.numbers:
            waiter = counter.waiters[number]
            used += waiter.units
            if used > waiter.cap or len(woken) == limit:
                break
            if not waiter.awake:
                waiter.awake = True
                woken.append(waiter)
        for waiter in woken:
            waiter.wake()
        if counter.alarm_ms:
            self._look_later(key, counter)
        elif not counter.holders and not counter.waiters:
            self._counters.pop(key, None)
        return len(woken)

    # -- rates

    def look_again(self, key: str, due_ms: int, limit: int) -> int:
        """The alarm of a rate: wakes up to `limit` of those who fit by now, and answers how many. Sets the next alarm, or
        forgets the rate when all of it has come back and nobody waits."""
        counter = self._counters.get(key)
        if counter is None or counter.alarm_ms != due_ms:
            return 0  # another one was set since
        if not counter.waiters and not self.used(counter):
            del self._counters[key]
            return 0
        counter.alarm_ms = latest = max(self.now_ms + FORGET_MS, -(-counter.empty_us // 1_000))
        woken = self._wake(key, counter, limit)
        if counter.alarm_ms == latest:
            self._alarm(key, latest)
        return woken

    def _look_later(self, key: str, counter: Counter) -> None:
        """Sees to it that the alarm comes when the first who sleeps has room, if those before it stay."""
        used = 0
        for number in counter.numbers:
            waiter = counter.waiters[number]
            used += waiter.units
            if not waiter.awake:
                due_ms = max(-(-(counter.empty_us + used - waiter.cap) // 1_000), self.now_ms)
                if used <= waiter.cap and due_ms < counter.alarm_ms:
                    self._set_alarm(key, counter, due_ms)
                break

    def _set_alarm(self, key: str, counter: Counter, due_ms: int) -> None:
        counter.alarm_ms = due_ms
        self._alarm(key, due_ms)
