"""One run from its submission to its end, in this process: shown, interrupted, and looked at again when it is over."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from skep.cli.console import Console
from skep.cli.ended import CANCELLED, TAIL_BYTES, Ended
from skep.cli.live import Live
from skep.clock import Clock
from skep.errors import SkepError
from skep.flow.plan import Plan
from skep.model.event import Event
from skep.model.node import LogChunk, NodeInfo
from skep.wiring import Embedded

FRAME_S: Final = 0.1


class Job(NamedTuple):
    """What to run, and where."""

    plan: Plan
    inputs: Mapping[str, Any]
    nodes: Sequence[NodeInfo]
    data: Path
    base: Path
    """Where relative paths of its tasks start."""
    priority: int = 0
    labels: Mapping[str, str] | None = None
    timeout_ms: int = 0
    """In place of the workflow's own."""
    secrets: Mapping[str, str] | None = None


async def run_job(job: Job, console: Console, clock: Clock) -> Ended:
    """Runs it to its end. Raises SkepError when it is refused, or given up since the record fails."""
    with _interrupts(console) as interrupted:
        try:
            return await _run(job, console, clock, interrupted)
        except SkepError as error:
            if interrupted.is_set():
                error.exit_code = CANCELLED
            raise


async def _run(job: Job, console: Console, clock: Clock, interrupted: asyncio.Event) -> Ended:
    view, tails = console.view, _Tails()
    async with Embedded(job.nodes, data=job.data, base=job.base, clock=clock, secrets=job.secrets) as embedded:
        hub = embedded.hub

        def on_log(chunks: Sequence[LogChunk]) -> None:
            tails.log(chunks)
            view.log(chunks)

        hub.work.on_log, hub.work.on_progress = on_log, view.progress
        hub.feed.subscribe(tails.events)
        hub.feed.subscribe(view.events)
        hub.runs.keep(job.plan)
        run = await hub.runs.submit(
            job.plan.spec, job.inputs, priority=job.priority, labels=job.labels, timeout_ms=job.timeout_ms
        )
        view.begin(job.plan, run)
        helpers = [asyncio.create_task(_cancel(interrupted, embedded, run))]
        if isinstance(view, Live):
            helpers.append(asyncio.create_task(_draw(view)))
        try:
            await hub.runs.wait(run)
        finally:
            for helper in helpers:
                helper.cancel()
            view.end()
        return Ended(await hub.runs.view(run), job.plan, tails.texts())


async def _draw(view: Live) -> None:
    while True:
        await asyncio.sleep(FRAME_S)
        view.tick()


async def _cancel(interrupted: asyncio.Event, embedded: Embedded, run: str) -> None:
    await interrupted.wait()
    embedded.hurry()
    try:
        await embedded.hub.runs.cancel(run, "interrupted")
    except SkepError as error:
        embedded.give_up(error)


@contextmanager
def _interrupts(console: Console) -> Iterator[asyncio.Event]:
    """Ctrl-C and SIGTERM: the first sets the event, the second ends this process, and with it all that it started."""
    loop, event = asyncio.get_running_loop(), asyncio.Event()

    def interrupt() -> None:
        if event.is_set():
            console.view.end()
            os._exit(CANCELLED)
        event.set()
        console.view.say([("cancelling", "yellow"), (": what runs is being stopped; once more ends it at once", "")])

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt)
    try:
        yield event
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


class _Tails:
    """The last bytes that each task wrote, until it succeeds."""

    def __init__(self) -> None:
        self._kept: dict[int, bytes] = {}

    def log(self, chunks: Sequence[LogChunk]) -> None:
        kept = self._kept
        for chunk in chunks:
            kept[chunk.task] = (kept.get(chunk.task, b"") + chunk.data)[-TAIL_BYTES:]

    def events(self, events: Sequence[Event]) -> None:
        if self._kept:
            for event in events:
                if event.kind == "succeeded":
                    self._kept.pop(event.task, None)

    def texts(self) -> dict[int, str]:
        return {task: data.decode("utf-8", "replace") for task, data in self._kept.items()}
