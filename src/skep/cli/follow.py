"""A run of a server, watched to its end: through restarts of the server, without gap or repeat."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from typing import Any, Final

import msgspec

from skep.cli.console import Console
from skep.cli.ended import CANCELLED, TAIL_BYTES, Ended
from skep.cli.lines import Lines
from skep.cli.live import Live
from skep.cli.moments import both
from skep.cli.summary import MOST, summary
from skep.client import Client, UnreachableError
from skep.clock import SystemClock
from skep.errors import SkepError
from skep.flow.plan import Plan, compile_plan
from skep.model.event import Event
from skep.model.node import LogChunk, Progress
from skep.model.run import RunView
from skep.model.views import LogLine, RunSummary

FRAME_S: Final = 0.1
PROGRESS_S: Final = 0.5
AGAIN_S: Final = 0.25
"""First pause before a server that is away is asked again; it doubles,"""
LONGEST_S: Final = 2.0
"""up to this."""
WHOLE: Final = 5_000
"""Tasks of a run up to which all of them are looked at when it is over."""
PAGE: Final = 10_000
AWAY: Final = "the server is away; waiting for it"


def follow(
    client: Client, run: str, *, json: bool = False, quiet: bool = False, no_color: bool = False, output: bool = False
) -> int:
    """Shows the run until it ends, and says how it went; answers the exit code. `json`: prints the whole run; `output`: what it
    gave back. Raises SkepError, KeyboardInterrupt."""
    console = Console(SystemClock(), quiet=quiet, no_color=no_color)
    with console.open(json=json):
        found = client.runs.get(run)
        plan = compile_plan(client.runs.definition(found.id))
        now_ms = time.time_ns() // 1_000_000
        if found.due_ms and found.due_ms > now_ms and not found.started_ms and not quiet:
            console.view.say([("it is due ", "dim"), (both(found.due_ms, now_ms), "")])
        try:
            _show(client, found.id, plan, console)
        except KeyboardInterrupt:
            console.say([("the run goes on; watch it again with ", "dim"), (f"skep watch {found.id}", "")])
            return CANCELLED
        ended = look_back(client, found.id, plan, whole=json or output)
        console.say(*summary(ended))
        if json:
            console.document(msgspec.json.format(msgspec.json.encode(ended.view), indent=2))
        elif output and ended.exit_code == 0:
            console.document(msgspec.json.format(msgspec.json.encode(ended.view.output), indent=2))
    return ended.exit_code


def _show(client: Client, run: str, plan: Plan, console: Console) -> None:
    view = console.view
    feed = Feed(client, run, plan, live=isinstance(view, Live))
    view.begin(plan, run)
    away = False
    try:
        feed.start()
        while not feed.wait(FRAME_S):
            _pass_on(feed, view)
            if feed.away != away:
                away = feed.away
                _tell(view, away)
    finally:
        _pass_on(feed, view)
        view.end()
    if feed.error is not None:
        raise feed.error


def _pass_on(feed: Feed, view: Live | Lines) -> None:
    view.events(feed.take_events())
    view.log(feed.take_logs())
    view.progress(feed.take_progress())
    view.tick()


def _tell(view: Live | Lines, away: bool) -> None:
    if isinstance(view, Live):
        view.trouble = f"  {AWAY}" if away else ""
    else:
        view.say([(AWAY if away else "the server is back", "")])


class Feed:
    """Brings what happens in a run from the server, in threads of its own; the `take_…` methods hand it over in order."""

    def __init__(self, client: Client, run: str, plan: Plan, live: bool) -> None:
        """`live`: also what running tasks write, and how far they say they are."""
        self.error: SkepError | None = None
        self.away = False
        """The server does not answer now."""
        self._client = client
        self._run = run
        self._plan = plan
        self._first: dict[str, int] = {}
        """Name of a map to the index of its first child."""
        self._events: deque[Event] = deque()
        self._logs: deque[LogLine] = deque()
        self._progress: dict[str, Any] = {}
        self._over = threading.Event()
        self._jobs = [self._bring_events, *([self._bring_logs, self._bring_progress] if live else [])]

    def start(self) -> None:
        for job in self._jobs:
            threading.Thread(target=job, daemon=True).start()

    def wait(self, seconds: float) -> bool:
        """Whether the run is over, or was over within so long."""
        return self._over.wait(seconds)

    # -- handed over, to one thread

    def take_events(self) -> list[Event]:
        taken = [self._events.popleft() for _ in range(len(self._events))]
        for event in taken:
            if event.kind == "parked" and event.first >= 0:
                self._first[self._plan.name(event.task)] = event.first
        return taken

    def take_logs(self) -> list[LogChunk]:
        chunks = []
        for _ in range(len(self._logs)):
            line = self._logs.popleft()
            index = self._index(line.task)
            if index is not None:
                chunks.append(LogChunk(self._run, index, line.attempt, line.stream, 0, line.at_ms, line.text.encode()))
        return chunks

    def take_progress(self) -> list[Progress]:
        taken, self._progress = self._progress, {}
        found = ((self._index(name), said) for name, said in taken.items())
        return [
            Progress(self._run, at, 0, said.get("done") or 0, said.get("total") or 0, said.get("message") or "")
            for at, said in found
            if at is not None
        ]

    def _index(self, name: str) -> int | None:
        parent, bracket, number = name.removesuffix("]").rpartition("[")
        if not bracket:
            return self._plan.index.get(name)
        return self._first[parent] + int(number) if parent in self._first else None

    # -- brought, each in its thread

    def _bring_events(self) -> None:
        place, last, pause_s = (0, 0), "", AGAIN_S
        client = self._client.again()
        try:
            while True:
                try:
                    client.insight.status()
                    self.away = False
                    for told in client.runs.events(self._run, after=place, follow=True):
                        place, last, pause_s = (told.epoch, told.event.n), told.event.kind, AGAIN_S
                        told.event.run = self._run
                        self._events.append(told.event)
                    if last == "ended":
                        return
                except UnreachableError:
                    self.away = True
                time.sleep(pause_s)
                pause_s = min(pause_s * 2, LONGEST_S)
        except SkepError as error:
            self.error = error
        finally:
            self._over.set()

    def _bring_logs(self) -> None:
        place = 0
        while not self._over.is_set():
            try:
                for line in self._client.again().runs.logs(self._run, after=place, follow=True):
                    place = line.position
                    self._logs.append(line)
            except SkepError:
                pass  # the events tell
            time.sleep(LONGEST_S)

    def _bring_progress(self) -> None:
        client = self._client.again()
        while not self._over.wait(PROGRESS_S):
            try:
                self._progress = client.runs.progress(self._run)
            except SkepError:
                pass  # the events tell


# -- when it is over


def look_back(client: Client, run: str, plan: Plan, whole: bool) -> Ended:
    """The ended run. `whole`: with all of its tasks; else of a giant only those that failed."""
    found = client.runs.get(run)
    if whole or found.tasks <= WHOLE:
        view, counts = client.runs.view(run), None
    else:
        view, counts = _thin(client, found), _counts(client, found, plan)
    failed = [task for task in view.tasks if task.state == "failed" and task.reason != "child_failed"]
    return Ended(view, plan, {task.index: _tail(client, run, task.name) for task in failed[:MOST]}, counts)


def _thin(client: Client, found: RunSummary) -> RunView:
    failed = client.runs.tasks(found.id, state=["failed"], limit=1_000).tasks if found.counts.get("failed") else []
    return RunView(
        id=found.id,
        workflow=found.workflow,
        state=found.state,
        reason=found.reason,
        accepted_ms=found.accepted_ms,
        started_ms=found.started_ms,
        finished_ms=found.finished_ms,
        tasks=failed,
    )


def _counts(client: Client, found: RunSummary, plan: Plan) -> dict[str, int]:
    """Without the maps that became children."""
    counts = Counter(found.counts)
    maps = {task.name for task in plan.spec.tasks if task.map is not None}
    cursor: str | None = None
    for first in range(0, len(plan.names) if maps and found.tasks > len(plan.names) else 0, PAGE):
        page = client.runs.tasks(found.id, limit=min(PAGE, len(plan.names) - first), cursor=cursor)
        counts.subtract(task.state for task in page.tasks if task.name in maps and task.state != "skipped")
        cursor = page.next
    return {state: count for state, count in counts.items() if count > 0}


def _tail(client: Client, run: str, task: str) -> str:
    """The end of what the last attempt of a task wrote."""
    text, attempt = "", 0
    for line in client.runs.logs(run, task=task):
        if line.attempt > attempt:
            text, attempt = "", line.attempt
        text = (text + line.text)[-TAIL_BYTES:]
    return text
