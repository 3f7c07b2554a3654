"""Local nodes: started with the server, found again by the next one, and started again when they are gone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from skep.errors import SkepError
from skep.loop import Loop
from skep.model.node import NodeInfo
from skep.node.detached import folder, listed, start_detached

log = logging.getLogger(__name__)

FIRST_PAUSE_S: Final = 2.0
"""For a node to come up; then it is started again, each time after twice as long."""
LONGEST_PAUSE_S: Final = 60.0


class LocalNodes(Loop):
    """Sees to it that each of these nodes is there. One that lives already, perhaps at work for the server before this one, is
    left as it is."""

    name = "local nodes"
    interval_s = 1.0

    def __init__(self, home: Path, infos: Sequence[NodeInfo], idle_s: float | None = None) -> None:
        """`idle_s`: how long a node without work outlives the server, in place of the usual."""
        super().__init__()
        self._home = home
        self._infos = infos
        self._idle_s = idle_s
        self._next: dict[str, float] = {}
        """When a node that was there, or was started, may be started again."""
        self._pause: dict[str, float] = {}

    @property
    def ids(self) -> set[str]:
        return {info.id for info in self._infos}

    async def run_once(self) -> bool:
        now = asyncio.get_running_loop().time()
        there = {node.id for node in listed(self._home)}
        for info in self._infos:
            if info.id in there:
                self._next.setdefault(info.id, 0.0)
                if now >= self._next.get(info.id, 0.0):
                    self._pause.pop(info.id, None)  # it came up and has stayed
            elif now >= self._next.get(info.id, 0.0):
                await self._start(info, now)
        return False

    async def _start(self, info: NodeInfo, now: float) -> None:
        pause_s = self._pause.get(info.id, FIRST_PAUSE_S)
        if info.id in self._next:
            place = folder(self._home) / f"{info.id}.log"
            log.warning("node %s is gone and is started again; what it said last is in %s", info.id, place)
        self._next[info.id] = now + pause_s
        self._pause[info.id] = min(pause_s * 2, LONGEST_PAUSE_S)
        try:
            await asyncio.to_thread(start_detached, self._home, info, idle_s=self._idle_s)
        except (OSError, SkepError) as error:
            log.warning("node %s cannot be started, and is tried again in %.0f s: %s", info.id, pause_s, error)
