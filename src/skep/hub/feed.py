"""The feed: recorded events for whoever watches. Nothing is told before it is recorded."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from skep.hub.life import Life
from skep.model.event import Event

log = logging.getLogger(__name__)

Listener = Callable[[Sequence[Event]], None]


class Feed:
    """Hands recorded events on, and wakes those who wait for the end of a run or for anything new of it."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []
        self._ends: dict[str, list[asyncio.Future[Event]]] = {}
        self._watched: dict[str, list[asyncio.Event]] = {}
        self._lives: dict[str, Life] = {}
        self._failure: Exception | None = None

    def publish(self, events: Sequence[Event]) -> None:
        """Called with each recorded batch, in order."""
        for listener in tuple(self._listeners):
            try:
                listener(events)
            except Exception:  # who watches must not hold up who waits
                log.exception("a listener failed")
        if self._lives:
            for event in events:
                life = self._lives.get(event.run)
                if life is not None and not life.told(event):
                    self.leave(event.run)
        if self._ends:
            for event in events:
                if event.kind == "ended":
                    for future in self._ends.pop(event.run, ()):
                        if not future.done():
                            future.set_result(event)
        if self._watched:
            self.stir(event.run for event in events)

    def follow(self, run: str, life: Life) -> None:
        """Tells it the events of the run from now on, until `leave`."""
        self._lives[run] = life

    def leave(self, run: str) -> None:
        """Harmless when it is not followed."""
        self._lives.pop(run, None)

    def awaited(self) -> list[str]:
        """Runs for whose end somebody waits."""
        return list(self._ends)

    def missed(self, ends: Sequence[Event]) -> None:
        """Batches were recorded that nobody will publish. `ends`: of those for which somebody waits, as far as they ended."""
        self.publish(ends)
        self.stir(tuple(self._watched))

    def stir(self, runs: Iterable[str]) -> None:
        """There is something new of these runs: events, or what their tasks wrote."""
        watched = self._watched
        if watched:
            for run in dict.fromkeys(runs):
                for stirred in watched.get(run, ()):
                    stirred.set()

    @contextmanager
    def watching(self, run: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever there is something new of the run; whoever watches clears it before it looks."""
        stirred = asyncio.Event()
        self._watched.setdefault(run, []).append(stirred)
        try:
            yield stirred
        finally:
            watchers = self._watched[run]
            watchers.remove(stirred)
            if not watchers:
                del self._watched[run]

    def fail(self, error: Exception) -> None:
        """Nothing more will be recorded: who waits for an end, now or later, is told why."""
        self._failure = error
        for futures in self._ends.values():
            for future in futures:
                if not future.done():
                    future.set_exception(error)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Calls back with every batch; answers how to stop."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def end_of(self, run: str) -> asyncio.Future[Event]:
        """Resolved by the run's `ended` event, when it is recorded from now on; or by what `fail` was told."""
        future: asyncio.Future[Event] = asyncio.get_running_loop().create_future()
        if self._failure is not None:
            future.set_exception(self._failure)
        self._ends.setdefault(run, []).append(future)
        future.add_done_callback(lambda done: self._drop(run, done))
        return future

    def _drop(self, run: str, future: asyncio.Future[Event]) -> None:
        if not future.cancelled():
            future.exception()  # seen, even where nobody asks any more
        waiting = self._ends.get(run)
        if waiting is not None and future in waiting:
            waiting.remove(future)
            if not waiting:
                del self._ends[run]
