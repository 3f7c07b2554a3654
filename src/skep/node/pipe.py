"""What a supervisor and a worker of its pool say to each other, over a stream socket.

Frames cross it in lists (msgpack behind a length of four bytes): one write for whatever gathered in a turn of the loop.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from skep.model.node import ErrorInfo, Grant

LENGTH: Final = struct.Struct("!I")
WHOLE: Final = 1024 * 1024
"""Bytes of frames that go in one piece; of more than these each goes alone."""

_encode = msgspec.msgpack.Encoder().encode


class Frame(msgspec.Struct, frozen=True, tag=True, array_like=True, gc=False):
    """One of the frames below."""


class Base(Frame, frozen=True, gc=False):
    """supervisor → worker: where relative paths start and modules are looked for first. Once, before any work."""

    path: str


class Secrets(Frame, frozen=True, gc=False):
    """supervisor → worker: before the first task that names one."""

    values: dict[str, str]


class Begin(Frame, frozen=True, gc=False):
    """supervisor → worker: one attempt, which both call by this number. Answered by `Ended`."""

    number: int
    grant: Grant


class Halt(Frame, frozen=True, gc=False):
    """supervisor → worker: ends an attempt."""

    number: int
    reason: str


class Answer(Frame, frozen=True, gc=False):
    """supervisor → worker: to an `Ask`. `error` is the name of an error of Skep's and its text."""

    ask: int
    value: Any = None
    error: tuple[str, str] | None = None


class Ready(Frame, frozen=True, gc=False):
    """worker → supervisor: waits for work."""


class Ended(Frame, frozen=True, gc=False):
    """worker → supervisor: an error, a delay (snoozed), else an output."""

    number: int
    output: bytes = b""
    error: ErrorInfo | None = None
    delay_ms: int = 0
    left: bool = False
    """Its code goes on all the same: it could not be stopped."""


class Written(Frame, frozen=True, gc=False):
    """worker → supervisor: output of an attempt."""

    number: int
    stream: str
    data: bytes


class Progressed(Frame, frozen=True, gc=False):
    """worker → supervisor."""

    number: int
    done: float
    total: float
    message: str


class Ask(Frame, frozen=True, gc=False):
    """worker → supervisor: a verb of `skep.node.context.VERBS`. Answered by `Answer`."""

    number: int
    ask: int
    verb: str
    args: list[Any]


class Loaded(Frame, frozen=True, gc=False):
    """worker → supervisor: files of modules that were imported from below the base, each with its time and size."""

    files: list[tuple[str, int, int]]


ToWorker = Base | Secrets | Begin | Halt | Answer
FromWorker = Ready | Ended | Written | Progressed | Ask | Loaded

to_worker: Final = msgspec.msgpack.Decoder(list[ToWorker])
from_worker: Final = msgspec.msgpack.Decoder(list[FromWorker])


def packed(frames: list[Frame]) -> Iterator[bytes]:
    """The bytes of frames."""
    body = _encode(frames)
    if len(body) <= WHOLE or len(frames) == 1:
        yield LENGTH.pack(len(body)) + body
        return
    for frame in frames:
        yield from packed([frame])


class Unpacker:
    """Cuts a stream into lists of frames."""

    def __init__(self, decoder: msgspec.msgpack.Decoder[list[Any]], most: int) -> None:
        self._decode = decoder.decode
        self._most = most
        self._heard = bytearray()

    def feed(self, data: bytes) -> Iterator[list[Any]]:
        """Raises msgspec.DecodeError."""
        self._heard += data
        start, heard = 0, self._heard
        try:
            while len(heard) - start >= LENGTH.size:
                end = start + LENGTH.size + LENGTH.unpack_from(heard, start)[0]
                if end - start > self._most:
                    raise msgspec.DecodeError(f"frames of {end - start} bytes")
                if len(heard) < end:
                    break
                with memoryview(heard) as view:
                    frames = self._decode(view[start + LENGTH.size : end])
                start = end
                yield frames
        finally:
            del heard[:start]


class Sender:
    """Gathers frames and writes them once in a turn of the loop; until there is a transport it keeps them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._out: list[Frame] = []
        self._transport: asyncio.WriteTransport | None = None

    def open(self, transport: asyncio.WriteTransport) -> None:
        self._transport = transport
        self._flush()

    def send(self, frame: Frame) -> None:
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(frame)

    def _flush(self) -> None:
        if self._out and self._transport is not None:
            out, self._out = self._out, []
            if not self._transport.is_closing():
                self._transport.writelines(packed(out))
