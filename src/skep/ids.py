"""Ids that are made where something is asked for, so that asking again is safe."""

from __future__ import annotations

import os
import re
import uuid
from typing import Final

_ID: Final = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")


def new_id(now_ms: int) -> str:
    """A UUID of version 7 (RFC 9562): sorts by time, made by the client so that a resend is safe."""
    random = int.from_bytes(os.urandom(10), "big")
    value = (now_ms & (1 << 48) - 1) << 80 | 0x7 << 76 | (random >> 68) << 64 | 0b10 << 62 | random & (1 << 62) - 1
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def is_id(text: str) -> bool:
    """Whether it is a UUID as all ids of runs are: in small letters."""
    return _ID.fullmatch(text) is not None


def child_run_id(parent: str, task: int, attempt: int) -> str:
    """The id of a child run (RFC 9562, version 5): the same for the same attempt, so a repeat gives the same child."""
    return str(uuid.uuid5(_CHILDREN, f"{parent}/{task}/{attempt}"))


def fired_run_id(namespace: str, schedule: str, made_ms: int, at_ms: int) -> str:
    """The id of the run that a schedule starts for one of its times: firing it again gives the same run."""
    return str(uuid.uuid5(_FIRED, f"{namespace}/{schedule}/{made_ms}/{at_ms}"))


_CHILDREN = uuid.UUID("6f0c2f0e-6b5a-5c0a-9d53-6d3b5f0f7a01")
_FIRED = uuid.UUID("6f0c2f0e-6b5a-5c0a-9d53-6d3b5f0f7a02")
