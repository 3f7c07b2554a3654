"""Load: accepted runs and recorded commands reach the engine, each once, in the order of the record.

What this process has just accepted is offered and loaded at once; once a second, and when a run is due, the record is asked for
what is left: runs of other servers, and after an engine was opened everything that is unfinished, with what is known of it.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_left
from collections import deque
from collections.abc import Collection, Sequence
from operator import attrgetter

from skep.clock import Clock
from skep.engine.protocol import FULL, NOT_FOUND, OK, Answer, Engine, Load
from skep.errors import NotFoundError, SkepError, SpecError
from skep.loop import Loop
from skep.model.run import Shape
from skep.model.state import RunState
from skep.record.protocol import Command, Record, RestoredRun, RunRow
from skep.upkeep.catalog import Catalog
from skep.upkeep.commands import tell
from skep.upkeep.ranks import Ranks

log = logging.getLogger(__name__)

CHUNK = 5_000
"""Tasks of one run in one call."""
SMALL = 100
"""Tasks of a run that is loaded together with others,"""
TOGETHER = 50
"""as many as this."""
BATCH = 1_000
"""Runs in one pass, or in one question to the record about them."""
SCAN = 10_000
"""Unloaded runs in one look: each costs the record as much as there are."""
BEHIND_MS = 20
"""For the record to hear of what was loaded, when it knows of nothing else."""
TOPIC = "commands"
"""Stirred when a server has recorded what the one that scans shall hand over."""
NOTHING = RestoredRun([], [])


class LoadLoop(Loop):
    """Takes runs and commands from the record to the engine."""

    name = "load"
    interval_s = 1.0

    def __init__(self, engine: Engine, record: Record, catalog: Catalog, clock: Clock, engine_id: str) -> None:
        super().__init__()
        self._engine = engine
        self._record = record
        self._catalog = catalog
        self._clock = clock
        self._engine_id = engine_id
        self._offered: deque[RunRow] = deque()
        self._loading: set[str] = set()
        self.live: set[str] = set()
        """Runs accepted or loaded here whose end is not yet recorded, as far as is known here."""
        self._retired = False
        self._refused: set[str] = set()
        """Runs whose workflow this version cannot use."""
        self._commands: dict[str, int] = {}
        """Run to the number up to which its commands were handed over."""
        self.ranks: Ranks | None = None
        """Says which tasks of a run come first; without it, what their authors estimated does."""
        self.scans = True
        """Whether the record is asked for what was not accepted here. One server of an engine does; the others need not."""
        self._scan_ms = 0
        """When the record is asked next."""
        self._due_ms = 0
        """When the next delayed run is due; 0: never."""
        self.full = False
        """Whether runs wait in the record because the engine has as many live tasks as it may."""
        self.caught_up = asyncio.Event()
        """Once all that was unfinished is loaded, as far as it fits."""

    def offer(self, rows: Sequence[RunRow]) -> None:
        """Runs that were just accepted here."""
        now_ms = self._clock.now_ms()
        for row in rows:
            if row.due_ms <= now_ms:
                self._offered.append(row)
            elif not self._due_ms or row.due_ms < self._due_ms:
                self._due_ms = row.due_ms  # the record has it until then
        if not self._retired:
            self.live.update(row.id for row in rows)
        self.wake()

    def refuses(self, run: str) -> bool:
        """Whether its workflow cannot be used by this version, so that it waits."""
        return run in self._refused

    def retire(self) -> None:
        """This engine is over: what comes still is for another, and nothing is known of any run from here on."""
        self._retired = True
        self.live.clear()

    def look(self) -> None:
        """Asks the record now, and not only within a second."""
        self._scan_ms = 0
        self.wake()

    async def run_once(self) -> bool:
        try:
            return await self._pass()
        except Exception:
            self._scan_ms = 0  # what was taken up is in the record, and found there by the next pass
            raise

    async def _wait(self, seconds: float) -> None:
        now_ms = self._clock.now_ms()
        await super()._wait(min([seconds, *((ms - now_ms) / 1000 for ms in (self._scan_ms, self._due_ms) if ms > now_ms)]))

    async def _pass(self) -> bool:
        now_ms = self._clock.now_ms()
        rows = [self._offered.popleft() for _ in range(min(len(self._offered), BATCH))]
        if rows:
            self.full = self.full and self.scans  # who does not scan tries with each
            await self._load([row for row in rows if row.id not in self._loading])
        elif self.scans and (now_ms >= self._scan_ms or 0 < self._due_ms <= now_ms):
            await self._scan(now_ms)
        return bool(self._offered) or (self.scans and now_ms >= self._scan_ms)

    async def _scan(self, now_ms: int) -> None:
        self._scan_ms = now_ms + round(self.interval_s * 1000)
        rows = await self._record.unloaded(self._engine_id, self._engine.epoch, SCAN, now_ms)
        self._due_ms = await self._record.next_due_ms(self._engine_id, now_ms)
        commands = await self._record.commands(self._engine_id, self._commands)
        fresh = [row for row in rows if row.id not in self._loading]
        self.full = False
        for first in range(0, len(fresh), BATCH):
            await self._load(fresh[first : first + BATCH])
        await self._apply(commands)  # after the load: what was cancelled or paused before it does not start
        if self.full or len(rows) < SCAN:
            self.caught_up.set()
        else:  # there are more, if only behind those of which the record does not know yet that they are loaded
            self._scan_ms = 0 if fresh else now_ms + BEHIND_MS

    async def ensure(self, runs: Collection[str]) -> None:
        """Loads those of these runs to which nobody has come yet."""
        rows = []
        for run in runs:
            if run not in self._loading:
                try:
                    row = await self._record.run(run)
                except NotFoundError:
                    continue
                if not RunState(row.state).ended:
                    rows.append(row)
        if rows:
            await self._load(rows)

    async def _load(self, rows: Sequence[RunRow]) -> None:
        read_ms = self._engine.now_ms
        begun = [row.id for row in rows if row.loaded or row.started_ms]
        restored = await self._record.restore(begun) if begun else {}
        together: list[tuple[RunRow, Load]] = []
        for row in rows:
            if self.full and row.parent is None:
                continue  # the next scan finds it again, in its turn; child runs load all the same, since others wait for them
            try:
                run = await self._catalog.take(row)
            except (NotFoundError, SpecError) as error:
                self._refuse(row, error)
                continue
            known = restored.get(row.id, NOTHING)
            run.families += [(map.parent, map.first, map.count) for map in known.expansions]
            shape = run.shape if self.ranks is None else await self.ranks.shape(run)
            loads = _chunks(row, shape, known, read_ms)
            small = len(loads) == 1 and loads[0].count <= SMALL
            if len(together) == TOGETHER or not small:
                await self._load_together(together)
                together = []
            if small:
                together.append((row, loads[0]))
            else:
                await self._load_alone(row, loads)
        await self._load_together(together)

    async def _load_together(self, small: Sequence[tuple[RunRow, Load]]) -> None:
        """Runs of one chunk each."""
        answers = await self._engine.load([load for _, load in small]) if small else ()
        for (row, _), answer in zip(small, answers, strict=True):
            self._loaded(row, answer)

    async def _load_alone(self, row: RunRow, chunks: Sequence[Load]) -> None:
        if self.full and row.parent is None:
            return
        for load in chunks:
            (answer,) = await self._engine.load([load])
            if answer != OK:
                break
        self._loaded(row, answer)

    def _loaded(self, row: RunRow, answer: Answer) -> None:
        if answer == FULL:
            self.full = True
        elif answer == OK:
            self._loading.add(row.id)
            if not self._retired:
                self.live.add(row.id)

    def _refuse(self, row: RunRow, error: SkepError) -> None:
        if row.id not in self._refused:
            self._refused.add(row.id)
            log.error("run %s (%s) cannot be taken up, and waits: its workflow cannot be used: %s", row.id, row.workflow, error)

    async def _apply(self, commands: Sequence[Command]) -> None:
        later: set[str] = set()  # not there yet, or not fitting now: their commands wait in order for the next scan
        for command in commands:
            if command.run in later or await self._tell(command) in (NOT_FOUND, FULL):
                later.add(command.run)
            else:
                self._commands[command.run] = command.number

    async def apply(self, command: Command) -> None:
        """Hands a command that was just recorded to the engine; if the run is not there yet, right after it is loaded.

        Never before an earlier one: the engine takes a lower number for a repeat, and somebody was promised what it says."""
        known = self._commands.get(command.run, 0)
        if known != command.number - 1 and not self.scans:
            known = (await self._record.run(command.run)).applied  # others may have been given to another server
        if known != command.number - 1 or await self._tell(command) in (NOT_FOUND, FULL):
            self.look()
            if not self.scans:
                await self._engine.stir([TOPIC])
        else:
            self._commands[command.run] = command.number

    async def _tell(self, command: Command) -> Answer:
        answer = await tell(self._engine, command)
        if answer == NOT_FOUND:
            self._loading.discard(command.run)  # if it was there, it ended some time ago
        return answer

    def doubt(self) -> None:
        """Ends may have been missed: what was known of any run is to be found out anew. To load one again is harmless."""
        self.live.clear()
        self._loading.clear()
        self._commands.clear()
        self.look()

    def forget(self, run: str) -> None:
        """The run has ended and the record knows it."""
        self._loading.discard(run)
        self.live.discard(run)
        self._commands.pop(run, None)
        self._catalog.forget(run)


def _chunks(row: RunRow, shape: Shape, known: RestoredRun, read_ms: int) -> Sequence[Load]:
    """The run in the pieces in which the engine takes it."""
    families = [(map.parent, map.first, map.count) for map in known.expansions]
    size = max([shape.size, *(first + count for _, first, count in families)])
    loads = []
    for first in range(0, max(size, 1), CHUNK):
        count = min(CHUNK, size - first)
        tasks = known.tasks
        if size > CHUNK:
            begin, end = (bisect_left(tasks, index, key=attrgetter("task")) for index in (first, first + count))
            tasks = tasks[begin:end]
        loads.append(
            Load(
                run=row.id,
                namespace=row.namespace,
                shape=shape,
                first=first,
                count=count,
                read_ms=read_ms,
                accepted_ms=row.accepted_ms,
                timeout_ms=row.timeout_ms,
                command=row.applied,
                paused=row.paused,
                child=row.parent is not None,
                restored=tasks,
                families=() if first else families,
                cancelling=row.reason if row.state == RunState.CANCELLING else "",
                # Only a recorded `retry` makes a run queued again of which something is known.
                ended=row.state == RunState.QUEUED and bool(known.tasks),
                opens=first + count == size,
            )
        )
    return loads
