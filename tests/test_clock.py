"""Clocks: one that never steps back, and one that stands still."""

from __future__ import annotations

import time

import pytest

from skep.clock import Clock, ManualClock, SystemClock


def test_the_system_clock_tells_the_time_and_does_not_follow_when_it_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    clock: Clock = SystemClock()
    assert abs(clock.now_ms() - time.time_ns() // 1_000_000) < 60_000
    first = clock.now_ms()
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    assert clock.now_ms() >= first


def test_a_manual_clock_moves_only_when_it_is_moved_and_only_forward() -> None:
    clock = ManualClock(1_000)
    assert [clock.now_ms(), clock.now_ms()] == [1_000, 1_000]
    clock.advance(5)
    assert clock.now_ms() == 1_005
    with pytest.raises(ValueError, match="only goes forward, got -1 ms"):
        clock.advance(-1)
