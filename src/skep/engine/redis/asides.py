"""What answers say beside what was asked: the events of that step, what nodes were given, and what is ready now.

So a process need not ask for what it did itself. What is missing here, or may be since others do things too, is asked for;
every list is used only as far as it goes on without a gap.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from skep.engine.protocol import InboxEntry, ReadyClass
from skep.engine.redis.scripts import SMALL_LOOK
from skep.model.event import Event
from skep.model.node import Adopted, Grant, LiveNode, LockGrant, Stop

MOST_EVENTS: Final = 10_000
"""Kept at most; the oldest go first."""
MOST_ENTRIES: Final = 2_000
"""Of an inbox, since it was read: it is read again after so many, for that is what makes the store forget them."""

Look = tuple[list[LiveNode], list[ReadyClass]]
Entry = tuple[int, int, Grant | Stop | LockGrant | Adopted]


class Aside(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """An answer, and what it says beside."""

    heard: int
    """The last event there is."""
    now_ms: int
    topics: list[str]
    answer: msgspec.Raw
    events: list[Event]
    """Those that this very step made: the last ones."""
    given: list[tuple[str, int, list[Entry]]]
    """(node, incarnation, its new inbox entries)."""
    look: Look | None
    """For a process that places, if this step made anything ready and no more than `SMALL_LOOK` tasks are: nodes, and ready
    tasks by class."""


class Events:
    """The last events, as far as they were told here."""

    def __init__(self) -> None:
        self._kept: list[Event] = []

    def add(self, events: Sequence[Event]) -> None:
        if not events:
            return
        kept = self._kept
        if kept and events[0].n != kept[-1].n + 1:
            if events[-1].n <= kept[-1].n:
                return  # a late answer: what it tells is behind the gap that it left
            kept.clear()
        kept += events
        if len(kept) > MOST_EVENTS:
            del kept[: len(kept) - MOST_EVENTS // 2]

    def after(self, n: int, limit: int) -> list[Event]:
        """Those after number `n`; empty when the next one is not here."""
        kept = self._kept
        if not kept or not kept[0].n <= n + 1 <= kept[-1].n:
            return []
        first = n + 1 - kept[0].n
        return kept[first : first + limit]

    def drop(self, mark: int) -> None:
        """Nobody asks for them any more."""
        kept = self._kept
        if kept and mark >= kept[0].n:
            del kept[: mark - kept[0].n + 1]


class Inbox:
    """What one node was given since its inbox was read."""

    def __init__(self, incarnation: int, after: int, entries: Sequence[InboxEntry]) -> None:
        """It was read: `entries` is all that there was above number `after`."""
        self.incarnation = incarnation
        self._read = after
        self._entries = list(entries)
        self._last = self._handed = entries[-1].number if entries else after

    def add(self, incarnation: int, entries: Sequence[Entry]) -> bool:
        """False: something is missing before them, and the inbox must be read."""
        if incarnation != self.incarnation or entries[0][0] != self._last + 1 or self._last - self._read > MOST_ENTRIES:
            return False
        self._entries += [InboxEntry(number, entry) for number, _, entry in entries]
        self._last = entries[-1][0]
        return True

    def take(self, after: int, limit: int) -> list[InboxEntry]:
        """All above number `after`, if there is anything among it that was not handed out yet; else the inbox must be read."""
        entries = self._entries
        if self._last == self._handed or not entries or entries[0].number > after + 1:
            return []
        del entries[: after + 1 - entries[0].number]
        taken = entries[:limit]
        self._handed = taken[-1].number if taken else self._handed
        return taken


class Asides:
    """All of it, for one engine."""

    def __init__(self) -> None:
        self._events = Events()
        self._inboxes: dict[str, Inbox] = {}
        self._look: tuple[int, Look] | None = None
        self._heard = 0
        self._foreign = True
        """Whether others may have made events of which this process has not heard."""

    def hear(self, said: Aside) -> None:
        """An answer came."""
        self._heard = max(self._heard, said.heard)
        self._events.add(said.events)
        for node, incarnation, entries in said.given:
            inbox = self._inboxes.get(node)
            if inbox is not None and not inbox.add(incarnation, entries):
                del self._inboxes[node]
        self._look = (said.heard, said.look) if said.look is not None else self._look

    def doubt(self, topics: Sequence[str]) -> None:
        """Others stirred these, or something was missed."""
        self._foreign = self._foreign or "events" in topics
        if "ready" in topics:
            self._look = None

    # -- events

    def events(self, after: int, limit: int) -> list[Event] | None:
        """As `Engine.events`; None: it must be asked."""
        found = self._events.after(after, limit)
        return found if found or (after >= self._heard and not self._foreign) else None

    def asks_events(self) -> None:
        """What was made elsewhere until now comes with the answer to that."""
        self._foreign = False

    def keep_events(self, events: Sequence[Event]) -> None:
        self._events.add(events)

    def drop_events(self, mark: int) -> None:
        self._events.drop(mark)

    # -- inboxes

    def take(self, node: str, incarnation: int, after: int, limit: int) -> list[InboxEntry]:
        """As `Engine.take`; empty: it must be asked."""
        inbox = self._inboxes.get(node)
        return inbox.take(after, limit) if inbox is not None and inbox.incarnation == incarnation else []

    def keep_inbox(self, node: str, incarnation: int, after: int, limit: int, entries: Sequence[InboxEntry]) -> None:
        """It was read."""
        if len(entries) < limit:
            self._inboxes[node] = Inbox(incarnation, after, entries)
        else:
            self._inboxes.pop(node, None)

    def drop_inbox(self, node: str) -> None:
        """Another one may begin, or somebody else to read."""
        self._inboxes.pop(node, None)

    # -- a look

    def look(self, limit: int) -> Look | None:
        """As `Engine.survey`, once; None: it must be asked. One after which something has happened is of no use."""
        kept, self._look = self._look, None
        return kept[1] if kept is not None and kept[0] == self._heard and limit >= SMALL_LOOK else None
