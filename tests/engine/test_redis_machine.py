"""Random work on the memory engine's core and on the Redis engine in lock step: the same answers, the same events.

`--hypothesis-profile soak` does more.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from skep.engine.memory import Core
from skep.engine.redis import RedisEngine, RedisStore, open_epoch
from skep.testing.machine import EngineMachine, Subject
from skep.testing.reopen import ReopeningMachine
from tests.engine.servers import IDS, PROGRAMS, server
from tests.engine.test_machine import subject


class HandedClock:
    """The time that the machine says."""

    def __init__(self) -> None:
        self.ms = 0

    def now_ms(self) -> int:
        return self.ms


class OneLoop:
    """Speaks to Redis engines from plain code, on an event loop and a connection of its own."""

    def __init__(self, url: str) -> None:
        self._runner = asyncio.Runner()
        self._store = self._runner.run(RedisStore.connect(url))

    def subject(self, epoch: int, engine_id: str) -> Subject:
        clock = HandedClock()
        engine = RedisEngine(self._store, engine_id, epoch, clock)
        self._runner.run(open_epoch(self._store, engine_id, epoch))
        loop = self._runner.get_loop()

        def say(now_ms: int, verb: str, *arguments: Any) -> Any:
            clock.ms = now_ms
            if verb == "retire" and len(arguments) == 2:
                return loop.run_until_complete(engine.retire(arguments[0], lost=arguments[1]))
            if verb == "trim":
                return loop.run_until_complete(engine.trim(*arguments))
            return loop.run_until_complete(getattr(engine, verb)(*arguments))

        return say

    def close(self) -> None:
        self._runner.run(self._store.close())
        self._runner.close()


class RedisMachine(EngineMachine):
    there: OneLoop

    def subjects(self, epoch: int) -> Sequence[Subject]:
        self.engine_id = secrets.token_hex(6)
        return [subject(Core(epoch)), self.there.subject(epoch, self.engine_id)]


class ReopeningRedisMachine(ReopeningMachine):
    """Every reopening is a new epoch of the same engine: what earlier ones left must not be seen."""

    there: OneLoop
    engine_id = ""

    def subjects(self, epoch: int) -> Sequence[Subject]:
        self.engine_id = self.engine_id or secrets.token_hex(6)
        return [subject(Core(epoch)), self.there.subject(epoch, self.engine_id)]


EXAMPLES = 15
STEPS = 30
"""Enough for every day; a soak does what its profile says."""


@pytest.mark.parametrize("program", PROGRAMS, ids=IDS)
@pytest.mark.parametrize("kind", [RedisMachine, ReopeningRedisMachine])
def test_both_engines_answer_alike(kind: type[Any], program: Path) -> None:
    there = OneLoop(server(program).url)
    try:
        machine = type(kind.__name__, (kind,), {"there": there})
        profile = settings()
        long = profile.max_examples > settings.get_profile("default").max_examples
        chosen = settings(
            max_examples=profile.max_examples if long else EXAMPLES,
            stateful_step_count=profile.stateful_step_count if long else STEPS,
            deadline=None,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        )
        run_state_machine_as_test(machine, settings=chosen)
    finally:
        there.close()
