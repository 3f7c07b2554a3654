"""Python tasks of a supervisor: in warm worker processes, many attempts at once in each; see `skep.node.pooled`.

User code can so neither stall the supervisor nor take it down. Workers belong to a base, the directory that a run was submitted
from; a few that belong to none yet are kept warm. Work goes to the least loaded worker of its base.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from skep.model.node import ErrorInfo
from skep.node.attempt import Attempt, Host
from skep.node.executors.crew import STOPPED, Worker
from skep.node.processes import Processes

log = logging.getLogger(__name__)

ELSEWHERE: Final = ", from where the run was submitted; `skep node --app` serves functions of a module that it has itself"

IDLE_S: Final = 60.0
"""After so long without work the workers of a base are ended, unless it is the last one that was used."""
CROWD: Final = 4
"""As many workers at the most, for each one that may work for the same base."""
REFILL_S: Final = 0.5
"""Between the use of the last spare worker and the start of another one: work goes first."""


class PoolExecutor:
    """Runs `python` tasks."""

    name = "python"

    def __init__(
        self,
        processes: Processes,
        size: int,
        threads: int = 32,
        base: Path | None = None,
        secrets: Mapping[str, str] | None = None,
        idle_s: float = IDLE_S,
    ) -> None:
        """`size`: workers for one base. `threads`: how many plain functions run at once in each. `base`: where runs work that
        name none; None: the directory of this process."""
        self.processes = processes
        self.threads = threads
        self.secrets = dict(secrets or {})
        self._size = max(size, 1)
        self._home = str(base) if base is not None else os.getcwd()
        self._idle_s = idle_s
        self._crews: dict[str, Crew] = {}
        self._spares: list[Worker] = []
        """Workers that belong to no base yet."""
        self.workers: set[Worker] = set()
        self._last: Crew | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self.host: Host

    async def open(self, host: Host) -> None:
        self.host = host
        self.processes.open()
        for _ in range(self._size):
            self._spares.append(self._new())
        self._timer = asyncio.get_running_loop().call_later(self._idle_s / 2, self._look)

    async def close(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for crew in self._crews.values():
            while crew.waiting:
                crew.waiting.popleft().fail(STOPPED)
        workers = tuple(self.workers)
        for worker in workers:
            worker.stop()
        if workers:
            await asyncio.wait([worker.gone for worker in workers])

    def start(self, attempt: Attempt) -> None:
        crew = self._last
        base = attempt.grant.base or self._home
        if crew is None or crew.base != base:
            if not os.path.isdir(base):
                attempt.fail(ErrorInfo("NotFound", f"there is no directory {base} on this node{ELSEWHERE}"))
                return
            crew = self._last = self._crews.get(base) or self._open_crew(base)
        crew.used = asyncio.get_running_loop().time()
        worker = self._choose(crew)
        if worker is not None:
            worker.begin(attempt)
        else:
            crew.waiting.append(attempt)

    def stop(self, attempt: Attempt) -> None:
        worker = attempt.work
        if isinstance(worker, Worker):
            worker.halt(attempt)
        elif not attempt.ended:
            crew = self._crews[attempt.grant.base or self._home]
            crew.waiting = deque(other for other in crew.waiting if other is not attempt)
            attempt.fail(STOPPED)

    def keep(self) -> None:
        for worker in self.workers:
            worker.keep()

    # -- who works where

    def _open_crew(self, base: str) -> Crew:
        crew = self._crews[base] = Crew(base)
        return crew

    def _choose(self, crew: Crew) -> Worker | None:
        """The least loaded; None while there is none, or one on its way that will have less to do than all others.

        Sees to it that there are as many workers as have something to do.
        """
        best = self._least(crew)
        if best is not None and not best.load:
            return best
        fit = [worker for worker in crew.workers if not worker.worn]
        coming = sum(not worker.ready for worker in fit)
        if len(fit) < self._size and coming <= len(crew.waiting):
            coming += self._grow(crew)
            best = self._least(crew)
        return None if coming and (best is None or best.load) else best

    def _least(self, crew: Crew) -> Worker | None:
        best: Worker | None = None
        for worker in crew.workers:
            if (
                worker.ready
                and not worker.worn
                and not worker.is_stale(crew.used)
                and (best is None or worker.load < best.load)
            ):
                best = worker
        return best

    def _grow(self, crew: Crew) -> int:
        """One more for the crew: a spare one, else a new one, in the place of an idle one of another base if it must be.
        Answers how many are on their way now: 0 or 1."""
        if self._spares:
            ready = [worker for worker in self._spares if worker.ready]
            worker = (ready or self._spares)[0]
            self._spares.remove(worker)
        elif len(self.workers) < self._size * CROWD or self._make_room(crew):
            worker = self._new()
        else:
            return 0
        worker.join(crew.base)
        crew.workers.append(worker)
        if not self._spares and len(self.workers) < self._size * CROWD:
            asyncio.get_running_loop().call_later(REFILL_S, self._refill)
        return 0 if worker.ready else 1

    def _make_room(self, crew: Crew) -> bool:
        """Ends an idle worker of another base. False when there is none: one that falls idle is ended then."""
        for other in sorted(self._crews.values(), key=lambda other: other.used):
            if other is not crew:
                for worker in other.workers:
                    if not worker.load:
                        worker.stop()
                        return True
        return False

    def _refill(self) -> None:
        if not self._closed and not self._spares and len(self.workers) < self._size * CROWD:
            self._spares.append(self._new())

    def _new(self) -> Worker:
        worker = Worker(self)
        self.workers.add(worker)
        return worker

    def _look(self) -> None:
        """Ends workers of bases that were not used for a while."""
        now = asyncio.get_running_loop().time()
        for crew in tuple(self._crews.values()):
            if crew is self._last or crew.waiting or now - crew.used < self._idle_s or any(w.load for w in crew.workers):
                continue
            for worker in crew.workers:
                worker.stop()
            if not crew.workers:
                del self._crews[crew.base]
        self._timer = asyncio.get_running_loop().call_later(self._idle_s / 2, self._look)

    # -- what workers say

    def free(self, worker: Worker) -> None:
        """A worker has begun to wait for work, or has nothing left to do."""
        if worker.worn:
            worker.stop()
            return
        crew = self._crews.get(worker.base)
        if crew is None:
            return
        if crew.waiting:
            self._feed(crew)
            return
        starved = next((other for other in self._crews.values() if other.waiting and not other.workers), None)
        if starved is not None and not worker.load:
            worker.stop()

    def _feed(self, crew: Crew) -> None:
        while crew.waiting and (worker := self._choose(crew)) is not None:
            worker.begin(crew.waiting.popleft())

    def lost(self, worker: Worker, error: ErrorInfo | None) -> None:
        """A worker has ended. With `error` it never began to work: one waiting attempt fails, or this could go on for ever."""
        self.workers.discard(worker)
        if worker in self._spares:
            self._spares.remove(worker)
        crew = self._crews.get(worker.base)
        if crew is not None and worker in crew.workers:
            crew.workers.remove(worker)
            if error is not None and crew.waiting:
                crew.waiting.popleft().fail(error)
        if not self._closed:
            for other in tuple(self._crews.values()):
                if other.waiting:
                    self._feed(other)


class Crew:
    """The workers of one base."""

    __slots__ = ("base", "used", "waiting", "workers")

    def __init__(self, base: str) -> None:
        self.base = base
        self.workers: list[Worker] = []
        self.waiting: deque[Attempt] = deque()
        """For the first of them to be ready."""
        self.used = 0.0
