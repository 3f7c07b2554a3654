"""Real attacks on real fleets. `SKEP_DRILL=full` makes them longer, and does without each guard in turn."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from skep.testing.chaos import ledger
from skep.testing.chaos.attack import Options, Progress, attack
from skep.testing.chaos.faults import ALL, NEVER, PROOF, possible
from skep.testing.chaos.fleet import SmallFleet
from skep.testing.chaos.score import Scorecard
from skep.testing.chaos.wide import WideFleet
from skep.testing.servers import NotInstalledError

FULL = os.environ.get("SKEP_DRILL") == "full"
full = pytest.mark.skipif(not FULL, reason="takes minutes: SKEP_DRILL=full")
SHORT_S = 9.0
PROOF_S = 36.0
SEEDS = [int(os.environ["SKEP_SEED"])] if "SKEP_SEED" in os.environ else [1, 2, 3]


def hit(fleet: SmallFleet | WideFleet, seconds: float, seed: int = 1, faults: Sequence[str] = ()) -> Scorecard:
    seen: list[Progress] = []
    card = attack(fleet, Options(seconds, seed, faults), seen.append)
    assert seen
    assert seen[-1].accepted >= card.finished
    return card


def wide(folder: Path, broken: str = "") -> WideFleet:
    try:
        return WideFleet(folder, broken=broken)
    except NotInstalledError as error:
        pytest.skip(str(error))


def check(card: Scorecard) -> None:
    assert not card.bad, "\n".join([*card.wrong[:20], str(card.evidence)])
    assert card.accepted > 10
    assert card.finished == card.accepted
    assert sum(card.faults.values()) >= 1


def test_a_small_fleet_loses_nothing(tmp_path: Path) -> None:
    card = hit(SmallFleet(tmp_path), SHORT_S, faults=("node-kill", "server-kill", "worker-kill"))
    check(card)
    kept = ledger.read(tmp_path / "ledger")
    assert sum(entry.what == "accepted" for entry in kept) == card.accepted
    assert [entry.what for entry in kept].count("fault") == sum(card.faults.values())


def test_a_wide_fleet_loses_nothing(tmp_path: Path) -> None:
    check(hit(wide(tmp_path), SHORT_S, faults=("node-kill", "server-kill", "node-cut", "postgres-kill")))


@full
@pytest.mark.parametrize("fault", ["redis-flush", "redis-kill", "redis-empty", "redis-older"])
def test_a_wide_fleet_outlives_its_engine(fault: str, tmp_path: Path) -> None:
    check(hit(wide(tmp_path), 40.0, faults=(fault,)))


@full
@pytest.mark.parametrize("guard", PROOF)
def test_a_small_fleet_without_a_guard_is_found_out(guard: str, tmp_path: Path) -> None:
    card = hit(SmallFleet(tmp_path, broken=guard), PROOF_S, faults=PROOF[guard])
    assert card.bad
    assert card.evidence == str(tmp_path)


@full
@pytest.mark.parametrize("guard", PROOF)
def test_a_wide_fleet_without_a_guard_is_found_out(guard: str, tmp_path: Path) -> None:
    assert hit(wide(tmp_path, guard), PROOF_S, faults=PROOF[guard]).bad


@full
@pytest.mark.parametrize("seed", SEEDS)
def test_a_small_fleet_loses_nothing_for_long(seed: int, tmp_path: Path) -> None:
    check(hit(SmallFleet(tmp_path), 120.0, seed))


@full
@pytest.mark.parametrize("seed", SEEDS)
def test_a_wide_fleet_loses_nothing_for_long(seed: int, tmp_path: Path) -> None:
    check(hit(wide(tmp_path), 300.0, seed))


def test_what_a_small_fleet_cannot_have_is_said(tmp_path: Path) -> None:
    can, left_out = possible(SmallFleet(tmp_path))
    names = {found.kind.name for found in can}
    assert {"node-kill", "node-stall", "server-kill"} <= names
    assert names | left_out.keys() == ALL.keys() | NEVER.keys()
    assert not names & left_out.keys()
    assert all(left_out.values()), "each with its reason"
