"""Presence: servers that share an engine sign in the record now and again, each with the epoch for which it serves nodes.

So whoever leads a rejoin knows whom to wait for: a server may notice only seconds after the others that the engine is another
one, say because the machine of the old one died without a word, and until then no node can come by way of it.
"""

from __future__ import annotations

from typing import Final

from skep.clock import Clock
from skep.errors import SkepError
from skep.loop import Loop
from skep.record.protocol import Record

FLAG: Final = "server:"
"""Of the record's flags: `server:NAME`, with the epoch and when it was signed, in ms."""
SIGN_S: Final = 2.0
ALIVE_MS: Final = 10_000
"""A server that has not signed for so long is gone, as a node that is silent is."""
FORGET_MS: Final = 3_600_000


class Presence(Loop):
    """One server's."""

    name = "presence"
    interval_s = SIGN_S

    def __init__(self, record: Record, clock: Clock, server: str) -> None:
        super().__init__()
        self._record = record
        self._clock = clock
        self._flag = FLAG + server
        self._epoch = 0

    def serves(self, epoch: int) -> None:
        """From now on nodes can come to this epoch of the engine by way of this server."""
        self._epoch = epoch
        self.wake()

    async def run_once(self) -> bool:
        try:
            await self._record.set_flag(self._flag, f"{self._epoch} {self._clock.now_ms()}")
        except SkepError:
            pass  # that the record does not answer is told by others; nobody else can read it either
        return False

    async def leave(self) -> None:
        """It ends, and is waited for no more. Takes the signs of servers along that are long gone. Raises RecordError."""
        if not self.running:
            return
        await self.stop()
        now_ms = self._clock.now_ms()
        for flag, (_, at_ms) in (await _signs(self._record)).items():
            if flag == self._flag or now_ms - at_ms > FORGET_MS:
                await self._record.set_flag(flag, None)


async def late(record: Record, clock: Clock, epoch: int) -> bool:
    """Whether a server is alive that does not serve nodes for this epoch of the engine yet. Raises RecordError."""
    now_ms = clock.now_ms()
    return any(signed < epoch and abs(now_ms - at_ms) < ALIVE_MS for signed, at_ms in (await _signs(record)).values())


async def _signs(record: Record) -> dict[str, tuple[int, int]]:
    """By flag, the epoch and when it was signed."""
    found = {flag: value.split() for flag, value in (await record.flags()).items() if flag.startswith(FLAG)}
    return {flag: (int(words[0]), int(words[1])) for flag, words in found.items()}
