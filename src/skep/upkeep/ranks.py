"""Ranks: inside of a run the longest way to the end comes first, by predicted durations where something is known.

A run gets its ranks when it is loaded, and anew when it is loaded again.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Final, NamedTuple

import msgspec

from skep.clock import Clock
from skep.engine.protocol import Engine
from skep.flow.plan import order_ms
from skep.model.run import Shape
from skep.upkeep.catalog import LARGE, RunContext
from skep.upkeep.routing import Routing

FRESH_MS: Final = 10_000
"""For so long the runs of one workflow share what was predicted for the first of them."""
KEPT: Final = 64
KINDS_AT_ONCE: Final = 200
"""Kinds of tasks that are predicted between two moments in which others have their turn,"""
TASKS_AT_ONCE: Final = 5_000
"""and tasks that are looked at."""


class Kept(NamedTuple):
    """What was predicted for a workflow at one priority."""

    until_ms: int
    shape: Shape | None
    """None: nothing is known."""


class Ranks:
    """Of the runs of an engine."""

    def __init__(self, routing: Routing, engine: Engine, clock: Clock) -> None:
        self._routing = routing
        self._engine = engine
        self._clock = clock
        self._kept: OrderedDict[tuple[str, int], Kept] = OrderedDict()

    async def shape(self, run: RunContext) -> Shape:
        """The run's shape, with ranks by what is predicted."""
        router = self._routing.router
        if router is None or len(run.plan.names) < 2:
            return run.shape
        place, now_ms = (run.plan.digest, run.priority), self._clock.now_ms()
        kept = self._kept.get(place)
        if kept is None or kept.until_ms <= now_ms or now_ms < kept.until_ms - FRESH_MS:
            router.sync(await self._engine.nodes())
            kept = self._kept[place] = Kept(now_ms + FRESH_MS, await self._ranked(run))
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return kept.shape or run.shape

    async def _ranked(self, run: RunContext) -> Shape | None:
        durations = await self._durations_ms(run)
        if durations is None:
            return None
        small = len(durations) <= LARGE
        order = (
            order_ms(run.plan, durations, run.priority)
            if small
            else await asyncio.to_thread(order_ms, run.plan, durations, run.priority)
        )
        return msgspec.structs.replace(run.plan.shape, order_ms=order)

    async def _durations_ms(self, run: RunContext) -> list[int] | None:
        """Of each task, averaged over the nodes that can run it; None: nothing is known of any."""
        found: dict[tuple[int, int], int] = {}
        known = False
        durations: list[int] = []
        for at, (spec, task) in enumerate(zip(run.plan.spec.tasks, run.plan.tasks, strict=True)):
            kind = run.wishes.kind(at)
            key = id(kind), id(task.wanted)
            ms = found.get(key)
            if ms is None:
                expected_s = None if task.parks else self._routing.expected_s(kind, task.wanted)
                known = known or expected_s is not None
                ms = found[key] = spec.estimated_ms if expected_s is None else round(expected_s * 1_000)
                if len(found) % KINDS_AT_ONCE == 0:
                    await asyncio.sleep(0)
            if at % TASKS_AT_ONCE == TASKS_AT_ONCE - 1:
                await asyncio.sleep(0)
            durations.append(ms)
        return durations if known else None
