"""Events that people and tasks send to the tasks that `wait_for` them."""

from __future__ import annotations

from typing import Any, Final

from skep.clock import Clock
from skep.engine.protocol import Engine
from skep.errors import SpecError
from skep.ids import new_id
from skep.model.encode import encode
from skep.model.fields import Fault
from skep.model.kinds import parse_text
from skep.model.spec import DEFAULT_NAMESPACE
from skep.record.protocol import Record, Signal
from skep.upkeep.waits import topic_of

MAX_DATA: Final = 1024 * 1024
"""Bytes of JSON that an event may carry."""
MAX_WORD: Final = 500
"""Characters of a name or key."""


class Events:
    """The noun of the hub."""

    def __init__(self, engine: Engine, record: Record, clock: Clock) -> None:
        self._record = record
        self._clock = clock
        self._engine = engine

    async def send(self, name: str, key: str = "", data: Any = None, *, namespace: str = "", id: str = "") -> str:
        """Sends an event to all that wait for it, now or within 7 days; answers its id. The same `id` again is the same
        event. Raises SpecError."""
        now_ms = self._clock.now_ms()
        namespace = namespace or DEFAULT_NAMESPACE
        signal = Signal(
            id=_word("id", id) if id else new_id(now_ms),
            namespace=_word("namespace", namespace),
            name=_word("name", name),
            key=_word("key", key) if key else "",
            data=_encoded(data),
            at_ms=now_ms,
        )
        await self._record.send(signal)
        await self._engine.stir([topic_of((namespace, name, key))])
        return signal.id


def _word(path: str, text: str) -> str:
    try:
        parse_text(text)
    except Fault as fault:
        raise SpecError.at(path, fault.found[0][1]) from None
    if len(text) > MAX_WORD:
        raise SpecError.at(path, f"has {len(text):,} characters, {MAX_WORD} are allowed")
    return text


def _encoded(data: Any) -> bytes:
    try:
        encoded = encode(data)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise SpecError.at("data", f"must be JSON: {error}") from None
    if len(encoded) > MAX_DATA:
        raise SpecError.at("data", f"has {len(encoded):,} bytes, {MAX_DATA:,} are allowed; send a path or URL instead")
    return encoded
