"""What a parked task waits for. It travels in the event `parked` and stands in the record until the wait is over."""

from __future__ import annotations

from typing import Any, Final

import msgspec

APPROVAL: Final = "approval"
"""A person approves or rejects."""
CHILD: Final = "child"
"""Another run, which the task starts, ends."""
EVENT: Final = "event"
"""Somebody sends an event of this name and key."""


class Wait(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One wait. Which fields are set depends on `kind`; all expressions are filled in."""

    kind: str
    timeout_ms: int = 0
    """Counted from the moment it was parked; 0: it waits for ever."""
    message: str = ""
    """approval: what is asked."""
    form: Any = None
    """approval: a JSON Schema of the data that the answer must bring; None: none is asked for."""
    default: str = ""
    """approval: `approve` or `reject` when the time is over; empty: the task fails."""
    definition: bytes = b""
    """child: the canonical JSON of its `WorkflowSpec`, inline; empty when it names a stored one."""
    workflow: str = ""
    """child: name of a stored definition, `name` or `name@version`."""
    inputs: Any = None
    """child: what it is given."""
    event: str = ""
    key: str = ""

    def encode(self) -> bytes:
        return _ENCODER.encode(self)

    @staticmethod
    def decode(data: bytes) -> Wait:
        return _DECODER.decode(data)


class Verdict(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The decision on an approval: the data of the command `decide`.

    Approved: the task succeeds, its output is `{"approved": true, "comment", "by", "data"}`. Rejected: it fails with an error
    of type `Rejected`, and is not retried.
    """

    task: int
    attempt: int
    approve: bool
    id: str = ""
    """Made by whoever decides, so that saying it again is safe."""
    by: str = ""
    """Who; `deadline` when nobody did in time."""
    comment: str = ""
    data: Any = None
    """What the form asked for."""
    expired: bool = False
    """Nobody decided in time, and nothing was to count then: it fails with a `Timeout`, which `comment` tells."""
    retry_in_ms: int = -1
    """expired: how long until it is asked again; -1: it is not."""


class WaitView(msgspec.Struct, kw_only=True):
    """A wait that is not over, as shown."""

    run: str
    task: str
    index: int
    attempt: int
    kind: str
    workflow: str
    namespace: str
    message: str = ""
    form: Any = None
    event: str | None = None
    key: str | None = None
    child: str | None = None
    """The id of the child run."""
    since_ms: int = 0
    due_ms: int | None = None


_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(Wait)
