"""A run that was followed from its beginning ends as the record has it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from skep.hub.life import MOST, Life
from skep.model.views import RunSummary
from skep.testing.stage import HOLD, Failed, Stage

RUN: dict[str, Any] = {"run": "true"}
FLOWS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "one": ({"a": RUN}, {}),
    "chain": ({"a": RUN, "b": RUN | {"needs": ["a"]}}, {}),
    "skips": ({"a": RUN, "b": RUN | {"needs": ["a"], "when": "${{ False }}"}}, {}),
    "map": ({"a": RUN | {"map": "${{ [1, 2, 3] }}"}, "b": RUN | {"needs": ["a"]}}, {}),
    "empty map": ({"a": RUN | {"map": "${{ [] }}"}}, {}),
    "fails": ({"a": RUN, "b": RUN | {"needs": ["a"]}}, {"a": Failed("ValueError", "no")}),
}


async def followed(stage: Stage, tasks: dict[str, Any]) -> tuple[Life, RunSummary]:
    life = Life()
    run = await stage.submit(tasks, life=life)
    waits = asyncio.ensure_future(stage.hub.runs.end(run, 30, life))
    await asyncio.sleep(0)
    await stage.go()
    return life, await waits


@pytest.mark.parametrize("flow", FLOWS)
async def test_what_events_tell_is_what_the_record_has(stage: Stage, flow: str) -> None:
    tasks, script = FLOWS[flow]
    await stage.node(script=script)
    life, ended = await followed(stage, tasks)
    assert life.ended() is not None
    assert ended == await stage.hub.runs.summary(ended.id)
    assert ended.finished_ms


async def test_a_run_that_is_not_followed_is_looked_up(stage: Stage) -> None:
    await stage.node()
    run = await stage.submit({"a": RUN})
    await stage.go()
    assert (await stage.hub.runs.end(run, 30)).state == "succeeded"
    assert (await stage.hub.runs.end(run, 30, Life())).state == "succeeded"


async def test_a_wait_that_is_too_short_says_how_the_run_stands(stage: Stage) -> None:
    await stage.node(script={"a": HOLD})
    life = Life()
    run = await stage.submit({"a": RUN}, life=life)
    await stage.go()
    assert (await stage.hub.runs.end(run, 0.01, life)).state == "running"
    assert life.ended() is None


async def test_a_life_with_a_gap_is_not_believed(stage: Stage) -> None:
    """Events that another server recorded may be missed."""
    await stage.node()
    life, ended = await followed(stage, {"a": RUN})
    whole = [event for event in stage.told if event.run == ended.id]
    for missing in ("loaded", "succeeded", "ended"):
        other = Life()
        assert life.ended() is not None
        other.begin(life.ended())  # type: ignore[arg-type]
        for event in whole:
            if event.kind != missing:
                assert other.told(event)
        assert other.ended() is None


async def test_a_long_life_is_not_followed_to_its_end(stage: Stage) -> None:
    await stage.node()
    life, ended = await followed(stage, {f"t{at}": RUN for at in range(MOST)})
    assert (ended.state, ended.counts) == ("succeeded", {"succeeded": MOST})
    assert life.ended() is None
