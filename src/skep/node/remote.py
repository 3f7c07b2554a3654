"""The link of a node that is a process of its own: frames over a connection that may come and go.

Nothing that the node said is lost by that. Outcomes are kept until they are recorded and said again on the next connection;
questions wait for their answer, and are asked again. A server that does not know the node (any more) is first shown what it
works on: see `skep.node.frames`.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Protocol

from skep.engine.protocol import OK, Answer, InboxEntry
from skep.errors import RefusedError
from skep.model.node import Adopted, Grant, Held, LogChunk, NodeInfo, Outcome, Progress, Stop
from skep.model.run import Token
from skep.node import frames
from skep.node.attempt import SUPERSEDED
from skep.node.dial import Connection, ConnectionEnded, Dial, NotAdmitted
from skep.node.frames import BEAT_S, PROTOCOL, Frame, FrameError, Reader, messages
from skep.node.questions import AskedTwice, Questions
from skep.node.tokens import Tokens
from skep.node.unrecorded import Unrecorded
from skep.version import VERSION

log = logging.getLogger(__name__)

FIRST_PAUSE_S: Final = 0.02
LONGEST_PAUSE_S: Final = 1.0
"""Between two calls."""
WELCOME_S: Final = 10.0
"""For a server to say whether the node is admitted."""
ASK_S: Final = 60.0
"""For an answer: a server may restart meanwhile."""
DEAF_S: Final = 10.0
"""A connection on which no beat was acknowledged for so long is given up."""
FENCE_S: Final = 12.0
"""After the last acknowledged beat: what the fleet shares is given to others at 15 s."""
LATER_S: Final = 0.5
"""So much after the node should have ended them, processes of attempts end by themselves: it stands still."""
ALONE_S: Final = 24 * 3600.0
"""How long attempts go on without a server."""
LEAVE_S: Final = 2.0
AGAIN_S: Final = 30.0
"""Between two lines of the log about a server that cannot be reached."""
LOOKS: Final = 8
"""At the time that has passed, for each beat."""


class Holder(Protocol):
    """The node, as its link sees it."""

    def leases(self) -> list[Token]: ...

    def held(self) -> list[Held]: ...

    def heard(self, left_s: float) -> None: ...

    def fence(self) -> None: ...

    def give_up(self) -> None: ...


class RemoteLink:
    """A `Link` over whatever `dial` connects to."""

    def __init__(
        self, dial: Dial, *, ask_s: float = ASK_S, beat_s: float = BEAT_S, fence_s: float = FENCE_S, alone_s: float = ALONE_S
    ) -> None:
        self._dial = dial
        self._beat_s, self._fence_s, self._alone_s = beat_s, fence_s, alone_s
        self.holder: Holder | None = None
        """To be set before `register`."""
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Why the node is not wanted; done only if it is not."""
        self.connected = False
        """Admitted, and the connection is there."""
        self.epoch = 0
        self._info: NodeInfo
        self._seen = 0
        """The last inbox entry of this epoch that was received."""
        self._presented = 0
        """Number of the report that presents the node to an engine that did not know it, until it is recorded."""
        self._known = False
        """Whether that engine has everything that this node held before."""
        self._draining = self._leaving = False
        self._tokens = Tokens()
        self._unrecorded = Unrecorded()
        self._questions = Questions(ask_s)
        self._inbox: list[InboxEntry] = []
        self._taken = 0
        self._listener: Callable[[], None] = lambda: None
        self._out: list[Frame] = []
        self._urgent: list[Frame] = []
        self._wake = asyncio.Event()
        self._beats: dict[int, float] = {}
        self._beat_number = 0
        self._beaten = 0.0
        self._greeted = 0.0
        self._told = -AGAIN_S
        """When it was last said that no server answers."""
        self._connection: Connection | None = None
        self._acknowledged = self._now()
        """When the last beat was sent that the server has answered."""
        self._first_welcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tasks: list[asyncio.Task[None]] = []

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    @property
    def unrecorded(self) -> int:
        """Outcomes that the record has not, as far as is known here."""
        return self._unrecorded.count

    # -- the link

    async def register(self, info: NodeInfo, *, beats: bool) -> Answer:
        """Calls until a server has admitted the node. Raises RefusedError when it is not wanted."""
        self._info = info
        self._acknowledged = self._now()
        self._tasks = [asyncio.create_task(self._run(), name="skep-link"), asyncio.create_task(self._watch(), name="skep-beat")]
        answers: list[asyncio.Future[Any]] = [self._first_welcome, self.ended]
        await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED)
        if self.ended.done():
            raise RefusedError(self.ended.result())
        return OK

    def drain(self) -> None:
        """Wants nothing new."""
        self._draining = True
        if self.connected:
            self._send(frames.Drain())

    async def retire(self, node: str, incarnation: int) -> None:
        """Leaves, and ends the connection."""
        self._leaving = True
        if self.connected:
            self._send(frames.Retire())
            await asyncio.wait(self._tasks[:1], timeout=LEAVE_S)
        await self.close()

    async def close(self) -> None:
        """Ends the connection without a word. Harmless when repeated."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def listen(self, node: str, callback: Callable[[], None]) -> Callable[[], None]:
        self._listener = callback
        return self._deafen

    def _deafen(self) -> None:
        self._listener = lambda: None

    async def take(self, node: str, incarnation: int, after: int, limit: int) -> list[InboxEntry]:
        """Numbered anew, because a server that was opened anew begins at 1."""
        if limit >= len(self._inbox):
            taken, self._inbox = self._inbox, []
        else:
            taken, self._inbox = self._inbox[:limit], self._inbox[limit:]
        return taken

    async def report(self, outcomes: Sequence[Outcome]) -> list[Answer]:
        """Keeps them; that they are recorded shows later."""
        for number, part in self._unrecorded.keep(outcomes, self.connected):
            self._send(frames.Report(number, self._tokens.outcomes(part), self._seen))
        return [OK] * len(outcomes)

    async def log(self, chunks: Sequence[LogChunk]) -> None:
        await self._questions.ask(None, lambda number: self._send(frames.Logs(number, list(chunks))))

    async def progress(self, items: Sequence[Progress]) -> None:
        if self.connected:
            self._send(frames.Progressed(list(items)))

    # -- for the code of an attempt

    async def _ask(self, verb: str, token: Token | None, *args: Any) -> Any:
        return await self._questions.ask(token, partial(self._put, verb, args))

    def _put(self, verb: str, args: Sequence[Any], number: int) -> None:
        self._send(frames.Ask(number, verb, [self._tokens.now(arg) if type(arg) is Token else arg for arg in args]))

    async def load_checkpoint(self, run: str, task: int, token: Token) -> bytes | None:
        found: bytes | None = await self._ask("load_checkpoint", token, run, task, token)
        return found

    async def save_checkpoint(self, run: str, task: int, token: Token, data: bytes) -> None:
        await self._ask("save_checkpoint", token, run, task, token, data)

    async def get_state(self, run: str, task: int, token: Token, key: str) -> tuple[bytes, int] | None:
        found = await self._ask("get_state", token, run, task, token, key)
        return None if found is None else (found[0], found[1])

    async def put_state(
        self, run: str, task: int, token: Token, key: str, value: bytes, ttl_ms: int, expect: int | None
    ) -> int:
        try:
            return int(await self._ask("put_state", token, run, task, token, key, value, ttl_ms, expect))
        except AskedTwice:
            found = await self.get_state(run, task, token, key)
            if found == (value, (expect or 0) + 1):
                return found[1]  # it was done the first time, and only the answer was lost
            raise

    async def claim(self, run: str, task: int, token: Token, key: str, units: int, hold_ms: int, wait: bool) -> Answer:
        answer: Answer = await self._ask("claim", token, run, task, token, key, units, hold_ms, wait)
        return answer

    async def release(self, run: str, token: Token, key: str) -> None:
        await self._ask("release", token, run, token, key)

    async def put_artifact(self, run: str, data: bytes) -> str:
        return str(await self._ask("put_artifact", None, run, data))

    async def get_artifact(self, artifact: str) -> bytes:
        data: bytes = await self._ask("get_artifact", None, artifact)
        return data

    # -- the connection

    async def _run(self) -> None:
        pause_s = FIRST_PAUSE_S
        while not self._leaving and not self.ended.done():
            try:
                connection = await self._dial()
            except NotAdmitted as error:
                self.ended.set_result(str(error))
                return
            except ConnectionEnded as error:
                self._say_away(error, pause_s)
            else:
                if await self._talk(connection):
                    pause_s = FIRST_PAUSE_S
            if not self._leaving:
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    def _say_away(self, error: ConnectionEnded, pause_s: float) -> None:
        """Once it is more than a hiccup, and then now and again."""
        now = self._now()
        if pause_s >= LONGEST_PAUSE_S and now - self._told >= AGAIN_S:
            self._told = now
            log.warning("no server: %s; tried again until one answers", error)

    async def _talk(self, connection: Connection) -> bool:
        """Until the connection ends. True if the node was admitted."""
        welcomed = False
        self._connection = connection
        reader = Reader(frames.from_server)
        writing: asyncio.Task[None] | None = None
        try:
            async with asyncio.timeout(WELCOME_S):
                first = await self._greet(connection, reader)
            if not isinstance(first[0], frames.Welcome):
                self._end(first[0])
                return False
            welcomed = True
            self._told = -AGAIN_S
            log.info("%s: joined %s, which has Skep %s", self._info.id, connection.place, first[0].skep)
            self._welcomed(first[0])
            writing = asyncio.create_task(self._write(connection))
            self._hear(first[1:])
            while not self.ended.done():
                self._hear(reader.read(await connection.receive()))
        except (ConnectionEnded, TimeoutError) as error:
            if not self._leaving:
                log.info("%s: the connection to %s has ended: %s", self._info.id, connection.place, error or "no answer")
        except FrameError as error:
            log.warning("the server cannot be understood, and is called again: %s", error)
        except Exception:
            log.exception("a fault of Skep's own; the server is called again")
        finally:
            self._connection = None
            self.connected = self._questions.connected = False
            self._out, self._urgent = [], []
            if writing is not None:
                writing.cancel()
            await connection.close()
        return welcomed

    async def _greet(self, connection: Connection, reader: Reader) -> list[Any]:
        hello = frames.Hello(PROTOCOL, self._info, self.epoch, self._seen, VERSION)
        self._greeted = self._now()
        for message in messages([hello]):
            await connection.send(message)
        while True:
            if heard := reader.read(await connection.receive()):
                return heard

    def _end(self, frame: Any) -> None:
        """The server does not want this node."""
        if isinstance(frame, frames.Refused | frames.Kick) and not self.ended.done():
            self.ended.set_result(frame.reason)

    def _welcomed(self, welcome: frames.Welcome) -> None:
        self.connected = True
        self._acknowledged = self._greeted
        self._tell_holder()
        self._beats.clear()
        if welcome.anew or welcome.epoch != self.epoch:
            self._known = False
            self._seen = 0
        self.epoch = welcome.epoch
        reports = [(number, self._tokens.outcomes(part)) for number, part in self._unrecorded.again()]
        self._presented = 0
        unsettled: Sequence[Token] = ()
        if not self._known:
            held = [*(self.holder.held() if self.holder is not None else ()), *map(Held, self._untaken())]
            if not welcome.anew:  # it has its own leases as before
                held = [one for one in held if self._tokens.now(one.grant.token).epoch != welcome.epoch]
            number, last = reports.pop() if reports else (self._unrecorded.next_number(), [])
            for earlier, part in reports:
                self._send(frames.Present(earlier, [], part, more=True))
            self._presented = number
            self._send(frames.Present(number, self._tokens.held(held), last))
            unsettled = [one.grant.token for one in held]
        else:
            for number, part in reports:
                self._send(frames.Report(number, part, self._seen))
        self._questions.again(unsettled)
        if self._draining:
            self._send(frames.Drain())
        self._beat()
        if not self._first_welcome.done():
            self._first_welcome.set_result(None)

    def _send(self, frame: Frame) -> None:
        self._out.append(frame)
        self._wake.set()

    async def _write(self, connection: Connection) -> None:
        try:
            while True:
                self._wake.clear()
                out, self._out = self._out, []
                for message in messages(out) if out else ():
                    await self._write_urgent(connection)
                    await connection.send(message)
                await self._write_urgent(connection)
                await self._wake.wait()
        except ConnectionEnded:
            await connection.close()  # whoever reads from it learns of it

    async def _write_urgent(self, connection: Connection) -> None:
        if self._urgent:
            urgent, self._urgent = self._urgent, []
            await connection.send(frames.whole(urgent))

    # -- what the server says

    def _hear(self, heard: Sequence[Any]) -> None:
        for frame in heard:
            kind = type(frame)
            if kind is frames.Inbox:
                self._receive(frame.entries)
            elif kind is frames.Recorded:
                self._recorded(frame.number)
            elif kind is frames.Answer:
                self._questions.answer(frame)
            elif kind is frames.Beaten:
                self._acknowledged = max(self._beats.pop(frame.number, 0.0), self._acknowledged)
                self._tell_holder()
            else:
                self._end(frame)

    def _tell_holder(self) -> None:
        if self.holder is not None:
            self.holder.heard(self._fence_s + LATER_S - (self._now() - self._acknowledged))

    def _receive(self, entries: Sequence[InboxEntry]) -> None:
        for entry in entries:
            if entry.number <= self._seen:
                continue
            self._seen = entry.number
            given = self._tokens.entry(entry)
            self._taken += 1
            self._inbox.append(InboxEntry(self._taken, given))
            if type(given) is Adopted:
                self._questions.settled(given.old)
            elif type(given) is Stop and given.reason == SUPERSEDED:
                self._questions.superseded(given.token)
                self._tokens.forget(given.token)
        self._listener()

    def _recorded(self, number: int) -> None:
        for outcome in self._unrecorded.recorded(number):
            self._tokens.forget(outcome.token)
        if self._presented and self._presented <= number:
            self._presented = 0
            self._known = True

    def _untaken(self) -> list[Grant]:
        """Received, but not yet with the node."""
        return [entry.entry for entry in self._inbox if type(entry.entry) is Grant]

    # -- signs of life

    def _beat(self) -> None:
        leases = self.holder.leases() if self.holder is not None else []
        leases += [grant.token for grant in self._untaken()]
        leases += [outcome.token for outcome in self._unrecorded]
        self._beat_number += 1
        self._beats[self._beat_number] = self._beaten = self._now()
        self._urgent.append(frames.Beat(self._beat_number, [self._tokens.now(token) for token in leases], self._seen))
        self._wake.set()

    async def _watch(self) -> None:
        """Beats, and looks how long it is since the server has heard one."""
        while not self.ended.done():
            await asyncio.sleep(self._beat_s / LOOKS)
            now = self._now()
            silent_s = now - self._acknowledged
            if self.connected and now - self._beaten >= self._beat_s:
                self._beat()
            if self._connection is not None and now - max(self._greeted, self._acknowledged) >= DEAF_S:
                await self._connection.close()  # whoever reads from it learns of it
            if self.holder is not None and silent_s >= self._fence_s:
                self.holder.fence()
            if self.holder is not None and silent_s >= self._alone_s:
                self.holder.give_up()
