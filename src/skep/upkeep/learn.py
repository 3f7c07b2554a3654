"""Learn: the router hears how attempts went, from every recorded batch; and at first, from the record's history.

A server hears of the runs that it knows. Who leads knows them all, and begins with a new router: in the history everything is
that was told meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from typing import Final

from skep.errors import NotFoundError, SkepError, SpecError
from skep.model.event import Event
from skep.record.fold import GIVEN_BACK
from skep.record.protocol import PastAttempt, Record
from skep.router.wanted import Kind
from skep.upkeep.catalog import Catalog
from skep.upkeep.routing import Attempt, Routing

log = logging.getLogger(__name__)

HISTORY: Final = 20_000
"""Attempts of the latest runs that are looked through for a new router,"""
HEARD: Final = 5_000
"""of which it hears so many at the most,"""
HEARD_EACH: Final = 20
"""and so many of one kind on one node: older ones would not count any more."""
AT_ONCE: Final = 50
"""Of these, between two moments in which others have their turn."""
TAUGHT: Final = 100
"""Ends in one batch from which something is learned: each costs up to 0.2 ms, and more in a moment say little new,"""
TAUGHT_EACH: Final = 4
"""the less of one kind on one node. Which of them does not depend on how they ended, so the shares stay what they are."""

_BEGINS: Final = frozenset({"granted", "adopted"})
_ENDS: Final = {
    "succeeded": "succeeded",
    "failed": "failed",
    "cancelled": "cancelled",
    "retrying": "failed",
    "snoozed": "snoozed",
    "parked": "parked",
    "returned": "lost",
}
"""Kinds of events that end an attempt, with how."""
UNTAUGHT: Final = "cancelled"
"""How an attempt ended for who shall learn nothing from it."""


class Learner:
    """Tells the router of an engine what it may learn from."""

    def __init__(self, record: Record, catalog: Catalog, routing: Routing, engine_id: str) -> None:
        self._record = record
        self._catalog = catalog
        self._routing = routing
        self._engine_id = engine_id
        self._reading: asyncio.Task[None] | None = None
        self._seen: set[str] = set()
        self.follows = False
        """Another server places: what is learned here ranks the tasks of the runs that are loaded here."""
        routing.on_made = self._begin

    def told(self, events: Sequence[Event]) -> None:
        """A batch was recorded."""
        for event in events:
            if event.first >= 0:
                run = self._catalog.known(event.run)
                if run is not None:
                    run.families.append((event.task, event.first, event.count))
        if self._routing.router is None:
            if not self.follows:
                return
            self._seen.update(event.node for event in events if event.node and len(self._seen) < 2)
            if len(self._seen) < 2:
                return
            self._routing.make()
        taught: Counter[tuple[Kind, str]] = Counter()
        for event in events:
            if not event.attempt:
                continue
            if event.kind in _BEGINS:
                self._began(event)
            elif (result := _ENDS.get(event.kind)) is not None:
                self._ended(event, _result(result, event.reason), taught)

    def _began(self, event: Event) -> None:
        attempt = Attempt(event.run, event.task, event.attempt)
        run = self._catalog.known(event.run) if attempt not in self._routing.running else None
        at = run.written(event.task) if run is not None else -1
        if run is not None and at >= 0:
            self._routing.began(attempt, event.node, run.wishes.kind(at), event.at_ms)

    def _ended(self, event: Event, result: str, taught: Counter[tuple[Kind, str]]) -> None:
        attempt = Attempt(event.run, event.task, event.attempt)
        running = self._routing.running.get(attempt)
        if running is None:
            return
        place = running.kind, running.node
        if taught[place] < TAUGHT_EACH and (taught[place] or len(taught) < TAUGHT):
            taught[place] += 1
        else:
            result = UNTAUGHT
        self._routing.ended(attempt, result, event.ran_ms, event.at_ms)

    # -- the history

    def _begin(self) -> None:
        self._stop()
        self._reading = asyncio.get_running_loop().create_task(self._read(), name="skep-learn")

    async def _read(self) -> None:
        """Placement goes on meanwhile, by what is known so far."""
        try:
            past = await self._wanted(await self._record.past_attempts(self._engine_id, HISTORY))
            for first in range(0, len(past), AT_ONCE):
                for attempt, kind in past[first : first + AT_ONCE]:
                    self._hear(attempt, kind)
                await asyncio.sleep(0)
        except SkepError as error:
            log.info("placement begins without the history: %s", error)

    async def _wanted(self, past: Sequence[PastAttempt]) -> list[tuple[PastAttempt, Kind]]:
        """Those from which something is to be learned, in their order, and those that go on."""
        found: list[tuple[PastAttempt, Kind]] = []
        heard: Counter[tuple[Kind, str]] = Counter()
        for one in reversed(past):
            try:
                plan = await self._catalog.plan(one.digest)
                kind = self._catalog.wishes(plan).kind(one.task if one.parent < 0 else one.parent)
            except (NotFoundError, SpecError, IndexError):
                continue  # its workflow is there no more, or is of another version
            place = kind, one.node
            if one.state == "running" or (heard[place] < HEARD_EACH and len(found) < HEARD):
                heard[place] += 1
                found.append((one, kind))
        return found[::-1]

    def _hear(self, past: PastAttempt, kind: Kind) -> None:
        attempt = Attempt(past.run, past.task, past.attempt)
        if attempt in self._routing.running:
            return
        self._routing.began(attempt, past.node, kind, past.since_ms)
        if past.state != "running":
            self._routing.ended(attempt, past.state, past.ran_ms, past.since_ms + past.ran_ms)

    def forget(self) -> None:
        """Begins anew: this server leads from now on, or does not any more."""
        self._stop()
        self._routing.forget()

    def _stop(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None


def _result(result: str, reason: str) -> str:
    if reason == "node_lost":
        return "lost"
    return UNTAUGHT if reason in GIVEN_BACK else result
