"""One connection of a node: frames both ways, in batches; see `skep.node.frames`."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, Final, Protocol

from skep.engine.protocol import OK, SUPERSEDED
from skep.errors import EngineUnavailableError, NotFoundError, RecordError, SkepError, StaleEpochError, SupersededError
from skep.hub.work import Work
from skep.model.node import Adopted, Grant, NodeInfo, Outcome
from skep.model.run import Token
from skep.node import frames
from skep.node.frames import PROTOCOL, Frame, FrameError, Reader, messages

log = logging.getLogger(__name__)

HELLO_S: Final = 10.0
"""For the first frame of a connection."""
STUCK_S: Final = 10.0
"""A node that does not take a message within this time is cut."""
LAZY_S: Final = 0.02
"""That reports are recorded is said along with something else, or after so long: nobody waits for it."""
CLOSE_S: Final = 1.0
HELLO_MOST: Final = 1 << 20
"""Bytes of what comes before a node is admitted."""
TAKE: Final = 1_000
"""Inbox entries in one frame."""
ASKING: Final = 256
"""Questions of one node that are being answered; with more than these nothing more is read."""
UNSENT: Final = 32 << 20
"""Bytes of answers that wait for a node to read; with more than these nothing more is read from it."""

TOKEN_AT: Final = {"load_checkpoint": 2, "save_checkpoint": 2, "get_state": 2, "put_state": 2, "claim": 2, "release": 1}
"""What a node may ask, and where the token stands among the arguments."""
VERBS: Final = frozenset({*TOKEN_AT, "put_artifact", "get_artifact"})

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


AWAY: Final = (EngineUnavailableError, StaleEpochError, RecordError)
"""What does not answer just now."""


class Gate(Protocol):
    """Who says whether a node comes in."""

    async def admit(self, connection: Connection, hello: frames.Hello) -> Frame:
        """`Welcome`, or why not."""
        ...


class Connection:
    """One node's."""

    def __init__(self, gate: Gate, work: Work, receive: Receive, send: Send, key: str = "") -> None:
        """`key`: the id of the key with which it came in."""
        self.key = key
        self.info: NodeInfo | None = None
        """Once it is admitted."""
        self.retired = False
        """It left in good order, or was told to."""
        self.dismissed = False
        """It was told to end because it may not be here any more."""
        self._gate = gate
        self.work = work
        self._receive, self._send = receive, send
        self._reader = Reader(frames.from_node, HELLO_MOST)
        self._out: list[Frame] = []
        self._urgent: list[Frame] = []
        self._wake = asyncio.Event()
        self._stirred = True
        self._presents = False
        """Whether it has still to present what it has: it takes nothing before."""
        self._sent = self._seen = 0
        """The last inbox entries that were sent, and that the node has acknowledged."""
        self.mine: set[Token] = set()
        """Leases that this server has given the node, as far as they are not reported yet."""
        self._unsent = 0
        self._sending = asyncio.Event()
        self._large = asyncio.Semaphore()
        """For what makes large answers: one at a time."""
        self._reports: deque[_Report] = deque()
        self._known_recorded = 0
        """A number for `Recorded` that is still to be said."""
        self._lazy: asyncio.TimerHandle | None = None
        self._asking: set[asyncio.Task[None]] = set()
        self._serving: asyncio.Task[None] | None = None
        self._writing: asyncio.Task[None] | None = None
        self._stops: list[Callable[[], None]] = []
        self._code = 1000
        """With which it is closed."""

    async def serve(self) -> None:
        """Until the connection ends. What it does is a task of its own, so that it can be ended at any time."""
        self._serving = asyncio.create_task(self._serve())
        try:
            await asyncio.wait([self._serving])
        finally:
            self._serving.cancel()
            for stop in self._stops:
                stop()
            tasks = [*self._asking, *((self._writing,) if self._writing is not None else ())]
            for task in tasks:
                task.cancel()
            if self._lazy is not None:
                self._lazy.cancel()
        if not self._serving.cancelled() and (error := self._serving.exception()) is not None:
            self._failed(error, "a fault of Skep's own; the connection of a node is cut")
        await self._close(self._code)

    def _failed(self, error: BaseException, what: str) -> None:
        """Databases that do not answer are told of by the loops; the node calls again, and says again what it said."""
        self._code = 1013
        if isinstance(error, AWAY):
            log.debug("%s: %s", what, error)
        else:
            log.error("%s", what, exc_info=error)

    async def _serve(self) -> None:
        try:
            async with asyncio.timeout(HELLO_S):
                hello, *rest = await self._greet()
            answer = await self._gate.admit(self, hello)
            if not isinstance(answer, frames.Welcome):
                self._code = 1008
                await self._tell(answer)
                return
            self.info = info = hello.info
            self._reader.most = frames.MOST
            if not answer.anew and hello.epoch == answer.epoch:
                self._sent = self._seen = hello.seen
            self._presents = answer.anew
            self._out.append(answer)
            self._stops = [self.work.on_recorded(self._recorded), self.work.listen(info.id, self._stir)]
            self._writing = asyncio.create_task(self._write(info))
            await self._read(info, rest)
        except TimeoutError:
            self._code = 1008
            await self._tell(frames.Refused("the first frame, Hello, did not come", PROTOCOL))
        except FrameError as error:
            log.warning("%s is cut: %s", f"node {self.info.id}" if self.info else "a connection", error)
            self._code = 1002
            await self._tell(frames.Refused(str(error), PROTOCOL))
        except _Gone:
            pass

    # -- reading

    async def _greet(self) -> list[Any]:
        if (await self._receive())["type"] != "websocket.connect":
            raise _Gone
        await self._send({"type": "websocket.accept"})
        while not (heard := await self._heard()):
            pass
        if type(heard[0]) is not frames.Hello:
            raise FrameError("the first frame must be Hello")
        return heard

    async def _heard(self) -> list[Any]:
        message = await self._receive()
        if message["type"] != "websocket.receive":
            raise _Gone
        data = message.get("bytes")
        if data is None:
            raise FrameError("frames come in binary messages")
        return self._reader.read(data)

    async def _read(self, info: NodeInfo, heard: Sequence[Any]) -> None:
        while True:
            for frame in heard:
                await self._take(info, frame)
                if self.retired:
                    return
            heard = await self._heard()

    async def _take(self, info: NodeInfo, frame: Any) -> None:
        kind = type(frame)
        if self.dismissed:
            raise _Gone
        if kind is frames.Report:
            self._acknowledge(frame.seen)
            report = _Report(frame.number)
            self._reports.append(report)
            if any(outcome.token[0] != self.work.epoch for outcome in frame.outcomes):
                self._aside(self._present(info, report, frames.Present(frame.number, [], frame.outcomes)))
            else:
                await self.work.report(await self._own(info, frame.outcomes))
                report.position = self.work.position()
        elif kind is frames.Beat:
            self._acknowledge(frame.seen)
            if await self.work.beat(info.id, info.incarnation, frame.leases, frame.seen) != OK:
                raise _Gone  # it was given up meanwhile: it calls again, and is admitted anew
            self._stirred = True  # should it not have heard of a grant, it hears of it now
            self._urgent.append(frames.Beaten(frame.number))
            self._wake.set()
        elif kind is frames.Ask:
            await self._answer_soon(frame.number, self._ask(frame.verb, frame.args))
        elif kind is frames.Logs:
            await self._answer_soon(frame.number, self.work.log(frame.chunks))
        elif kind is frames.Progressed:
            await self.work.progress(frame.items)
        elif kind is frames.Present:
            report = _Report(frame.number)
            self._reports.append(report)
            self._aside(self._present(info, report, frame))
        elif kind is frames.Drain:
            await self.work.drain(info.id)
        elif kind is frames.Retire:
            self.retired = True
            await self.work.retire(info.id, info.incarnation)
        else:
            raise FrameError(f"{kind.__name__} has no place here")

    async def _present(self, info: NodeInfo, report: _Report, frame: frames.Present) -> None:
        """May take as long as the server waits for its nodes."""
        epoch = self.work.epoch
        outcomes = await self._own(info, frame.outcomes)
        mine: list[Outcome] = [outcome for outcome in outcomes if outcome.token[0] == epoch]
        others = [outcome for outcome in outcomes if outcome.token[0] != epoch]
        if mine:
            answers = await self.work.report(mine)
            others += [outcome for outcome, answer in zip(mine, answers, strict=True) if answer == SUPERSEDED]
        await self.work.present(info.id, info.incarnation, frame.held, others, more=frame.more)
        report.position = self.work.position()
        self._recorded(self.work.mark)
        if not frame.more:
            self._presents = False
            self._wake.set()

    async def _own(self, info: NodeInfo, outcomes: list[Outcome]) -> list[Outcome]:
        """Without those of tasks that run on another node now: they are that node's to report."""
        mine = self.mine
        unsure = [outcome for outcome in outcomes if outcome.token not in mine]
        mine.difference_update([outcome.token for outcome in outcomes])
        if not unsure:
            return outcomes
        holders = await self.work.holders([(outcome.run, outcome.task) for outcome in unsure])
        strange = {o.token for o in unsure if holders.get((o.run, o.task), info.id) != info.id}
        if strange:
            log.warning("node %s reported %d attempts of other nodes; nothing was changed", info.id, len(strange))
        return [outcome for outcome in outcomes if outcome.token not in strange]

    def _acknowledge(self, seen: int) -> None:
        self._seen = min(max(seen, self._seen), self._sent)

    # -- questions

    async def _answer_soon(self, number: int, asked: Awaitable[Any]) -> None:
        self._aside(self._answer(number, asked))
        while len(self._asking) >= ASKING:
            await asyncio.wait(self._asking, return_when=asyncio.FIRST_COMPLETED)
        await self._room()

    async def _room(self) -> None:
        """Waits for the node to read what it asked for before."""
        while self._unsent > UNSENT:
            self._sending.clear()
            await self._sending.wait()

    def _aside(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._asking.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._asking.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(error, f"node {self.info.id if self.info else ''}: what it asked for failed")
            self.cut()

    async def _answer(self, number: int, asked: Awaitable[Any]) -> None:
        try:
            answer = frames.Answer(number, await asked)
            self._unsent += len(answer.value) if isinstance(answer.value, bytes) else 0
        except SkepError as error:
            answer = frames.Answer(number, error=(type(error).__name__, str(error)))
        except Exception as error:  # whoever waits for it must hear of it
            log.exception("node %s: what it asked for failed", self.info.id if self.info else "")
            answer = frames.Answer(number, error=("SkepError", f"{type(error).__name__}: {error}"))
        self._say(answer)

    async def _ask(self, verb: str, args: list[Any]) -> Any:
        if verb not in VERBS:
            raise SkepError(f"this server knows no '{verb}'")
        if (at := TOKEN_AT.get(verb)) is not None:
            epoch, number = args[at]
            token = args[at] = Token(epoch, number)
            if token not in self.mine:
                if verb == "release":
                    return None  # given by another server, or not this node's: the lock is freed with its lease
                await self._check(args[0], args[1])
        if verb == "get_artifact":
            async with self._large:
                await self._room()
                return await self.work.get_artifact(*args)
        return await getattr(self.work, verb)(*args)

    async def _check(self, run: str, task: int) -> None:
        """Raises SupersededError for a task that runs on another node."""
        assert self.info is not None
        if (await self.work.holders([(run, task)])).get((run, task), self.info.id) != self.info.id:
            raise SupersededError("the task runs on another node")

    # -- writing

    def _say(self, frame: Frame) -> None:
        self._out.append(frame)
        self._wake.set()

    def _stir(self) -> None:
        self._stirred = True
        self._wake.set()

    def _recorded(self, mark: int) -> None:
        """The record has everything up to `mark`."""
        number = 0
        while self._reports and 0 <= self._reports[0].position <= mark:
            number = self._reports.popleft().number
        if number:
            self._known_recorded = number
            if self._lazy is None:
                self._lazy = asyncio.get_running_loop().call_later(LAZY_S, self._wake.set)

    async def _write(self, info: NodeInfo) -> None:
        try:
            while True:
                self._wake.clear()
                if self._stirred and not self._presents:
                    await self._look(info)
                out, self._out = self._out, []
                self._unsent = 0
                self._sending.set()
                if self._known_recorded:
                    out.append(self._tell_recorded())
                for message in messages(out) if out else ():
                    await self._write_urgent()
                    await self._put(message)
                await self._write_urgent()
                if not self._stirred or self._presents:
                    await self._wake.wait()
        except NotFoundError:
            self.cut()  # it was given up meanwhile: it calls again, and is admitted anew
        except TimeoutError:
            log.warning("node %s does not read; it is cut", info.id)
            self.cut()
        except Exception:
            log.debug("node %s: its connection is gone", info.id, exc_info=True)
            self.cut()

    def _tell_recorded(self) -> Frame:
        number, self._known_recorded = self._known_recorded, 0
        if self._lazy is not None:
            self._lazy.cancel()
            self._lazy = None
        return frames.Recorded(number)

    async def _look(self, info: NodeInfo) -> None:
        """Takes what there is for the node. What was sent and not acknowledged comes first, and is left out."""
        limit = self._sent - self._seen + TAKE
        entries = await self.work.take(info.id, info.incarnation, self._seen, limit)
        self._stirred = len(entries) == limit
        fresh = [entry for entry in entries if entry.number > self._sent]
        if fresh:
            self._sent = fresh[-1].number
            self.mine.update([entry.entry.token for entry in fresh if type(entry.entry) in (Grant, Adopted)])
            self._out.append(frames.Inbox(fresh))

    async def _write_urgent(self) -> None:
        if self._urgent:
            urgent, self._urgent = self._urgent, []
            await self._put(frames.whole(urgent))

    async def _put(self, message: bytes) -> None:
        async with asyncio.timeout(STUCK_S):
            await self._send({"type": "websocket.send", "bytes": message})

    # -- the end

    def kick(self, reason: str, within_s: float = STUCK_S) -> None:
        """The node closes the connection itself once it has read why."""
        self.retired = True
        self._aside(self._tell(frames.Kick(reason)))
        asyncio.get_running_loop().call_later(within_s, self.cut)

    def dismiss(self, reason: str) -> None:
        """It may not be here any more."""
        self.dismissed = True
        if self.info is not None:
            self.kick(reason, CLOSE_S)
        else:
            self.cut(1008)

    def replaced(self, incarnation: int) -> None:
        """The node has another connection, perhaps of a later start."""
        if self.info is not None and incarnation > self.info.incarnation:
            self.kick(f"a later start of the node '{self.info.id}' has taken its place")
        else:
            self.cut()

    def cut(self, code: int = 1013) -> None:
        """Ends the connection at once. Harmless when repeated."""
        if self._serving is not None and not self._serving.done():
            self._code = code
            self._serving.cancel()

    async def _tell(self, frame: Frame) -> None:
        try:
            await self._put(frames.whole([frame]))
        except Exception:
            log.debug("a connection ended before it was told why", exc_info=True)

    async def _close(self, code: int) -> None:
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._send({"type": "websocket.close", "code": code})
        except Exception:
            log.debug("a connection ended before it was closed", exc_info=True)


class _Gone(Exception):
    """The connection has ended."""


class _Report:
    """A report of the node's."""

    __slots__ = ("number", "position")

    def __init__(self, number: int) -> None:
        self.number = number
        self.position = -1
        """The event with which the record has what followed from it; -1: not known yet."""
