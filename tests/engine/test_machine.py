"""Random work on a core that is told everything once and one that is told it twice. `--hypothesis-profile soak` does more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import settings

from skep.engine.memory import Core
from skep.testing.machine import EngineMachine, Subject
from skep.testing.reopen import ReopeningMachine

TIMELESS = {
    "ready": "ready",
    "tasks": "tasks",
    "lines": "lines",
    "take": "take",
    "events": "events",
    "trim": "trim",
    "nodes": "list_nodes",
}


def subject(core: Core) -> Subject:
    def say(now_ms: int, verb: str, *arguments: Any) -> Any:
        return getattr(core, TIMELESS[verb])(*arguments) if verb in TIMELESS else getattr(core, verb)(now_ms, *arguments)

    return say


class CoreMachine(EngineMachine):
    def subjects(self, epoch: int) -> Sequence[Subject]:
        return [subject(Core(epoch)), subject(Core(epoch))]


class ReopeningCoreMachine(ReopeningMachine):
    def subjects(self, epoch: int) -> Sequence[Subject]:
        return [subject(Core(epoch)), subject(Core(epoch))]


TestCoreMachine = CoreMachine.TestCase
TestCoreMachine.settings = settings(deadline=None, report_multiple_bugs=False)
TestReopening = ReopeningCoreMachine.TestCase
TestReopening.settings = settings(deadline=None, report_multiple_bugs=False)
