"""The scorecard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from skep.testing.chaos.check import Findings
from skep.testing.chaos.ledger import Entry

SHOWN: Final = 5
"""Of what is wrong; all of it is in the document."""


class Times(msgspec.Struct):
    """Milliseconds."""

    count: int = 0
    p50: float | None = None
    p99: float | None = None
    max: float | None = None

    @staticmethod
    def of(found: Sequence[float]) -> Times:
        ordered = sorted(found)
        if not ordered:
            return Times()
        at = [ordered[min(int(len(ordered) * part), len(ordered) - 1)] for part in (0.5, 0.99)]
        return Times(len(ordered), round(at[0], 1), round(at[1], 1), round(ordered[-1], 1))


class Scorecard(msgspec.Struct):
    """The document of `skep chaos --json`."""

    seed: int
    fleet: str
    accepted: int
    finished: int
    lost: int
    stale_commits: int
    stuck: int
    duplicates: int
    faults: dict[str, int]
    """Kind to how often."""
    failover_ms: dict[str, Times]
    left_out: dict[str, str]
    """Kind to why."""
    ended_by_themselves: dict[str, list[int]]
    """Programs of the fleet to their exit codes."""
    unanswered: dict[str, int]
    """What clients were told in place of an answer, and how often; they asked again."""
    wrong: list[str]
    """What was lost, stale or stuck, in words."""
    evidence: str | None = None

    @property
    def bad(self) -> bool:
        return bool(self.lost or self.stale_commits or self.stuck)

    @staticmethod
    def of(
        found: Findings,
        *,
        fleet: str,
        faults: Sequence[Entry],
        failover: Mapping[str, Sequence[float]],
        left_out: Mapping[str, str],
        seed: int,
        ended: Mapping[str, list[int]],
        unanswered: Mapping[str, int],
    ) -> Scorecard:
        return Scorecard(
            seed=seed,
            fleet=fleet,
            accepted=found.accepted,
            finished=found.finished,
            lost=len(found.lost),
            stale_commits=len(found.stale),
            stuck=len(found.stuck),
            duplicates=found.again,
            faults=dict(Counter(entry.kind for entry in faults)),
            failover_ms={what: Times.of(times) for what, times in failover.items()},
            left_out=dict(left_out),
            ended_by_themselves=dict(ended),
            unanswered=dict(unanswered),
            wrong=[
                *(f"lost: {text}" for text in found.lost),
                *(f"stale: {text}" for text in found.stale),
                *(f"stuck: {text}" for text in found.stuck),
            ],
        )

    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = msgspec.to_builtins(self)
        return found
