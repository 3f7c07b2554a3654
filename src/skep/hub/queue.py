"""The queue: what waits, what runs, and whether anything is started at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from skep.clock import Clock
from skep.engine.protocol import Engine
from skep.errors import SpecError
from skep.model.fields import Fault
from skep.model.keys import WORKFLOW
from skep.model.state import RunState, TaskState
from skep.model.views import QueueClass, QueueStats
from skep.record.protocol import Record
from skep.upkeep.load import LoadLoop
from skep.upkeep.place import PlaceLoop, requirement_of

ALL: Final = "*"
PAUSED: Final = "paused:"
"""Of the record's flags: `paused:NAMESPACE`."""
SHARE: Final = "share:"
"""The same: `share:NAMESPACE`, whose value is its weight."""
LEAST: Final = 0.001
MOST: Final = 1_000.0
"""What a weight may be."""
TOPIC: Final = "queue"
"""Stirred when what is paused, or a share, has changed."""
LOOKED_AT: Final = 10_000
"""Ready tasks of a class that are counted."""


class Queue:
    """The noun of the hub."""

    def __init__(self, engine: Engine, record: Record, load: LoadLoop, place: PlaceLoop, clock: Clock) -> None:
        self._engine = engine
        self._record = record
        self._load = load
        self._place = place
        self._clock = clock
        self._held: set[str] = set()
        """`*` once nothing more is started in this process."""

    async def open(self) -> None:
        """Takes up what is recorded: what is paused, and shares. Again whenever another server of this engine says that it
        changed."""
        flags = await self._record.flags()
        self._place.paused = self._held | {name.removeprefix(PAUSED) for name in flags if name.startswith(PAUSED)}
        self._place.fair.weights = {
            name.removeprefix(SHARE): float(weight) for name, weight in flags.items() if name.startswith(SHARE)
        }

    async def stats(self, namespace: str = "") -> QueueStats:
        """Counts, of one namespace where that can be told apart (classes and ended runs)."""
        live = await self._engine.stats()
        nodes = await self._engine.nodes()
        classes = await self._engine.ready(LOOKED_AT)
        return QueueStats(
            paused=sorted(self._place.paused),
            shares=dict(sorted(self._place.fair.weights.items())),
            runs=await self._runs(namespace),
            ready=live.states[TaskState.READY],
            running=live.states[TaskState.RUNNING],
            delayed=live.states[TaskState.DELAYED],
            parked=live.states[TaskState.PARKED],
            waiting=live.states[TaskState.WAITING],
            live_tasks=live.live_tasks,
            classes=[
                QueueClass(
                    namespace=group.namespace,
                    executor=requirement_of(group.name).executor,
                    requires=list(requirement_of(group.name).requires),
                    ready=len(group.tasks),
                    unplaced=self._place.unplaced.get(group.name, 0),
                    why=dict(self._place.why.get(group.name, {})),
                )
                for group in classes
                if not namespace or group.namespace == namespace
            ],
            slots=sum(node.info.slots for node in nodes),
            slots_free=sum(node.free["slots"] for node in nodes if not node.draining),
            oldest_ready_ms=live.oldest_ready_ms or None,
            full=self._load.full or self._place.crowded,
        )

    async def share(self, namespace: str, weight: float) -> None:
        """Gives a namespace `weight` times the slots of one whose weight is 1, as long as both want more than there are; 1 is
        what all have that were given none. Recorded before it is applied. Raises SpecError."""
        check_name("namespace", namespace)
        if not LEAST <= weight <= MOST:  # nor a number that is none
            raise SpecError.at("weight", f"found {weight:g}, expected a number from {LEAST:g} to {MOST:,.0f}")
        await self._record.set_flag(SHARE + namespace, None if weight == 1 else repr(float(weight)))
        await self.open()
        self._place.wake()
        await self._engine.stir([TOPIC])

    async def _runs(self, namespace: str) -> dict[str, int]:
        counts = await self._record.count_runs(namespace, now_ms=self._clock.now_ms())
        return {state.label: count for state, count in labelled(counts)}

    async def pause(self, namespace: str = "") -> None:
        """Starts nothing more, of one namespace or at all; what runs goes on. Recorded before it is applied."""
        await self._record.set_flag(PAUSED + (namespace or ALL), "1")
        self._place.paused.add(namespace or ALL)
        await self._engine.stir([TOPIC])

    def hold(self) -> None:
        """Starts nothing more in this process, whatever is recorded: it is about to end."""
        self._held = {ALL}
        self._place.paused.add(ALL)

    async def resume(self, namespace: str = "") -> None:
        """Without a namespace: everything, also what was paused by name."""
        for name in [namespace] if namespace else sorted({*self._place.paused, ALL}):
            await self._record.set_flag(PAUSED + name, None)
            self._place.paused.discard(name)
        self._place.wake()
        await self._engine.stir([TOPIC])


def check_name(path: str, namespace: str) -> None:
    """Raises SpecError for what no workflow could name as its namespace."""
    try:
        WORKFLOW.by_key["namespace"].kind.parse(namespace)
    except Fault as fault:
        raise SpecError.at(path, fault.found[0][1]) from None


def labelled(counts: Mapping[int, int]) -> Iterator[tuple[RunState, int]]:
    """Counts by state in the order of states."""
    return ((RunState(state), counts[state]) for state in sorted(counts))
