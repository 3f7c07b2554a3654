"""What verbs are told, as scripts read it: lists of whole numbers and strings; bytes go beside them as payloads."""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec

from skep.engine.memory.claims import Claims
from skep.engine.protocol import (
    Adopt,
    Ask,
    Beat,
    Decision,
    Done,
    Expand,
    Failure,
    Load,
    Park,
    Parked,
    Register,
    Resolve,
    RunCommand,
    Settle,
    Snooze,
    Start,
)
from skep.model.run import Shape, Token

pack = msgspec.msgpack.Encoder().encode
SPEC: Final = struct.Struct("<qqIIIIHB")
"""A base task: order_ms, deadline_ms, needs, window, edge_at, edges, class, policy. `live.lua` reads it."""
START, EXPAND, PARK, SETTLE = 1, 2, 3, 4
LARGE: Final = 5_000
"""Graphs of more tasks are not kept for long: they take megabytes."""
SMALL: Final = 64
"""Tasks that are looked through as fast as a list of roots is read."""
PIECE: Final = 1_000
"""Tasks of a restored run that one script takes in."""


class Payloads:
    """Bytes that go beside a list of items; equal ones go once."""

    def __init__(self, first: int) -> None:
        """`first`: the number of the first one."""
        self._first = first
        self._numbers: dict[bytes, int] = {}

    def add(self, payload: bytes) -> int:
        """Its number."""
        return self._numbers.setdefault(payload, self._first + len(self._numbers))

    def event(self, value: bytes) -> int:
        """The number of what goes into an event; 0 for none."""
        return self.add(pack(value)) if value else 0

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._numbers)


Row = Callable[[Any, Payloads], Any]


class PackedShape(NamedTuple):
    """A graph as a run's keys have it."""

    spec: bytes
    edges: bytes
    edge_at: Sequence[int]
    """Where the edges of each task begin, and the end of the last."""
    roots: bytes
    timed: bool


def packed_shape(shape: Shape) -> PackedShape:
    """Packed once for all runs of a definition, and for all chunks of a large one."""
    return (_small if shape.size <= LARGE else _large)(shape)


def _packed(shape: Shape) -> PackedShape:
    counts = [len(successors) for successors in shape.successors]
    edge_at = [0]
    for count in counts:
        edge_at.append(edge_at[-1] + count)
    columns = (shape.order_ms, shape.deadlines_ms, shape.pending, shape.windows, edge_at, counts, shape.classes, shape.policies)
    spec = b"".join(map(SPEC.pack, *columns))
    edges = b"".join(struct.pack(f"<{len(successors)}I", *successors) for successors in shape.successors)
    roots = struct.pack(f"<{len(shape.roots)}I", *shape.roots) if shape.size > SMALL else b""
    return PackedShape(spec, edges, edge_at, roots, any(shape.deadlines_ms))


_small = lru_cache(maxsize=128)(_packed)
_large = lru_cache(maxsize=2)(_packed)


def pieces(item: Load) -> Iterator[Load]:
    """The chunk in pieces that one script takes in within a few milliseconds: those that are more than bytes to put away."""
    heavy = item.restored or item.families or packed_shape(item.shape).timed
    if not heavy or item.count <= PIECE:
        yield item
        return
    indexes = [task.task for task in item.restored]
    for first in range(item.first, item.first + item.count, PIECE):
        count = min(PIECE, item.first + item.count - first)
        known = item.restored[bisect_left(indexes, first) : bisect_left(indexes, first + count)]
        families = item.families if first == item.first else ()
        opens = item.opens and first + count == item.first + item.count
        yield msgspec.structs.replace(item, first=first, count=count, restored=known, families=families, opens=opens)


def load(item: Load, payloads: Payloads) -> Any:
    shape, first, last = item.shape, item.first, item.first + item.count
    packed = packed_shape(shape)
    spec = packed.spec[first * SPEC.size : last * SPEC.size]
    edge_at, edge_end = (packed.edge_at[min(at, shape.size)] for at in (first, last))
    edges = packed.edges[edge_at * 4 : edge_end * 4]
    families = [(parent, start, count, shape.windows[parent]) for parent, start, count in item.families]
    return (
        item.run,
        item.namespace,
        tuple(shape.class_names) if first == 0 else (),
        item.accepted_ms,
        item.timeout_ms,
        shape.size,
        packed.timed,
        item.command,
        item.paused,
        item.cancelling,
        item.ended,
        first,
        item.count,
        item.read_ms,
        item.child,
        families,
        item.restored,
        payloads.add(spec) if spec else 0,
        payloads.add(edges) if edges else 0,
        edge_at,
        payloads.add(packed.roots) if first == 0 and packed.roots else 0,
        max([shape.size, *(start + count for _, start, count in item.families)]),
        item.opens,
    )


def command(item: RunCommand, payloads: Payloads) -> Any:
    return item.run, item.number, item.reason, item.tasks


def decision(item: Decision, payloads: Payloads) -> Any:
    if type(item) is Start:
        claims, rates = Claims.merged(item.claims) if item.claims else ((), ())
        what = pack(item.call) + pack(item.timeout_ms)
        more = pack(item.deadline_ms) + pack(item.takes) + pack(claims) + pack(item.base)
        place = (START, item.run, item.task, item.version, item.failing)
        holds = payloads.add(pack((item.takes, claims, rates)))
        return (*place, item.node, holds, item.name, payloads.add(what), payloads.add(more))
    if type(item) is Settle:
        error, output = payloads.event(item.error), payloads.event(item.output)
        return SETTLE, item.run, item.task, item.version, False, item.state, item.reason, error, output
    if type(item) is Expand:
        return EXPAND, item.run, item.task, item.version, item.failing, item.count
    assert type(item) is Park
    return PARK, item.run, item.task, item.version, item.failing, item.reason, payloads.event(item.data)


def done(item: Done, payloads: Payloads) -> Any:
    return item.run, item.task, *item.token, payloads.event(item.output), item.ran_ms


def failure(item: Failure, payloads: Payloads) -> Any:
    said = (item.reason, payloads.event(item.error), item.ran_ms)
    return item.run, item.task, *item.token, *said, item.retry_in_ms, item.cancelled, item.lost


def snooze(item: Snooze, payloads: Payloads) -> Any:
    return item.run, item.task, *item.token, item.in_ms, item.ran_ms


def parked(item: Parked, payloads: Payloads) -> Any:
    return item.run, item.task, *item.token, item.reason, item.ran_ms


def resolve(item: Resolve, payloads: Payloads) -> Any:
    told = (item.reason, payloads.event(item.output), payloads.event(item.error))
    return item.run, item.task, item.by, item.state, *told, item.retry_in_ms, item.attempt


def adopt(item: Adopt, payloads: Payloads) -> Any:
    holds = (item.takes, item.claims, [(lock.key, lock.units, lock.left_ms) for lock in item.locks])
    return item.run, item.task, item.attempt, item.node, *item.token, *holds, item.ended, item.parent, item.child


def dismissed(item: tuple[str, Token], payloads: Payloads) -> Any:
    node, token = item
    return node, *token


def ask(item: Ask, payloads: Payloads) -> Any:
    return item.run, item.task, *item.token, item.key, item.units, item.cap, item.hold_ms, item.wait


def given_back(item: tuple[Token, str], payloads: Payloads) -> Any:
    token, key = item
    return *token, key


def register(item: Register, payloads: Payloads) -> Any:
    info = item.info
    free = {"slots": info.slots, "cpu": info.cpu_milli, "memory": info.memory, "vram": info.vram}
    return info.id, info.incarnation, item.beats, item.coming, free, payloads.add(pack(info))


def beat(item: Beat, epoch: int) -> Any:
    return item.node, item.incarnation, [token[1] for token in item.leases if token[0] == epoch], item.seen, item.server
