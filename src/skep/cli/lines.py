"""The plain view: one line for each task that ends, for logs, pipes and terminals that cannot be drawn on."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Final, TextIO

import msgspec

from skep.cli.board import waits_for
from skep.cli.screen import Line, paint, plain
from skep.flow.plan import Plan
from skep.model.event import Event
from skep.model.node import ErrorInfo, LogChunk, Progress
from skep.model.units import format_duration

WORDS: Final = {"succeeded": "ok", "failed": "FAILED", "cancelled": "cancelled", "skipped": "skipped", "retrying": "retry"}
MOST: Final = 20
"""Tasks of one event, when many end at once, that get a line each."""

_error = msgspec.json.Decoder(ErrorInfo).decode


class Lines:
    """Writes a line when a task ends or is tried again. `quiet`: only when it failed."""

    live = False

    def __init__(self, file: TextIO, quiet: bool = False) -> None:
        self._file = file
        self._quiet = quiet
        self._run = ""
        self._names: Sequence[str] = ()
        self._maps: list[tuple[int, int, int]] = []
        """(first, count, parent) of every map, in the order of `first`."""
        self._nodes: dict[int, str] = {}
        self._started_ms = 0

    def begin(self, plan: Plan, run: str) -> None:
        self._run, self._names, self._maps, self._nodes, self._started_ms = run, plan.names, [], {}, 0
        if not self._quiet:
            self._write([f"run {run} of {plan.spec.name}: {len(plan.names):,} task{'s'[: len(plan.names) - 1]}"])

    def events(self, events: Sequence[Event]) -> None:
        lines: list[str] = []
        for event in events:
            kind = event.kind
            if event.run != self._run:
                continue
            if kind in ("granted", "adopted"):
                self._nodes[event.task] = event.node
            elif kind in WORDS:
                lines += self._of(event)
            elif kind == "parked" and event.first >= 0:
                self._maps.append((event.first, event.count, event.task))
            elif kind == "parked" and not self._quiet:
                lines.append(self._line(event, event.task))
            elif kind == "loaded":
                self._started_ms = self._started_ms or event.at_ms
            elif kind in ("paused", "resumed") and not self._quiet:
                lines.append(f"{'':>8}  {kind}")
            elif kind == "cancelling" and event.reason != "interrupted":  # that was said when it was asked for
                why = f": {event.reason.replace('_', ' ')}" if event.reason not in ("", "cancelled") else ""
                lines.append(f"{'':>8}  cancelling{why}")
        self._write(lines)

    def log(self, chunks: Iterable[LogChunk]) -> None:
        pass

    def progress(self, items: Iterable[Progress]) -> None:
        pass

    def say(self, line: Line) -> None:
        self._write([paint(line, color=False)])

    def outside(self, text: str) -> None:
        """What code outside of tasks prints; may come from any thread."""
        self._file.write(text)

    def tick(self) -> None:
        pass

    def end(self) -> None:
        pass

    def _write(self, lines: Sequence[str]) -> None:
        if lines:
            self._file.write("".join(f"{line}\n" for line in lines))
            self._file.flush()

    def _of(self, event: Event) -> list[str]:
        if self._quiet and event.kind != "failed":
            return []
        tasks = event.tasks or (event.task,)
        lines = [self._line(event, task) for task in tasks[:MOST]]
        if len(tasks) > MOST:
            lines.append(f"{'':>8}  {WORDS[event.kind]:<9}  and {len(tasks) - MOST:,} more")
        return lines

    def _line(self, event: Event, task: int) -> str:
        node = self._nodes.pop(task, "")
        parts = [
            WORDS.get(event.kind, event.kind),
            format_duration(event.ran_ms) if event.started_ms else "-",
            self._name(task),
        ]
        when = format_duration(event.at_ms - self._started_ms)
        text = f"{when:>8}  {parts[0]:<9} {parts[1]:>7}  {parts[2]}"
        if node:
            text += f" on {node}"
        if event.attempt > 1 or event.kind == "retrying":
            text += f", attempt {event.attempt}"
        return text + _why(event)

    def _name(self, task: int) -> str:
        if task < len(self._names):
            return self._names[task]
        first, _, parent = self._maps[bisect_right(self._maps, task, key=lambda known: known[0]) - 1]
        return f"{self._names[parent]}[{task - first}]"


def _why(event: Event) -> str:
    if event.kind == "cancelled":
        return ""
    if event.kind == "parked":
        return f": {waits_for(event)}"
    if event.error:
        error = _error(event.error)
        message = plain(error.message.partition("\n")[0])[:200]
        again = f"; again in {format_duration(event.due_ms - event.at_ms)}" if event.kind == "retrying" and event.due_ms else ""
        return f": {error.type}: {message}{again}"
    return f": {event.reason.replace('_', ' ')}" if event.reason else ""
