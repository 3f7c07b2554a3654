"""The one shape of every background loop: wake, run once, wait.

    start() ──► run_once() ──► more work? yes: again at once · no: wait for wake() or for the interval ──► ...
                   │ raised: told, counted, waited out with a growing pause (never an end, never a hot spin)
    stop()  ──► the pass in progress is let finish, then the loop ends

A loop is its `run_once`; start, stop, stop twice and stop before start are tested once for all of them.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from typing import NamedTuple

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.05
AGAIN_S = 0.25
"""A task that was cancelled and goes on is cancelled again."""
LONGEST_PAUSE_S = 5.0


async def end(*tasks: asyncio.Task[None] | None, within_s: float = math.inf) -> None:
    """Cancels tasks and returns when they have ended, or their time is over. Raises nothing that they raise.

    Once is not enough: `asyncio.wait_for` of Python 3.11, which the Redis client uses, swallows a cancellation that comes just
    when it is done, and who waits for a task that goes on for ever waits for ever.
    """
    left = {task for task in tasks if task is not None}
    until = asyncio.get_running_loop().time() + within_s
    while left and (left_s := until - asyncio.get_running_loop().time()) > 0:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=min(AGAIN_S, left_s))


class Trouble(NamedTuple):
    """Passes that raise, one after the other."""

    loop: str
    since_s: float
    """On the clock of the event loop."""
    error: Exception
    """The last one."""


class Loop:
    """Calls `run_once` whenever it is woken, and at the latest every `interval_s` seconds."""

    name = "loop"
    interval_s: float = 1.0
    longest_pause_s: float = LONGEST_PAUSE_S
    """Between two passes that raise."""

    def __init__(self, step: Callable[[], Awaitable[bool]] | None = None, name: str | None = None) -> None:
        """`step`: what `run_once` does, where no class of its own is worth it."""
        self._step = step
        self.name = name or self.name
        self._wakened = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._stopping = False
        self.failures = 0
        """How often `run_once` raised since the loop was made."""
        self.trouble: Trouble | None = None
        """Since when all passes raise; None when the last one did not."""
        self.on_trouble: Callable[[Loop], None] | None = None
        """Called after each pass that raised, and after the first that did not any more; without it the loop logs the first."""

    async def run_once(self) -> bool:
        """Does one bounded piece of work. True when there is more to do at once."""
        if self._step is None:
            raise NotImplementedError(f"the loop {self.name} has nothing to do")
        return await self._step()

    def wake(self) -> None:
        """Asks for a pass now; any number of calls before the pass give one pass. Called on the loop's own thread."""
        self._wakened.set()

    @property
    def running(self) -> bool:
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        """Starts the loop; does nothing when it runs already."""
        if not self.running:
            self._stopping = False
            self._task = asyncio.get_running_loop().create_task(self._run(), name=f"skep-{self.name}")

    def cancel(self) -> asyncio.Task[None] | None:
        """Ends the loop in the middle of its pass; answers what there is to wait for."""
        self._stopping = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is not None:
            self._task.cancel()
        return self._task

    async def stop(self) -> None:
        """Lets the pass in progress finish and ends the loop; harmless before `start` and when repeated."""
        self._stopping = True
        self.wake()
        task = self._task
        if task is not None and task is not asyncio.current_task():
            await asyncio.wait([task])

    async def _run(self) -> None:
        pause_s = FIRST_PAUSE_S
        while not self._stopping:
            self._wakened.clear()
            try:
                more = await self.run_once()
            except Exception as error:  # noqa: BLE001  whatever it is, the loop goes on
                self._failed(error, pause_s)
                await self._rest(pause_s)
                pause_s = min(pause_s * 2, self.longest_pause_s)
                continue
            pause_s = FIRST_PAUSE_S
            if self.trouble is not None:
                self.trouble = None
                if self.on_trouble is not None:
                    self.on_trouble(self)
            if more:
                await asyncio.sleep(0)
            elif not self._stopping:
                await self._wait(self.interval_s)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _failed(self, error: Exception, pause_s: float) -> None:
        is_news = self.trouble is None and self.on_trouble is None
        level = logging.ERROR if is_news else logging.DEBUG
        log.log(level, "%s: a pass failed; next try in %.2f s", self.name, pause_s, exc_info=error)
        self.failures += 1
        since_s = self.trouble.since_s if self.trouble is not None else asyncio.get_running_loop().time()
        self.trouble = Trouble(self.name, since_s, error)
        if self.on_trouble is not None:
            self.on_trouble(self)

    async def _wait(self, seconds: float) -> None:
        """Until someone wakes the loop, at most so long.

        A timer that is due sooner is left as it is, and may wake the loop early: most waits then need no timer of their own.
        """
        loop = asyncio.get_running_loop()
        due = loop.time() + seconds
        if self._timer is None or self._timer.when() > due:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = loop.call_at(due, self._ring)
        await self._wakened.wait()

    def _ring(self) -> None:
        self._timer = None
        self._wakened.set()

    async def _rest(self, seconds: float) -> None:
        """So long, whoever wakes the loop, unless it is to stop."""
        until = asyncio.get_running_loop().time() + seconds
        while not self._stopping and (left := until - asyncio.get_running_loop().time()) > 0:
            self._wakened.clear()
            await self._wait(left)
