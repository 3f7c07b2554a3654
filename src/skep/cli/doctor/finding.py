"""What a look at one thing found."""

from __future__ import annotations

from typing import Final

import msgspec

FINE: Final = "fine"
NOTE: Final = "note"
"""It works, but better is possible."""
WRONG: Final = "wrong"


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at."""

    what: str
    level: str
    found: str
    advice: str = ""
    """What to do; empty when nothing needs doing."""


def judged(what: str, found: str, *, wrong: bool = False, note: bool = False, advice: str = "") -> Finding:
    """The finding; the advice stays only where there is something to do."""
    level = WRONG if wrong else NOTE if note else FINE
    return Finding(what, level, found, "" if level == FINE else advice)
