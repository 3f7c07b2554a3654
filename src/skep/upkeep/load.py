"""Load: accepted runs and recorded commands reach the engine, each once, in the order of the record.

What this process has just accepted is offered and loaded at once; once a second the record is asked for what is left: runs of
other servers, and everything after an engine was opened.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from skep.clock import Clock
from skep.engine.protocol import FULL, NOT_FOUND, OK, Answer, Engine, Load, RunCommand
from skep.loop import Loop
from skep.record.protocol import Command, Record, RunRow
from skep.upkeep.catalog import Catalog

CHUNK = 5_000
"""Tasks of one run in one call."""
BATCH = 1_000
"""Runs in one pass."""


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
        """Runs accepted or loaded here whose end is not yet recorded."""
        self._commands: dict[str, int] = {}
        self._scan_ms = 0
        """When the record is asked next."""
        self.full = False
        """Whether runs wait in the record because the engine has as many live tasks as it may."""

    def offer(self, rows: Sequence[RunRow]) -> None:
        """Runs that were just accepted here."""
        self._offered.extend(rows)
        self.live.update(row.id for row in rows)
        self.wake()

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

    async def _pass(self) -> bool:
        read_ms = self._clock.now_ms()
        rows = [self._offered.popleft() for _ in range(min(len(self._offered), BATCH))]
        commands: Sequence[Command] = ()
        if not rows and read_ms >= self._scan_ms:
            self._scan_ms = read_ms + round(self.interval_s * 1000)
            rows = await self._record.unloaded(self._engine_id, self._engine.epoch, BATCH, read_ms)
            commands = await self._record.commands(self._engine_id, self._commands)
        rows = [row for row in rows if row.id not in self._loading]
        if rows:
            await self._load(rows, read_ms)
        await self._apply(commands)  # after the load: what was cancelled or paused before it does not start
        return bool(self._offered) or read_ms >= self._scan_ms

    async def _load(self, rows: Sequence[RunRow], read_ms: int) -> None:
        opened: list[RunRow] = []
        self.full = False
        for row in rows:
            run = await self._catalog.take(row)
            shape = run.shape
            for first in range(0, max(shape.size, 1), CHUNK):
                load = Load(
                    run=row.id,
                    namespace=row.namespace,
                    shape=shape,
                    first=first,
                    count=min(CHUNK, shape.size - first),
                    read_ms=read_ms,
                    accepted_ms=row.accepted_ms,
                    timeout_ms=row.timeout_ms,
                    paused=row.paused,
                )
                (answer,) = await self._engine.load([load])
                if answer != OK:
                    break
            if answer == OK:
                opened.append(row)
                self._loading.add(row.id)
                self.live.add(row.id)
            elif answer == FULL:
                self.full = True
                break  # the next scan finds it again, in its turn
        if opened:
            await self._engine.open([row.id for row in opened])

    async def _apply(self, commands: Sequence[Command]) -> None:
        later: set[str] = set()  # not there yet, or not fitting now: their commands wait in order for the next scan
        for command in commands:
            if command.run in later or await self._tell(command) in (NOT_FOUND, FULL):
                later.add(command.run)
            else:
                self._commands[command.run] = command.number

    async def apply(self, command: Command) -> None:
        """Hands a command that was just recorded to the engine; if the run is not there yet, right after it is loaded."""
        if await self._tell(command) == NOT_FOUND:
            self.look()

    async def _tell(self, command: Command) -> Answer:
        """One recorded command; a repeat does nothing in the engine."""
        verb = {
            "cancel": self._engine.cancel,
            "pause": self._engine.pause,
            "resume": self._engine.resume,
            "retry": self._engine.retry,
        }[command.verb]
        (answer,) = await verb([RunCommand(command.run, command.number, command.data.decode())])
        return answer

    def forget(self, run: str) -> None:
        """The run has ended and the record knows it."""
        self._loading.discard(run)
        self.live.discard(run)
        self._commands.pop(run, None)
        self._catalog.forget(run)
