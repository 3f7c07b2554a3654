"""What attempts write and how far they say they are, on its way to the server: gathered, capped, kept until it is taken."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from skep.clock import Clock
from skep.model.node import LogChunk, Progress
from skep.model.run import Token
from skep.node.attempt import Attempt
from skep.node.link import Link

log = logging.getLogger(__name__)

LOG_CAP = 16 * 1024 * 1024
"""Bytes kept of each stream of one attempt; what follows is read and thrown away, and said so once."""
CUT = f"\n[skep: cut here; {LOG_CAP // 2**20} MiB of each stream are kept]\n".encode()
CHUNK = 64 * 1024
"""Bytes up to which what one attempt writes in a row becomes one chunk."""
MOST_WAITING = 64 * 1024 * 1024
"""Bytes that may wait for a server that is slow or away; then there are gaps."""


class _Piece:
    """A chunk that may still grow."""

    __slots__ = ("at_ms", "attempt", "offset", "parts", "size", "stream")

    def __init__(self, attempt: Attempt, stream: str, offset: int, at_ms: int) -> None:
        self.attempt = attempt
        self.stream = stream
        self.offset = offset
        self.at_ms = at_ms
        self.parts: list[bytes] = []
        self.size = 0

    def chunk(self) -> LogChunk:
        grant = self.attempt.grant
        data = b"".join(self.parts)
        return LogChunk(grant.run, grant.task, grant.attempt, self.stream, self.offset, self.at_ms, data)


class Logs:
    """The logs and the progress of one node's attempts."""

    def __init__(self, link: Link, clock: Clock, wake: Callable[[], None]) -> None:
        """`wake` asks for a `flush` soon."""
        self._link = link
        self._clock = clock
        self._wake = wake
        self._pieces: list[_Piece] = []
        self._unsent: list[LogChunk] = []
        """What could not be sent, before all else."""
        self._bytes = 0
        self._lost = 0
        self._progress: dict[Token, tuple[Attempt, float, float, str]] = {}
        self._door = asyncio.Lock()

    def write(self, attempt: Attempt, stream: str, data: bytes) -> None:
        """Keeps output up to the cap of one attempt, and says once where it was cut."""
        offsets = attempt.offsets
        if offsets is None:
            offsets = attempt.offsets = {}
        offset = offsets.get(stream, 0)
        if offset > LOG_CAP:
            return
        offsets[stream] = offset + len(data)
        if offset + len(data) > LOG_CAP:
            data = data[: LOG_CAP - offset] + CUT
        if self._bytes > MOST_WAITING:
            self._lost += len(data)
            return
        piece = self._pieces[-1] if self._pieces else None
        if piece is None or piece.attempt is not attempt or piece.stream != stream or piece.size >= CHUNK:
            piece = _Piece(attempt, stream, offset, self._clock.now_ms())
            self._pieces.append(piece)
        piece.parts.append(data)
        piece.size += len(data)
        self._bytes += len(data)
        self._wake()

    def show_progress(self, attempt: Attempt, done: float, total: float, message: str) -> None:
        self._progress[attempt.grant.token] = (attempt, done, total, message)
        self._wake()

    @property
    def waiting(self) -> bool:
        return bool(self._pieces or self._unsent or self._progress)

    async def flush(self) -> None:
        """Sends all that was written before this call. Raises what the link raises; nothing is lost by that but for memory."""
        async with self._door:
            await self._flush_chunks()
            if self._progress:
                shown, self._progress = self._progress, {}
                await self._link.progress([_progress(*row) for row in shown.values()])

    async def _flush_chunks(self) -> None:
        pieces, self._pieces = self._pieces, []
        chunks = self._unsent = [*self._unsent, *(piece.chunk() for piece in pieces)]
        if chunks:
            try:
                await self._link.log(chunks)
            except Exception:
                while self._bytes > MOST_WAITING and chunks:
                    self._lost += len(chunks[0].data)
                    self._bytes -= len(chunks.pop(0).data)
                raise
            self._unsent = []
            self._bytes -= sum(len(chunk.data) for chunk in chunks)
        if self._lost:
            log.warning("%d bytes of output are lost: they came faster than they could be stored", self._lost)
            self._lost = 0


def _progress(attempt: Attempt, done: float, total: float, message: str) -> Progress:
    grant = attempt.grant
    return Progress(grant.run, grant.task, grant.attempt, done, total, message)
