"""Answers of people, held against the form of the question.

A pattern such as `^(\\w+\\s?)*$` may take years over thirty characters, and meanwhile `re` lets no other thread run: neither
nodes nor clients would be answered. So a form with a pattern is checked in a process of its own, for a time; such questions
are few.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from skep.model.fields import Fault, Found
from skep.model.forms import check_data

LIMIT_S: Final = 5.0


async def check_answer(form: Any, data: Any) -> None:
    """Raises Fault with everything in which the data is not as the form wants it, or when that cannot be told in time."""
    if b'"pattern"' in msgspec.json.encode(form):
        await asyncio.to_thread(_check_apart, form, data)
    else:
        check_data(form, data)


def _check_apart(form: Any, data: Any) -> None:
    asked = msgspec.json.encode((form, data))
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", __name__], input=asked, stdout=subprocess.PIPE, timeout=LIMIT_S, check=True
        )
    except subprocess.TimeoutExpired:
        raise Fault([((), f"takes more than {LIMIT_S:g} s to check: a `pattern` of the form is too complicated")]) from None
    if found := msgspec.json.decode(done.stdout, type=list[Found]):
        raise Fault(found)


def main() -> None:
    """Reads form and data, writes what is wrong."""
    found: Sequence[Found] = ()
    try:
        check_data(*msgspec.json.decode(sys.stdin.buffer.read()))
    except Fault as fault:
        found = fault.found
    sys.stdout.buffer.write(msgspec.json.encode(found))


if __name__ == "__main__":
    main()
