"""Insight: how the server is, and copies of what it knows."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from skep.clock import Clock
from skep.engine.protocol import Engine
from skep.errors import EngineUnavailableError, RecordError, StaleEpochError
from skep.hub.queue import labelled
from skep.model.views import ServerStatus
from skep.record.protocol import Record
from skep.version import VERSION


class Insight:
    """The noun of the hub."""

    def __init__(self, engine: Engine, record: Record, clock: Clock, engine_id: str, home: Path | None, protocol: int) -> None:
        self._engine = engine
        self._record = record
        self._clock = clock
        self._engine_id = engine_id
        self._home = home
        self._protocol = protocol
        self.started_ms = clock.now_ms()
        """When the server was."""
        self.engine_at = "memory"
        self.record_at = ""
        self.state = "opening"
        """`opening`, `rejoin`, `ready`, `draining`, `failing`."""
        self.url = ""
        """Where the network finds this server; empty: nowhere."""
        self.server = ""
        """The name of this one among those of its engine."""
        self.leads: Callable[[], bool] = lambda: True
        self.trouble: Callable[[], str | None] = lambda: None

    def health(self) -> tuple[str, str | None]:
        """The state, and what fails now. Asks nobody: it may be asked all the time."""
        trouble = self.trouble()
        return ("failing" if trouble else self.state), trouble

    async def status(self) -> ServerStatus:
        """Everything that is told of the server."""
        state, trouble = self.health()
        nodes = backlog = 0
        kept: dict[str, Any] = {"commit_ms": 0.0, "bytes": 0, "rejected_events": 0}
        runs: dict[int, int] = {}
        try:  # whoever asks how it is wants to hear what does not answer, and not only that something does not
            kept = await self._record.stats()
            runs = await self._record.count_runs(now_ms=self._clock.now_ms())
            nodes, backlog = len(await self._engine.nodes()), await self._engine.backlog()
        except (RecordError, EngineUnavailableError, StaleEpochError) as error:
            state, trouble = "failing", str(error)
        return ServerStatus(
            version=VERSION,
            protocol=self._protocol,
            state=state,
            pid=os.getpid(),
            data=str(self._home or ""),
            url=self.url or None,
            engine=self._engine_id,
            epoch=self._engine.epoch,
            started_ms=self.started_ms,
            engine_at=self.engine_at,
            record_at=self.record_at,
            server=self.server,
            leads=self.leads(),
            nodes=nodes,
            runs={state.label: count for state, count in labelled(runs)},
            backlog=backlog,
            commit_ms=kept["commit_ms"],
            record_bytes=kept["bytes"],
            rejected_events=kept["rejected_events"],
            trouble=trouble,
        )

    async def backup(self, target: Path) -> dict[str, Any]:
        """Writes a copy of the record to a new folder while work goes on. Raises RecordError."""
        return await self._record.backup(target)
