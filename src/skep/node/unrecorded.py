"""Outcomes that the node keeps until its server says that the record has them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from skep.model.node import Outcome

MOST_BYTES = 8 * 1024 * 1024
"""Of outputs and errors in one report."""
AROUND = 200
"""Bytes of an outcome beside its output, about."""


class Unrecorded:
    """Reports in the order in which they were made, by their numbers of this connection; 0: not sent on it yet."""

    def __init__(self) -> None:
        self._reports: deque[tuple[int, Sequence[Outcome]]] = deque()
        self._number = 0
        self.count = 0
        """Outcomes."""

    def keep(self, outcomes: Sequence[Outcome], connected: bool) -> Iterator[tuple[int, Sequence[Outcome]]]:
        """The reports in which they go now, if at all."""
        for part in _parts(outcomes):
            self.count += len(part)
            number = self.next_number() if connected else 0
            self._reports.append((number, part))
            if connected:
                yield number, part

    def next_number(self) -> int:
        self._number += 1
        return self._number

    def again(self) -> list[tuple[int, Sequence[Outcome]]]:
        """All of them, for a new connection: the reports in which they go, numbered from 1."""
        outcomes = [outcome for _, part in self._reports for outcome in part]
        self._reports = deque(enumerate(_parts(outcomes), 1))
        self._number = len(self._reports)
        return list(self._reports)

    def recorded(self, number: int) -> Iterator[Outcome]:
        """Those that need not be kept any more, now that the record has the reports up to this one."""
        reports = self._reports
        while reports and 0 < reports[0][0] <= number:
            _, outcomes = reports.popleft()
            self.count -= len(outcomes)
            yield from outcomes

    def __iter__(self) -> Iterator[Outcome]:
        for _, outcomes in self._reports:
            yield from outcomes


def _parts(outcomes: Sequence[Outcome]) -> Iterator[Sequence[Outcome]]:
    part: list[Outcome] = []
    size = 0
    for outcome in outcomes:
        part.append(outcome)
        size += len(outcome.output) + AROUND
        if size > MOST_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part
