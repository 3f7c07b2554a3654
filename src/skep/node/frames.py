"""The frames that a node and its server exchange, and how they travel.

A message is a msgpack list of frames, so whatever gathers while one message is on its way goes in the next. One that would be
large travels as several, each with one `Part`; only urgent frames overtake it. The first frame from a node is `Hello`, and the
first answer `Welcome` or `Refused`.

    node                                   server
      Hello ──────────────────────────────►  registers the node, unless it knows this incarnation
      ◄────────────────────────────── Welcome  (anew: it did not)
      Present (if anew) ──────────────────►  adopts leases, applies outcomes
      ◄──────────────────────────────── Inbox  grants, stops, locks, new tokens
      Report ─────────────────────────────►
      ◄───────────────────────────── Recorded  the record has the reports up to this one: forget them
      Beat ───────────────────────────────►
      ◄─────────────────────────────── Beaten
      Ask, Logs ──────────────────────────►
      ◄─────────────────────────────── Answer
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeVar

import msgspec

from skep.engine.protocol import InboxEntry
from skep.errors import SkepError
from skep.model.node import Held, LogChunk, NodeInfo, Outcome, Progress
from skep.model.run import Token

PROTOCOL: Final = 1
"""Version of these frames. One apart is understood: fields are only ever added at the end, with defaults."""
PART: Final = 512 * 1024
"""Bytes of one message, about; the most of a part."""
MOST: Final = 96 * 1024 * 1024
"""Bytes of frames that belong together: an output of 64 MiB, and room for what is around it."""
MESSAGE: Final = 8 * PART
"""Bytes of one message, at the most: larger ones are garbage."""
BEAT_S: Final = 2.0
"""Between two signs of life."""


class Frame(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    """One of the frames below."""


# -- node → server


class Hello(Frame, frozen=True, gc=False):
    """The first of a connection."""

    version: int
    info: NodeInfo
    epoch: int = 0
    """Of the engine it last worked for; 0 for none."""
    seen: int = 0
    """Number of the last inbox entry it has received from that engine."""
    skep: str = ""
    """Version of Skep."""


class Present(Frame, frozen=True, gc=False):
    """After a `Welcome` that says `anew`: the leases that the node works on, and all outcomes that are not recorded."""

    number: int
    """Of this report; see `Report`."""
    held: list[Held]
    outcomes: list[Outcome]
    more: bool = False
    """Whether another one follows: outcomes may be too large for one. The last has the leases."""


class Beat(Frame, frozen=True, gc=False):
    """Every `BEAT_S`. Answered by `Beaten`."""

    number: int
    leases: list[Token]
    """Every lease held, or whose outcome is not known to be recorded."""
    seen: int


class Report(Frame, frozen=True, gc=False):
    """How attempts ended; numbered from 1 in each connection. Answered in time by `Recorded`, of this or a later one."""

    number: int
    outcomes: list[Outcome]
    seen: int


class Logs(Frame, frozen=True, gc=False):
    """What attempts wrote. Answered by `Answer`."""

    number: int
    chunks: list[LogChunk]


class Progressed(Frame, frozen=True, gc=False):
    """How far attempts say they are."""

    items: list[Progress]


class Ask(Frame, frozen=True, gc=False):
    """A method of `skep.node.link.Link` that code of an attempt asked for. Answered by `Answer`."""

    number: int
    verb: str
    args: list[Any]


class Drain(Frame, frozen=True, gc=False):
    """The node wants nothing new, and leaves when what it has is done."""


class Retire(Frame, frozen=True, gc=False):
    """The node leaves: what it still has returns to ready. The connection ends after it."""


# -- server → node


class Welcome(Frame, frozen=True, gc=False):
    """The node is admitted."""

    version: int
    epoch: int
    anew: bool
    """The engine had not known it: its inbox begins at 1, and the node presents what it has."""
    skep: str = ""


class Refused(Frame, frozen=True, gc=False):
    """The node is not admitted, and need not ask again. The connection ends after it."""

    reason: str
    version: int
    """The server's protocol version."""
    asked: int = 0
    """The node's, as the server read it."""


class Inbox(Frame, frozen=True, gc=False):
    """What the node is given, in order."""

    entries: list[InboxEntry]


class Recorded(Frame, frozen=True, gc=False):
    """The record has what followed from all reports of this connection up to this one."""

    number: int


class Beaten(Frame, frozen=True, gc=False):
    """A beat was heard."""

    number: int


class Answer(Frame, frozen=True, gc=False):
    """To an `Ask` or `Logs`. `error`: the name of an error of Skep's and its text."""

    number: int
    value: Any = None
    error: tuple[str, str] | None = None


class Kick(Frame, frozen=True, gc=False):
    """The node shall end: it has been replaced, or is not wanted any more. The connection ends after it."""

    reason: str


# -- both ways


class Part(Frame, frozen=True, gc=False):
    """A piece of a large list of frames; they follow each other in order."""

    data: bytes
    last: bool


FromNode = Hello | Present | Beat | Report | Logs | Progressed | Ask | Drain | Retire | Part
FromServer = Welcome | Refused | Inbox | Recorded | Beaten | Answer | Kick | Part

from_node: Final = msgspec.msgpack.Decoder(list[FromNode])
from_server: Final = msgspec.msgpack.Decoder(list[FromServer])

_encode = msgspec.msgpack.Encoder().encode

F = TypeVar("F")


class FrameError(SkepError):
    """What came is no list of frames, or too large."""


def messages(frames: Sequence[Frame]) -> Iterator[bytes]:
    """The messages in which these frames travel."""
    data = _encode(frames)
    if len(data) <= PART:
        yield data
        return
    for start in range(0, len(data), PART):
        yield _encode([Part(data[start : start + PART], start + PART >= len(data))])


def whole(frames: Sequence[Frame]) -> bytes:
    """One message for frames that may stand between the parts of others."""
    return _encode(frames)


class Reader:
    """Makes frames of messages."""

    def __init__(self, decoder: msgspec.msgpack.Decoder[list[F]], most: int = MOST) -> None:
        self.most = most
        """Bytes of frames that belong together."""
        self._decode = decoder.decode
        self._parts = bytearray()

    def read(self, message: bytes) -> list[Any]:
        """Raises FrameError."""
        frames = self._decoded(message)
        if any(type(frame) is Part for frame in frames):
            return [whole for frame in frames for whole in (self._gather(frame) if type(frame) is Part else (frame,))]
        return frames

    def _gather(self, part: Part) -> list[Any]:
        self._parts += part.data
        if len(self._parts) > self.most:
            raise FrameError(f"frames of more than {self.most // 2**20} MiB")
        if not part.last:
            return []
        whole, self._parts = self._parts, bytearray()
        frames = self._decoded(whole)
        if any(type(frame) is Part for frame in frames):
            raise FrameError("a part within parts")
        return frames

    def _decoded(self, data: bytes | bytearray) -> list[Any]:
        try:
            return self._decode(data)
        except msgspec.MsgspecError as error:
            raise FrameError(f"these are no frames of protocol {PROTOCOL}: {error}") from None
        except RecursionError:
            raise FrameError("frames that are nested without end") from None
