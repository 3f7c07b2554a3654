"""The link: what a node asks of its server. In one process the hub answers it directly; later it travels in frames.

Every method takes and gives plain data of `skep.model`. The methods from `load_checkpoint` on are for the code of an
attempt and carry its fence: a caller whose lease is gone gets SupersededError.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from skep.engine.protocol import Answer, InboxEntry
from skep.model.node import LogChunk, NodeInfo, Outcome, Progress
from skep.model.run import Token


class Link(Protocol):
    """One node's way to its server."""

    async def register(self, info: NodeInfo, *, beats: bool) -> Answer: ...

    async def retire(self, node: str, incarnation: int) -> None: ...

    def listen(self, node: str, callback: Callable[[], None]) -> Callable[[], None]:
        """Calls back when there is something to `take`; answers how to stop."""
        ...

    async def take(self, node: str, incarnation: int, after: int, limit: int) -> list[InboxEntry]: ...

    async def report(self, outcomes: Sequence[Outcome]) -> list[Answer]:
        """How attempts ended. The server decides on retries."""
        ...

    async def log(self, chunks: Sequence[LogChunk]) -> None: ...

    async def progress(self, items: Sequence[Progress]) -> None: ...

    # for the code of an attempt

    async def load_checkpoint(self, run: str, task: int, token: Token) -> bytes | None: ...

    async def save_checkpoint(self, run: str, task: int, token: Token, data: bytes) -> None: ...

    async def get_state(self, run: str, task: int, token: Token, key: str) -> tuple[bytes, int] | None:
        """A value of the shared state of the run's namespace and its version."""
        ...

    async def put_state(
        self, run: str, task: int, token: Token, key: str, value: bytes, ttl_ms: int, expect: int | None
    ) -> int:
        """Answers the new version. Raises ConflictError when `expect` is not the version now (0: absent)."""
        ...

    async def claim(self, run: str, task: int, token: Token, key: str, units: int, hold_ms: int, wait: bool) -> Answer:
        """`ok`: held. `waiting`: a LockGrant follows in the inbox. Else the lease is gone."""
        ...

    async def release(self, run: str, token: Token, key: str) -> None: ...

    async def put_artifact(self, run: str, data: bytes) -> str:
        """Keeps bytes; answers their id."""
        ...

    async def get_artifact(self, artifact: str) -> bytes: ...
