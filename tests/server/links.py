"""A server whose engine does what the test says, behind a real socket, and nodes at the other end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from starlette.applications import Starlette
from websockets.asyncio.client import ClientConnection, unix_connect

from skep.clock import SystemClock
from skep.engine.protocol import OK, Answer, Beat, InboxEntry
from skep.errors import NotFoundError
from skep.model.node import Call, Grant, Held, LiveNode, LogChunk, NodeInfo, Outcome, Progress
from skep.model.run import Claim, Token
from skep.node.attempt import Attempt, Host
from skep.node.dial import LINK_PATH, dial_unix
from skep.node.node import Node
from skep.node.remote import RemoteLink
from skep.server.link import MAX_MESSAGE, Links
from skep.server.listen import Listener


class FakeWork:
    """The door for nodes, and the record behind it: `record` moves the mark."""

    def __init__(self, epoch: int = 7) -> None:
        self.epoch = epoch
        self.mark = 0
        self.events = 0
        self.registered: dict[str, int] = {}
        self.identities: dict[str, str] = {}
        self.elsewhere: dict[tuple[str, int], str] = {}
        """Tasks that run on some node."""
        self.inbox: list[InboxEntry] = []
        self.outcomes: list[Outcome] = []
        self.complete = 0
        """How often a node has shown all that it has."""
        self.expected: list[str] = []
        """Nodes that have joined and are to present what they have."""
        self.coming: set[str] = set()
        """Of those the ones that have not taken anything yet."""
        self.lets_in = asyncio.Event()
        """Whether what nodes present is taken up."""
        self.lets_in.set()
        self.calls = 0
        """How often a node has called."""
        self.admits = asyncio.Event()
        """Whether those who call hear anything."""
        self.admits.set()
        self.presented: list[tuple[list[Held], list[Outcome]]] = []
        self.beats: list[Beat] = []
        self.retired: list[tuple[str, bool]] = []
        self.drained: list[str] = []
        self.asked: list[tuple[str, tuple[Any, ...]]] = []
        self.answers: dict[str, Any] = {}
        self.chunks: list[LogChunk] = []
        self.shown: list[Progress] = []
        self.artifacts: list[bytes] = []
        self.changed = asyncio.Event()
        self._listeners: dict[str, Callable[[], None]] = {}
        self._recorded: list[Callable[[int], None]] = []

    def _note(self) -> None:
        self.changed.set()

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    # what the test does

    def give(self, *entries: Any) -> None:
        for entry in entries:
            self.inbox.append(InboxEntry(len(self.inbox) + 1, entry))
        for callback in tuple(self._listeners.values()):
            callback()

    def record(self) -> None:
        """Everything that was reported is recorded."""
        self.mark = self.events
        for callback in tuple(self._recorded):
            callback(self.mark)

    # what the link does

    async def live(self, node: str) -> LiveNode | None:
        incarnation = self.registered.get(node)
        self.calls += 1
        self._note()
        await self.admits.wait()
        if incarnation is None:
            return None
        info = NodeInfo(node, incarnation, identity=self.identities.get(node, ""))
        return LiveNode(info, {}, 0, False, coming=node in self.coming)

    async def holders(self, tasks: Sequence[tuple[str, int]]) -> dict[tuple[str, int], str]:
        return {task: self.elsewhere[task] for task in tasks if task in self.elsewhere}

    async def register(self, info: NodeInfo, *, beats: bool, coming: bool = False) -> Answer:
        if self.registered.get(info.id, 0) > info.incarnation:
            return "refused"
        self.registered[info.id] = info.incarnation
        self.identities[info.id] = info.identity
        if coming:
            self.expected.append(info.id)
            self.coming.add(info.id)
        self._note()
        return OK

    async def retire(self, node: str, incarnation: int) -> None:
        self.registered.pop(node, None)
        self.retired.append((node, False))
        self._note()

    async def lose(self, node: str, incarnation: int) -> bool:
        self.registered.pop(node, None)
        self.retired.append((node, True))
        self._note()
        return True

    async def drain(self, node: str, on: bool = True) -> Answer:
        self.drained.append(node)
        self._note()
        return OK

    def listen(self, node: str, callback: Callable[[], None]) -> Callable[[], None]:
        self._listeners[node] = callback
        return lambda: None

    def on_recorded(self, callback: Callable[[int], None]) -> Callable[[], None]:
        self._recorded.append(callback)
        return lambda: self._recorded.remove(callback)

    async def take(self, node: str, incarnation: int, after: int, limit: int) -> list[InboxEntry]:
        if self.registered.get(node) != incarnation:
            raise NotFoundError(node)
        self.coming.discard(node)
        return [entry for entry in self.inbox if entry.number > after][:limit]

    async def report(self, outcomes: Sequence[Outcome]) -> list[Answer]:
        self.outcomes += outcomes
        self.events += len(outcomes)
        self._note()
        return [OK] * len(outcomes)

    def position(self) -> int:
        return self.events

    async def present(
        self, node: str, incarnation: int, held: Sequence[Held], outcomes: Sequence[Outcome], *, more: bool = False
    ) -> None:
        self.presented.append((list(held), list(outcomes)))
        self._note()
        await self.lets_in.wait()
        if not more:
            self.complete += 1
        self.events += len(outcomes)
        self._note()

    async def beat(self, node: str, incarnation: int, leases: Sequence[Token], seen: int) -> Answer:
        beat = Beat(node, incarnation, tuple(leases), seen)
        self.beats.append(beat)
        self._note()
        return OK if self.registered.get(beat.node) == beat.incarnation else "not_found"

    async def log(self, chunks: Sequence[LogChunk]) -> None:
        self.chunks += chunks
        self._note()

    async def progress(self, items: Sequence[Progress]) -> None:
        self.shown += items
        self._note()

    async def put_artifact(self, run: str, data: bytes) -> str:
        self.artifacts.append(data)
        self._note()
        return f"artifact-{len(self.artifacts)}"

    async def get_artifact(self, artifact: str) -> bytes:
        return self.artifacts[0]

    def __getattr__(self, verb: str) -> Any:
        async def answer(*args: Any) -> Any:
            self.asked.append((verb, args))
            self._note()
            found = self.answers.get(verb)
            if isinstance(found, Exception):
                raise found
            return await found if isinstance(found, asyncio.Future) else found

        if verb.startswith("_"):
            raise AttributeError(verb)
        return answer


class Served:
    """One life of a server."""

    def __init__(self, path: Path, work: FakeWork, **given: Any) -> None:
        self.path = path
        self.work = work
        self.links = Links(work, **given)  # type: ignore[arg-type]
        self._listener = Listener(Starlette(routes=self.links.routes), path, MAX_MESSAGE)

    async def start(self) -> Served:
        await self._listener.start()
        return self

    async def stop(self) -> None:
        await self.links.close()
        await self._listener.stop()

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[ClientConnection]:
        """A bare connection."""
        async with unix_connect(str(self.path), f"ws://localhost{LINK_PATH}", compression=None, max_size=None) as opened:
            yield opened


class Hands:
    """An executor whose attempts the test ends."""

    name = "python"

    def __init__(self) -> None:
        self.attempts: dict[str, Attempt] = {}
        self.stopped: list[str] = []
        self.slow = False
        """Whether what is stopped goes on until the test ends it."""
        self.changed = asyncio.Event()
        self.host: Host

    async def open(self, host: Host) -> None:
        self.host = host

    async def close(self) -> None: ...

    def start(self, attempt: Attempt) -> None:
        self.attempts[attempt.grant.name] = attempt
        self.changed.set()

    def stop(self, attempt: Attempt) -> None:
        self.stopped.append(attempt.grant.name)
        if not self.slow:
            attempt.succeed()
        self.changed.set()

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


class Joined:
    """A node over a real link, whose work is in the test's hands."""

    def __init__(self, path: Path, name: str = "n", incarnation: int = 1, **given: Any) -> None:
        self.hands = Hands()
        self.link = RemoteLink(dial_unix(path), **given)
        self.node = self.link.holder = Node(NodeInfo(name, incarnation, slots=10), self.link, [self.hands], SystemClock())

    async def __aenter__(self) -> Joined:
        await self.node.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.node.close(give_back=True)


def grant(name: str, number: int, epoch: int = 7, claims: tuple[Claim, ...] = ()) -> Grant:
    call = msgspec.json.encode(Call("python", "x:y"))
    return Grant("run-1", number, name, 1, Token(epoch, number), call, takes=(("slots", 1),), claims=claims)
