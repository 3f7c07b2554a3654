"""Events: sent once, and refused when wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from skep.errors import SpecError
from skep.hub.events import MAX_DATA
from skep.testing.timed import TimedStage


@pytest.fixture
async def stage() -> AsyncIterator[TimedStage]:
    async with TimedStage() as made:
        yield made


async def test_an_event_is_kept_for_those_who_wait_later(stage: TimedStage) -> None:
    sent = await stage.events.send("go", "1", {"x": 1}, namespace="lab")
    (found,) = await stage.record.signals("lab", "go", "1", 0)
    assert (found.id, found.data, found.at_ms) == (sent, b'{"x":1}', stage.clock.now_ms())
    assert await stage.record.signals("default", "go", "1", 0) == []


async def test_an_event_without_data_gives_null(stage: TimedStage) -> None:
    run = await stage.submit({"e": {"wait_for": "go"}})
    await stage.go()
    await stage.events.send("go")
    await stage.go()
    assert (await stage.tasks.get(run, "e")).state == "succeeded"
    assert (await stage.tasks.get(run, "e")).output is None


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"name": ""}, "name: found '', expected a text"),
        ({"name": "a\0b"}, "name: found"),
        ({"name": "a" * 501}, "name: has 501 characters, 500 are allowed"),
        ({"name": "a", "key": "b" * 501}, "key: has 501 characters"),
        ({"name": "a", "data": object()}, "data: must be JSON"),
        ({"name": "a", "data": "x" * MAX_DATA}, "data: has 1,048,578 bytes, 1,048,576 are allowed"),
    ],
)
async def test_what_is_wrong_is_refused(stage: TimedStage, given: dict[str, Any], problem: str) -> None:
    with pytest.raises(SpecError, match=problem):
        await stage.events.send(**given)
