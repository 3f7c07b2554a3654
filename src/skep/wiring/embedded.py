"""One engine of its own in this process, with its nodes: `skep run`, `Workflow.run`, tests."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

from skep.clock import Clock, SystemClock
from skep.engine.memory import MemoryEngine
from skep.errors import RecordError, SkepError
from skep.hub.core import Core
from skep.hub.feed import Feed
from skep.ids import new_id
from skep.loop import Loop, Trouble
from skep.model.node import NodeInfo
from skep.model.units import format_duration
from skep.node.attempt import Executor
from skep.node.executors.http import HttpExecutor
from skep.node.executors.isolated import IsolatedExecutor
from skep.node.executors.python import PythonExecutor
from skep.node.executors.shell import ShellExecutor
from skep.node.node import Node
from skep.node.processes import Processes
from skep.record.protocol import EngineRow
from skep.record.sql import SqlRecord
from skep.upkeep.watch import Watch, described
from skep.wiring.data import RECORD_FILE, engine_lock, make_private, sweep_abandoned, try_lock, unlock
from skep.wiring.parts import Parts

log = logging.getLogger(__name__)

GIVE_UP_S = 20.0
"""How long the record, or a loop without which no run ends, may fail without a break before the runs are given up."""
CLOSE_S = 5.0
"""For what is still to be recorded when they are."""
IDLE_S = 3600.0
"""Between two looks for work that nobody told of, on virtual time: every look costs real time."""


class Embedded:
    """An engine that ends with its process.

    It restores nothing. When the record or a loop fails for too long it gives its runs up, and who waits for their end is told.
    While it lives it holds a file lock; whoever next opens the record and finds such a lock free ends the runs of that engine
    as failed (`abandoned`).
    """

    def __init__(
        self,
        nodes: Sequence[NodeInfo],
        *,
        data: Path | None,
        base: Path | None = None,
        clock: Clock | None = None,
        secrets: Mapping[str, str] | None = None,
        inline: Callable[[NodeInfo], Sequence[Executor]] | None = None,
        chance: Callable[[], float] = random.random,
        give_up_s: float | None = None,
    ) -> None:
        """`data`: the data directory; None keeps everything in memory. `base`: where shell tasks start. `chance`: from 0 to 1,
        for the jitter of back-off. `inline`: makes the executors of a node, and everything runs on one event loop without
        threads, for tests on virtual time. `give_up_s`: in place of `GIVE_UP_S`."""
        self._data = data
        self._base = base or Path.cwd()
        self._clock = clock or SystemClock()
        self._inline = inline
        self._chance = chance
        self._secrets = dict(secrets or {})
        self._infos = nodes
        self._lock: IO[str] | None = None
        self._id = f"run-{new_id(self._clock.now_ms())}"
        self.record = SqlRecord(data / RECORD_FILE if data else None, inline=inline is not None)
        self.hub: Core
        self._parts: Parts | None = None
        self.nodes: list[Node] = []
        self._processes: Processes | None = None
        """One for all nodes: the commands and workers of this process."""
        self._loops: list[Loop] = []
        self._feed = Feed()
        self._watch = Watch(GIVE_UP_S if give_up_s is None else give_up_s, self._give_up_for)
        self._failure: SkepError | None = None

    async def open(self) -> Embedded:
        """Raises RecordError when the data directory cannot be used."""
        if self._data is not None:
            make_private(self._data)
            self._lock = try_lock(engine_lock(self._data, self._id))
        try:
            await self.record.open()
            if self._data is not None:
                await sweep_abandoned(self.record, self._data, self._clock.now_ms())
            epoch = max(1, self._clock.now_ms() // 1000)
            row = EngineRow(id=self._id, epoch=epoch, mark=0, process=f"{os.getpid()}-{time.monotonic_ns()}", embedded=True)
            if not await self.record.open_engine(row, after_epoch=0):
                raise RecordError(f"the engine {self._id} is recorded already")
            await self._start(MemoryEngine(self._clock, epoch))
        except BaseException:
            await self.close()
            raise
        return self

    async def _start(self, engine: MemoryEngine) -> None:
        parts = self._parts = Parts(engine, self.record, self._clock, self._id, self._feed, self._chance)
        self._loops = [*parts.loops, parts.waits]
        self.hub = parts.core()
        if self._inline is not None:
            for loop in self._loops:
                loop.interval_s = IDLE_S
            parts.promote.longest_s = parts.reap.longest_s = IDLE_S
        self._watch.over(self._loops)
        self._watch.over([parts.decisions], vital=False)
        self._loops.append(parts.decisions)
        for loop in self._loops:
            loop.start()
        idle_s = Loop.interval_s if self._inline is None else IDLE_S
        for info in self._infos:
            node = Node(info, self.hub.work, self._executors(info), self._clock, idle_s)
            self._watch.over(node.loops)
            self._watch.over(node.side_loops, vital=False)
            await node.open()
            self.nodes.append(node)

    def _executors(self, info: NodeInfo) -> Sequence[Executor]:
        if self._inline is not None:
            return self._inline(info)
        python = PythonExecutor(info.slots, self._secrets)
        self._processes = self._processes or Processes()
        shell = ShellExecutor(self._processes, self._base, self._secrets)
        isolated = IsolatedExecutor(self._processes, max(info.cpu_milli // 1000, 1), self._base, self._secrets)
        return [python, shell, isolated, HttpExecutor(self._secrets)]

    async def close(self) -> None:
        """Stops the loops, ends what is unfinished as abandoned, stops the nodes. Harmless when repeated.

        In that order: that their attempts are stopped now is no end of any task. What fails now is given up: then nothing waits
        for the record, and nothing raises any more.
        """
        self._watch.end()
        nodes, self.nodes = self.nodes, []
        loops, self._loops = self._loops, []
        try:
            async with asyncio.timeout(CLOSE_S if self._failure else None):
                await self._finish(loops)
        except Exception:
            if self._failure is None:
                raise
            log.debug("closing after %s", self._failure, exc_info=True)
        finally:
            try:
                for node in nodes:
                    await node.close()
                if self._processes is not None:
                    await self._processes.close()
            finally:
                await self._leave()

    async def _leave(self) -> None:
        await self.record.close()
        if self._lock is not None:
            unlock(self._lock)
            self._lock = None

    async def _finish(self, loops: Sequence[Loop]) -> None:
        for loop in reversed(loops):
            await loop.stop()
        if self._parts is not None:
            self._parts.learner.forget()
        try:
            for transcribe in loops[:1]:
                while await transcribe.run_once():
                    pass
        finally:
            if loops:
                await self.record.abandon(self._id, self._clock.now_ms())

    # -- trouble

    def hurry(self) -> None:
        """Somebody wants it to end: what fails now, or later for more than a moment, is given up."""
        self._watch.hurry()

    def give_up(self, error: SkepError) -> None:
        """For what was to end the runs and failed itself: whoever waits for their end is told."""
        self._give_up_for(Trouble("", asyncio.get_running_loop().time(), error))

    def _give_up_for(self, trouble: Trouble) -> None:
        if self._failure is not None:
            return
        lasted_ms = round((asyncio.get_running_loop().time() - trouble.since_s) * 1000)
        lasted = f" after {format_duration(lasted_ms)} of this" if lasted_ms else ""
        text = f"{described(trouble)}\nThe run was given up{lasted}, and all of it stopped. "
        if isinstance(trouble.error, RecordError):
            self.record.give_up()
            self._failure = RecordError(text + self._kept())
        else:
            advice = "It is a fault of Skep's own; SKEP_DEBUG=1 shows where"
            self._failure = SkepError(f"{text}In the record it ends as abandoned. {advice}")
        self._feed.fail(self._failure)

    def _kept(self) -> str:
        if self._data is None or self._parts is None or not self._parts.recorded_ms:
            return "Nothing of it is kept"
        until = time.strftime("%H:%M:%S", time.localtime(self._parts.recorded_ms / 1000))
        return f"It is recorded up to {until}; the next `skep run` on this data ends this run as abandoned"

    async def __aenter__(self) -> Embedded:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
