"""Decisions of placement are kept without holding anybody up: few looks, few rows, and what is too much is dropped."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from skep.clock import ManualClock
from skep.errors import RecordError
from skep.model.node import Requirement
from skep.record.protocol import DecisionRow
from skep.record.sql import SqlRecord
from skep.router.explain import Candidate, Explanation
from skep.router.wanted import Kind, Wanted
from skep.upkeep import decisions
from skep.upkeep.decisions import DecisionLoop, Granted, decode


class Router:
    """Says always the same."""

    def __init__(self, nodes: int = 3) -> None:
        self.asked: list[str] = []
        self.nodes = nodes

    def explain(self, wanted: Wanted, now_ms: int, most: int) -> Explanation:
        self.asked.append(wanted.kind.name)
        found = tuple(
            Candidate(f"n{at}", float(at) if at < 2 else float("inf"), {"load": at / 3}, run_s=at) for at in range(self.nodes)
        )
        return Explanation("hybrid", candidates=found, more=7)


def wanted(name: str = "w/a") -> Wanted:
    return Wanted(Requirement("run"), Kind(name))


def granted(count: int, wish: Wanted, run: str = "r", node: str = "n1") -> list[Granted]:
    return [Granted(run, task, 1, node, wish) for task in range(count)]


class Rows(SqlRecord):
    """Only notes what it is given to keep."""

    def __init__(self) -> None:
        super().__init__(None, inline=True)
        self.rows: list[DecisionRow] = []
        self.broken = False

    async def keep_decisions(self, rows: Sequence[DecisionRow]) -> None:
        if self.broken:
            raise RecordError("the disk is full")
        self.rows += rows


@pytest.fixture
def record() -> Rows:
    return Rows()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def loop(record: Rows, clock: ManualClock) -> DecisionLoop:
    return DecisionLoop(record, clock)


async def test_a_run_of_a_pass_is_one_row(loop: DecisionLoop, record: Rows, clock: ManualClock) -> None:
    one, other = wanted(), wanted("w/b")
    loop.look(Router(), [one, one, other, one], clock.now_ms())
    loop.offer([*granted(2, one), Granted("r", 7, 3, "n2", other), *granted(1, one, "s")])
    while await loop.run_once():
        pass
    assert [(row.run, row.first, row.last) for row in record.rows] == [("r", 0, 7), ("s", 0, 0)]
    first, second = decode(record.rows[0].data)
    assert (first.policy, first.able, first.looked_ms) == ("hybrid", 10, clock.now_ms())
    assert first.tasks == [(0, 1, "n1"), (1, 1, "n1")]
    assert second.tasks == [(7, 3, "n2")]
    assert [(c.node, c.cost, c.terms, c.predicted_ms) for c in first.candidates] == [
        ("n0", 0.0, {"load": 0.0}, 0),
        ("n1", 1.0, {"load": 0.3333}, 1_000),
        ("n2", None, {"load": 0.6667}, 2_000),
    ]
    assert (loop.kept, loop.dropped) == (4, 0)


async def test_without_a_choice_nothing_is_kept(loop: DecisionLoop, record: Rows, clock: ManualClock) -> None:
    wish = wanted()
    loop.offer(granted(1, wish))
    alone = Explanation("hybrid", candidates=(Candidate("n1", 0.0),))
    router = Router()
    router.explain = lambda *_: alone  # type: ignore[method-assign]
    loop.look(router, [wish], clock.now_ms())
    loop.offer(granted(1, wish))
    while await loop.run_once():
        pass
    assert record.rows == []


async def test_looks_are_few(loop: DecisionLoop, clock: ManualClock) -> None:
    router = Router()
    for _ in range(100):
        loop.look(router, [wanted(f"w/{at}") for at in range(10)], clock.now_ms())
    assert len(router.asked) == decisions.LOOKS
    clock.advance(100)
    loop.look(router, [wanted()] * 10, clock.now_ms())
    assert router.asked[decisions.LOOKS :] == ["w/a"]


async def test_what_is_too_much_is_dropped_and_counted(loop: DecisionLoop, record: Rows, clock: ManualClock) -> None:
    wish = wanted()
    loop.look(Router(), [wish], clock.now_ms())
    for _ in range(decisions.BATCHES + 1):
        loop.offer(granted(100, wish))
    assert loop.dropped == 100, "as many passes wait as may"
    while await loop.run_once():
        pass
    most = decisions.TASKS * decisions.BURST_S
    assert (loop.kept, loop.dropped) == (most, 100 + decisions.BATCHES * 100 - most)
    many = [one for at in range(2_000) for one in granted(1, wish, f"r{at}")]
    clock.advance(1_000)
    before = len(record.rows)
    loop.offer(many)
    await loop.run_once()
    assert len(record.rows) - before <= decisions.ROWS * decisions.BURST_S
    assert loop.kept == most + len(record.rows) - before


async def test_a_record_that_fails_holds_nothing_up(loop: DecisionLoop, record: Rows, clock: ManualClock) -> None:
    wish = wanted()
    loop.look(Router(), [wish], clock.now_ms())
    record.broken = True
    loop.offer(granted(3, wish))
    assert not await loop.run_once()
    assert (loop.kept, loop.dropped) == (0, 3)
