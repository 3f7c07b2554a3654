"""Columns of many rows as PostgreSQL arrays, which one statement takes apart again with `unnest`.

Packed here and not by psycopg, whose lists go through Python element by element: that takes four times as long.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

from psycopg.abc import AdaptContext
from psycopg.adapt import Buffer, Dumper
from psycopg.pq import Format
from psycopg.types.numeric import Int8BinaryDumper
from psycopg.types.string import BytesBinaryDumper, StrBinaryDumper

_TEXT_OID: Final = 25
_BYTES_OID: Final = 17
_NULL: Final = b"\xff\xff\xff\xff"


class Ints(NamedTuple):
    """An array of bigint."""

    data: bytes


class Texts(NamedTuple):
    """An array of text."""

    data: bytes


class Blobs(NamedTuple):
    """An array of bytea."""

    data: bytes


def _ints(values: Iterable[Any]) -> Ints:
    """As text, which the server reads faster than Python packs numbers one by one."""
    return Ints(f"{{{','.join(map(str, values))}}}".replace("None", "NULL").encode())


def _texts(values: Iterable[Any]) -> Texts:
    """Most columns of text say the same again and again."""
    packed: dict[str | None, bytes] = {None: _NULL}
    parts = []
    for value in values:
        part = packed.get(value)
        if part is None:
            data = without_nul(value).encode()
            part = packed[value] = len(data).to_bytes(4, "big") + data
        parts.append(part)
    return Texts(_whole(_TEXT_OID, parts))


def _blobs(values: Iterable[Any]) -> Blobs:
    parts = [_NULL if value is None else len(value).to_bytes(4, "big") + value for value in values]
    return Blobs(_whole(_BYTES_OID, parts))


def _whole(oid: int, parts: Sequence[bytes]) -> bytes:
    """One dimension, perhaps with NULLs, counted from 1."""
    return struct.pack(">iiIii", 1, 1, oid, len(parts), 1) + b"".join(parts)


def without_nul(text: str) -> str:
    """PostgreSQL has no NUL in a text. Better a sign in its place than to lose what it came with."""
    return text.replace("\0", "\ufffd") if "\0" in text else text


PACK: Final[dict[str, Callable[[Iterable[Any]], Any]]] = {"int": _ints, "text": _texts, "bytes": _blobs}


class _IntsDumper(Dumper):
    oid = 1016

    def dump(self, obj: Ints) -> Buffer:
        return obj.data


class _TextsDumper(Dumper):
    oid, format = 1009, Format.BINARY

    def dump(self, obj: Texts) -> Buffer:
        return obj.data


class _BlobsDumper(Dumper):
    oid, format = 1001, Format.BINARY

    def dump(self, obj: Blobs) -> Buffer:
        return obj.data


class _TextDumper(StrBinaryDumper):
    def dump(self, obj: str) -> Buffer | None:
        return super().dump(without_nul(obj))


def register(context: AdaptContext) -> None:
    """One type of the database for each of Python's, so that a statement is prepared once whatever its values are."""
    adapters = context.adapters
    if adapters is None:
        return
    adapters.register_dumper(int, Int8BinaryDumper)
    adapters.register_dumper(str, _TextDumper)
    adapters.register_dumper(bytes, BytesBinaryDumper)
    adapters.register_dumper(Ints, _IntsDumper)
    adapters.register_dumper(Texts, _TextsDumper)
    adapters.register_dumper(Blobs, _BlobsDumper)
