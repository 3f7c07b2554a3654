"""The live view: the tree of a run at the bottom of a terminal, drawn at most ten times a second."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Final, TextIO

from skep.cli.board import Board
from skep.cli.rows import FAILED, PARKED, RUNNING, SUCCEEDED, WAITING, Row
from skep.cli.screen import Line, Region, Span, bar, cut, fit, plain
from skep.clock import Clock
from skep.flow.plan import Plan
from skep.model.event import Event
from skep.model.node import LogChunk, Progress
from skep.model.state import TaskState
from skep.model.units import format_duration

SPINNER: Final = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
SIGNS: Final = ("○", "◷", "○", "●", "◌", "✓", "✗", "■", "–")
"""By state."""
COLORS: Final = ("dim", "yellow", "dim", "cyan", "cyan", "green", "red", "yellow", "dim")
WORDS: Final = tuple(state.label for state in TaskState)
BAR: Final = 20
CANCELLED: Final = int(TaskState.CANCELLED)


class Live:
    """Shows one run after the other on a terminal."""

    live = True

    def __init__(self, file: TextIO, clock: Clock) -> None:
        self.trouble = ""
        """What keeps this view from being current."""
        self._region = Region(file)
        self._clock = clock
        self._board: Board | None = None
        self._run = ""
        self._events: list[Event] = []
        self._chunks: list[LogChunk] = []
        self._above: list[Line] = []
        self._rest = ""

    # -- what happens

    def begin(self, plan: Plan, run: str) -> None:
        self._board, self._run = Board(plan), run
        self.tick()

    def events(self, events: Sequence[Event]) -> None:
        self._events += [event for event in events if event.run == self._run]

    def log(self, chunks: Iterable[LogChunk]) -> None:
        self._chunks += [chunk for chunk in chunks if chunk.run == self._run]

    def progress(self, items: Iterable[Progress]) -> None:
        if self._board is not None:
            self._board.progress(items)

    def say(self, line: Line) -> None:
        """A line that stays, above the tree."""
        self._above.append(line)
        if self._board is None:
            self.tick()

    def outside(self, text: str) -> None:
        """What code outside of tasks prints; may come from any thread."""
        *lines, self._rest = (self._rest + text).split("\n")
        self._above += [[(plain(line), "")] for line in lines]

    def tick(self) -> None:
        """Takes in what has happened and draws."""
        above, self._above = self._above, []
        self._region.draw(self._frame() if self._board else (), above)

    def end(self) -> None:
        """Leaves the last picture of the run where it is."""
        if self._rest:
            self.outside("\n")
        self.tick()
        self._region.leave()
        self._board = None

    # -- the picture

    def _frame(self) -> list[Line]:
        board = self._board
        assert board is not None
        events, self._events = self._events, []
        chunks, self._chunks = self._chunks, []
        board.take(events)
        board.note(chunks)
        columns, lines = self._region.size
        rows, hidden = _choose(board, max(lines - 5, 3))
        now_ms = board.ended_ms or self._clock.now_ms()
        frame = [[*_head(board, now_ms), (self.trouble, "yellow")], *_table(rows, board, columns, now_ms, whole=not hidden)]
        if hidden:
            frame.append([(f"   … {hidden:,} more rows", "dim")])
        return [*frame, _foot(board, columns)]


def _choose(board: Board, room: int) -> tuple[list[Row], int]:
    """The rows to show: all, or what runs, failed, has just ended and comes next, as far as there is room."""
    order = board.tree.order
    if len(order) <= room:
        return order, 0
    room -= 1
    chosen = dict.fromkeys(islice(board.active, room - room // 4))
    for rows, share in ((board.failed, room // 4), (reversed(board.recent), room // 2), (board.waiting(), room)):
        for row in islice(rows, share):
            if len(chosen) >= room:
                break
            chosen[row] = None
    shown = sorted(chosen, key=_age)
    return shown, len(order) - len(shown)


def _age(row: Row) -> tuple[int, int, int]:
    """Failures first, then what has ended, what runs, and what comes."""
    state = row.shown
    group = 0 if state == FAILED else 1 if state >= SUCCEEDED else 2 if row.since_ms else 3
    return group, row.ended_ms if group < 2 else row.since_ms, row.task


def _head(board: Board, now_ms: int) -> Line:
    style = COLORS[SUCCEEDED + board.state - 3] if board.state.ended else "yellow" if board.state == 2 else "cyan"
    reason = f" ({board.reason.replace('_', ' ')})" if board.reason not in ("", "task_failed", "cancelled") else ""
    if board.paused and not board.state.ended:
        style, reason = "yellow", ", paused"
    elapsed = format_duration(now_ms - board.started_ms) if board.started_ms else ""
    return [(f"{board.name}", "bold"), (f"  {board.state.label}{reason}", style), (f"  {elapsed}", "dim")]


def _foot(board: Board, columns: int) -> Line:
    total, ended = board.total, board.ended
    style = "red" if board.counts[FAILED] else "yellow" if board.counts[CANCELLED] else "green"
    numbers = f"  {ended:,}/{total:,}"
    return [*bar(ended / max(total, 1), max(min(columns - 50, 40), 10), style), (numbers, "bold"), *counts(board.counts)]


def counts(numbers: Sequence[int]) -> list[Span]:
    """How many tasks stand where, without those that are as they should be."""
    waiting = sum(numbers[:RUNNING]) + numbers[PARKED]
    named = [
        (RUNNING, numbers[RUNNING]),
        *((state, numbers[state]) for state in range(FAILED, len(numbers))),
        (WAITING, waiting),
    ]
    return [(f"  {number:,} {WORDS[state]}", COLORS[state]) for state, number in named if number]


def _table(rows: Sequence[Row], board: Board, columns: int, now_ms: int, whole: bool) -> list[Line]:
    names = [(row.branch if whole else "", row.name) for row in rows]
    wide = min(max((len(branch) + len(name) + 2 for branch, name in names), default=0), columns * 2 // 5)
    nodes = [_node(row) for row in rows]
    node_wide = min(max(map(len, nodes), default=0), 16)
    spin = SPINNER[int(time.monotonic() * 10) % len(SPINNER)]
    table: list[Line] = []
    for row, (branch, name), node in zip(rows, names, nodes, strict=True):
        state = row.shown
        sign = spin if state == RUNNING and not board.ended_ms else SIGNS[state]
        style = COLORS[state]
        duration = format_duration(max((row.ended_ms or now_ms) - row.since_ms, 0)) if row.since_ms else ""
        tries = f"×{row.attempts}" if row.attempts > 1 else ""
        table.append(
            [
                (branch, "dim"),
                (f"{sign} ", style),
                (fit(name, wide - len(branch) - 2), "dim" if state in (WAITING, len(WORDS) - 1) else ""),
                (f"  {fit(node, node_wide)}", "blue"),
                (f" {duration:>7} ", ""),
                (f"{tries:<3} ", "yellow"),
                *_detail(row, state, now_ms),
            ]
        )
    return table


def _node(row: Row) -> str:
    return next(iter(row.nodes), "") if len(row.nodes) < 2 else f"{len(row.nodes)} nodes"


def _detail(row: Row, state: int, now_ms: int) -> list[Span]:
    if row.members:
        size, ended = row.size, row.ended
        style = "red" if row.members[FAILED] else "green"
        return [*bar(ended / size, BAR, style), (f" {ended:,}/{size:,}", ""), *counts(row.members)]
    if state == RUNNING and row.progress is not None:
        done = row.progress.done / row.progress.total if row.progress.total else 0.0
        message = row.progress.message or row.note
        return [*bar(done, BAR, "cyan"), (f" {min(max(done, 0), 1):4.0%} ", ""), (plain(message), "dim")]
    if state in (RUNNING, PARKED):
        return [(row.note, "yellow" if state == PARKED else "dim")]
    if row.due_ms > now_ms and row.trouble:
        return [(f"again in {format_duration(row.due_ms - now_ms)}: ", "yellow"), (row.trouble, "dim")]
    return [(cut(row.trouble, 200), "red" if state == FAILED else "dim")]
