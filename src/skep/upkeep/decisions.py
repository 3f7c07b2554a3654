"""Decisions: how tasks came to their nodes is kept in the record, for people who ask why.

The place loop hands over what it granted and goes on; the rest happens here, between its passes. What the nodes cost is looked
at for a few kinds of tasks a second; in between, the last look at a kind has to do. A run's tasks of one pass are one row.
Where there are more than can be kept without holding anybody up, they are dropped and counted.
"""

from __future__ import annotations

import logging
import math
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import msgspec

from skep.clock import Clock
from skep.errors import RecordError
from skep.loop import Loop
from skep.record.protocol import DecisionRow, Record
from skep.router.wanted import Wanted

if TYPE_CHECKING:
    from skep.router import explain
    from skep.router.explain import Explanation

if TYPE_CHECKING:  # it needs NumPy, and with one node nothing is chosen
    from skep.router import explain
    from skep.router.explain import Explanation

BATCHES: Final = 100
"""Passes of the place loop that wait to be kept."""
ROWS: Final = 300
"""Rows in a second, on the average: a row costs about as much as all that is kept of five tasks' lives."""
TASKS: Final = 2_000
"""Tasks in a second, on the average."""
BURST_S: Final = 2
"""Of that rate, after a quiet time."""
CANDIDATES: Final = 5
"""Nodes that are kept of a choice, beside the chosen ones."""
LOOKS: Final = 10
"""Kinds of tasks that are looked at in a second, on the average: each look costs about as much as one choice."""
KINDS: Final = 1_000
"""Kinds whose last look is remembered."""
SEEN: Final = 64
"""Kinds of one pass that are told apart."""
MOST: Final = 64
"""Nodes that a look tells of: of those, the chosen ones are kept."""

log = logging.getLogger(__name__)


class Candidate(msgspec.Struct, frozen=True, array_like=True):
    """A node that was able, as it stood when it was looked at."""

    node: str
    cost: float | None
    """Lower is better; None: it was full, and not to be waited for."""
    terms: dict[str, float]
    """What the cost is the sum of."""
    predicted_ms: int
    """How long such a task was expected to run there; -1: nothing was known."""
    preferred: int = 0
    """Which of the task's preferences it is, from 1; 0: none."""

    @classmethod
    def of(cls, said: explain.Candidate) -> Candidate:
        """What is kept of it: JSON knows no infinity, and nobody reads more than four digits."""
        terms = {name: round(value, 4) for name, value in said.terms.items() if math.isfinite(value)}
        predicted_ms = round(said.run_s * 1000) if said.run_s is not None and math.isfinite(said.run_s) else -1
        return cls(said.node, round(said.cost, 4) if math.isfinite(said.cost) else None, terms, predicted_ms, said.preferred)


class Decided(msgspec.Struct, frozen=True, array_like=True):
    """Tasks of one run that asked for the same in one pass."""

    policy: str
    looked_ms: int
    """When the candidates were looked at: in this pass, or a little before."""
    able: int
    """Nodes that could have taken them, with or without room."""
    candidates: list[Candidate]
    """The best, and those that were chosen, the best first."""
    tasks: list[tuple[int, int, str]]
    """(task, attempt, node)."""


def decode(data: bytes) -> list[Decided]:
    """What a row of the record tells."""
    return _DECODER.decode(data)


_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(list[Decided])


class Granted(NamedTuple):
    """A task that got its node."""

    run: str
    task: int
    attempt: int
    node: str
    wanted: Wanted


class Look(NamedTuple):
    """What the router said of a kind of tasks."""

    at_ms: int
    policy: str
    able: int
    candidates: list[Candidate]

    @classmethod
    def of(cls, said: Explanation, at_ms: int) -> Look:
        return cls(at_ms, said.policy, len(said.candidates) + said.more, [Candidate.of(one) for one in said.candidates])

    def decided(self, group: Sequence[Granted]) -> Decided:
        """How these came to their nodes."""
        chosen = {one.node for one in group}
        some = self.candidates[:CANDIDATES]
        some += [one for one in self.candidates[CANDIDATES:] if one.node in chosen]
        return Decided(self.policy, self.at_ms, self.able, some, [(one.task, one.attempt, one.node) for one in group])


class Room:
    """How much may be done now, so that it stays little on the average."""

    __slots__ = ("looks", "rows", "tasks")

    def __init__(self) -> None:
        self.looks, self.rows, self.tasks = float(LOOKS), float(ROWS * BURST_S), float(TASKS * BURST_S)

    def grow(self, passed_s: float) -> None:
        self.looks = min(self.looks + LOOKS * passed_s, LOOKS)
        self.rows = min(self.rows + ROWS * passed_s, ROWS * BURST_S)
        self.tasks = min(self.tasks + TASKS * passed_s, TASKS * BURST_S)


class Explains(Protocol):
    """A router."""

    def explain(self, wanted: Wanted, now_ms: int, most: int) -> Explanation: ...


class DecisionLoop(Loop):
    """Keeps them."""

    name = "decisions"
    interval_s = 3_600.0

    def __init__(self, record: Record, clock: Clock) -> None:
        super().__init__()
        self._record = record
        self._clock = clock
        self._looks: OrderedDict[Wanted, Look] = OrderedDict()
        self._batches: deque[Sequence[Granted]] = deque()
        self._room = Room()
        self._room_ms = clock.now_ms()
        self.kept = 0
        """Tasks, since the start."""
        self.dropped = 0
        """Tasks for which there was no room, or that the record did not take."""

    # -- told by the place loop, in the midst of a pass: cheap

    def look(self, router: Explains, tasks: Sequence[Wanted], now_ms: int) -> None:
        """These are about to get their nodes."""
        self._refill(now_ms)
        last, seen = None, set[Wanted]()
        for wanted in tasks:
            if wanted is last or wanted in seen:
                continue
            if self._room.looks < 1 or len(seen) == SEEN:
                return
            last = wanted
            seen.add(wanted)
            self._room.looks -= 1
            self._looks[wanted] = Look.of(router.explain(wanted, now_ms, MOST), now_ms)
            self._looks.move_to_end(wanted)
            if len(self._looks) > KINDS:
                self._looks.popitem(last=False)

    def offer(self, granted: Sequence[Granted]) -> None:
        """These have got them. Those for which there is no room are dropped."""
        if len(self._batches) >= BATCHES or not granted:
            self.dropped += len(granted)
            return
        self._batches.append(granted)
        self.wake()

    # -- between its passes

    async def run_once(self) -> bool:
        if not self._batches:
            return False
        rows, kept = self._made(self._batches.popleft())
        if rows:
            try:
                await self._record.keep_decisions(rows)
            except RecordError as error:
                log.debug("decisions of placement were not kept: %s", error)
                self.dropped += kept
                return bool(self._batches)
            self.kept += kept
        return bool(self._batches)

    def _made(self, granted: Sequence[Granted]) -> tuple[list[DecisionRow], int]:
        """As many as there is room for, a row for each run."""
        self._refill(self._clock.now_ms())
        runs: dict[str, dict[int, tuple[Look, list[Granted]]]] = {}
        last: Wanted | None = None
        look: Look | None = None
        kept = 0
        for one in granted[: int(self._room.tasks)]:
            if one.wanted is not last:  # those that are equal are mostly one object: to compare it costs less than a look-up
                last = one.wanted
                look = self._looks.get(last)
            if look is None or look.able < 2:
                continue  # there was no choice, or nobody looked
            groups = runs.get(one.run)
            if groups is None:
                if len(runs) + 1 > self._room.rows:
                    break
                groups = runs[one.run] = {}
            groups.setdefault(id(last), (look, []))[1].append(one)
            kept += 1
        self._room.tasks -= kept
        self._room.rows -= len(runs)
        self.dropped += len(granted) - kept
        return [_row(run, groups.values()) for run, groups in runs.items()], kept

    def _refill(self, now_ms: int) -> None:
        self._room.grow(max(now_ms - self._room_ms, 0) / 1000)
        self._room_ms = now_ms


def _row(run: str, groups: Iterable[tuple[Look, list[Granted]]]) -> DecisionRow:
    decided = [look.decided(group) for look, group in groups]
    tasks = [task for one in decided for task, *_ in one.tasks]
    return DecisionRow(run, min(tasks), max(tasks), _ENCODER.encode(decided))
