"""Values of user code as JSON, without what JSON cannot hold."""

from __future__ import annotations

from math import isfinite
from typing import Any

import msgspec


def encode(value: Any) -> bytes:
    """The value as JSON. Raises ValueError for NaN and infinity, which msgspec writes as null, and whatever msgspec raises."""
    data = msgspec.json.encode(value)
    if b"null" in data:
        _refuse_infinite(value)
    return data


def _refuse_infinite(value: Any) -> None:
    seen = [msgspec.to_builtins(value, str_keys=True, enc_hook=lambda raw: None)]  # msgspec.Raw is the one that it leaves to us
    for part in seen:  # which grows
        if isinstance(part, float):
            if not isfinite(part):
                raise ValueError(f"JSON has no {part}; give null or a text in its place")
        elif isinstance(part, dict):
            seen += part.values()
        elif isinstance(part, list | tuple):
            seen += part
