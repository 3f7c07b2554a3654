"""Watch: what becomes of loops that fail. One line while it lasts, one when it is over, and an end when it takes too long."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from math import isinf

from skep.errors import EngineUnavailableError, RecordError, StaleEpochError
from skep.loop import Loop, Trouble
from skep.model.units import format_duration

log = logging.getLogger(__name__)

HURRY_S = 1.0
"""Patience once somebody wants it to end."""


class Watch:
    """Over the loops of one process."""

    def __init__(self, patience_s: float, give_up: Callable[[Trouble], None], stale: Callable[[], None] = lambda: None) -> None:
        """`give_up` is called once, when a loop has failed without a break for longer than `patience_s`; with infinite patience
        never. `stale` is called when a loop meets with an engine that is there no more."""
        self._stale = stale
        self._patience_s = patience_s
        self._give_up = give_up
        self._vital: set[Loop] = set()
        self._failing: dict[Loop, Trouble] = {}
        self._told: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._ended = False

    def over(self, loops: Iterable[Loop], *, vital: bool = True) -> None:
        """Watches these too. Those that are not vital are only told of."""
        for loop in loops:
            loop.on_trouble = self._changed
            if vital:
                self._vital.add(loop)

    def forget(self, loops: Iterable[Loop]) -> None:
        """These are over: whatever they met with is no trouble any more."""
        for loop in loops:
            self._failing.pop(loop, None)
            self._vital.discard(loop)
        if not self._failing:
            self._told.clear()
        self._look()

    @property
    def trouble(self) -> str | None:
        """What fails now, in a line."""
        vital = [trouble for loop, trouble in self._failing.items() if loop in self._vital]
        return described(min(vital, key=lambda trouble: trouble.since_s)) if vital else None

    def hurry(self) -> None:
        """Somebody wants it to end: from now on there is little patience."""
        self._patience_s = min(self._patience_s, HURRY_S)
        self._look()

    def end(self) -> None:
        """What fails still is given up now; from here on there is no watch."""
        self._patience_s = 0
        self._look()
        self._ended = True
        self._look()

    def _changed(self, loop: Loop) -> None:
        if loop.trouble is not None:
            self._failing[loop] = loop.trouble
            if isinstance(loop.trouble.error, StaleEpochError):
                self._stale()
                return
            if not self._ended:
                self._tell(loop.trouble)
        elif self._failing.pop(loop, None) and not self._failing and not self._ended:
            self._told.clear()
            log.warning("what failed works again")
        self._look()

    def _tell(self, trouble: Trouble) -> None:
        """Once for the record and for the engine, whichever loops meet with it; else once for each loop."""
        away = isinstance(trouble.error, EngineUnavailableError)
        what = "the engine" if away else "the record" if isinstance(trouble.error, RecordError) else f"the loop {trouble.loop}"
        if what not in self._told:
            self._told.add(what)
            wait = (
                "until it works" if isinf(self._patience_s) else f"for up to {format_duration(round(self._patience_s * 1000))}"
            )
            log.warning("%s; tried again %s", described(trouble), wait, exc_info=None if away else trouble.error)

    def _look(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        vital = [trouble for loop, trouble in self._failing.items() if loop in self._vital]
        if self._ended or not vital or isinf(self._patience_s):
            return
        longest = min(vital, key=lambda trouble: trouble.since_s)
        clock = asyncio.get_running_loop()
        due_s = longest.since_s + self._patience_s
        if due_s > clock.time():
            self._timer = clock.call_at(due_s, self._look)
        else:
            self._ended = True
            self._give_up(longest)


def described(trouble: Trouble) -> str:
    """What it is, in a line."""
    error = trouble.error
    if isinstance(error, RecordError | EngineUnavailableError) or not trouble.loop:
        return str(error)
    return f"the loop {trouble.loop}: {type(error).__name__}: {error}"
