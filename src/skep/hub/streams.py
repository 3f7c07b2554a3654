"""What there is to tell of a run, from a place on, for as long as it goes on: recorded events, and what its tasks wrote."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Final

from skep.hub.feed import Feed
from skep.hub.views import Names, Views
from skep.model.event import Event
from skep.model.node import LogChunk
from skep.model.run import Token
from skep.model.state import RunState
from skep.model.views import LogLine
from skep.record.protocol import Record
from skep.upkeep.catalog import Catalog
from skep.upkeep.load import LoadLoop

PAGE: Final = 1_000
"""Events or chunks of logs read at once."""
QUIET_S: Final = 10.0
"""A stream with nothing to tell says so now and then, so that a dead one is told from a quiet one."""


class Streams:
    """Half of the noun runs: an endless answer is read from the record a page at a time, and woken by the feed."""

    def __init__(self, record: Record, catalog: Catalog, load: LoadLoop, feed: Feed) -> None:
        self._record = record
        self._catalog = catalog
        self._load = load
        self._feed = feed
        self._views = Views(record, catalog)
        self.look_s = QUIET_S
        """How often a stream looks, though nothing stirs it."""

    async def events(self, run: str, after: Token, *, follow: bool) -> AsyncIterator[Sequence[tuple[Token, Event]]]:
        """Its recorded events above a place, in order, without gap or repeat, a batch at a time; with `follow` until
        the run has ended. An empty batch now and then while there is nothing to tell."""
        ended = not follow
        with self._feed.watching(run) as stirred:
            while True:
                stirred.clear()
                found = await self._record.events(run, after, PAGE)
                if found:
                    after = found[-1][0]
                    yield found
                if len(found) == PAGE:
                    continue
                if ended:
                    return
                ended = await self._ended(run)  # then all of it is there: what came meanwhile is read, and that is the end
                if not ended and not await _rouse(stirred, self.look_s):
                    yield ()

    async def logs(
        self, run: str, *, task: str = "", attempt: int | None = None, after: int = 0, follow: bool = False
    ) -> AsyncIterator[Sequence[LogLine]]:
        """What its tasks wrote, in the order of arrival, as many pieces at a time as are there; of a map and its children, when
        `task` is one. With `follow` until the run has ended. An empty batch now and then while there is nothing to tell."""
        record = self._record
        plan = await self._catalog.plan((await record.run(run)).digest)
        at = await self._views.find(run, task) if task else -1
        ended = not follow
        with self._feed.watching(run) as stirred:
            while True:
                stirred.clear()
                wanted = await self._with_children(run, at) if task else ()  # a map may unfold while it is watched
                found = await record.log_stream(run, wanted, attempt=attempt, after=after, limit=PAGE)
                if found:
                    after = found[-1][0]
                    names = Names(plan, await record.expansions(run))
                    yield [_log_line(position, chunk, names) for position, chunk in found]
                if len(found) == PAGE:
                    continue
                if ended:
                    return
                ended = await self._ended(run)
                if not ended and not await _rouse(stirred, self.look_s):
                    yield ()

    async def _ended(self, run: str) -> bool:
        return run not in self._load.live and RunState((await self._record.run(run)).state).ended

    async def _with_children(self, run: str, at: int) -> Sequence[int]:
        for expansion in await self._record.expansions(run):
            if expansion.parent == at:
                return [at, *range(expansion.first, expansion.first + expansion.count)]
        return [at]


async def _rouse(stirred: asyncio.Event, look_s: float) -> bool:
    """Waits for something new. False: there was nothing for a while."""
    try:
        async with asyncio.timeout(look_s):
            await stirred.wait()
    except TimeoutError:
        return False
    return True


def _log_line(position: int, chunk: LogChunk, names: Names) -> LogLine:
    return LogLine(
        position=position,
        task=names[chunk.task] if chunk.task < names.count else f"#{chunk.task}",
        attempt=chunk.attempt,
        stream=chunk.stream,
        at_ms=chunk.at_ms,
        text=chunk.data.decode("utf-8", "replace"),
    )
