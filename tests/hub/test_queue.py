"""The queue: shares of namespaces, recorded and in force."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from skep.errors import SpecError
from skep.hub.queue import Queue
from skep.testing.stage import HOLD, Stage

RUN = {"run": "true"}


def queue_of(stage: Stage) -> Queue:
    return Queue(stage.engine, stage.record, stage.load, stage.place, stage.clock)


async def test_a_share_is_in_force_at_once_and_after_a_restart(stage: Stage) -> None:
    await queue_of(stage).share("b", 3)
    await queue_of(stage).share("c", 0.5)
    await queue_of(stage).share("c", 1)
    stage.place.fair.weights = {}
    await queue_of(stage).open()
    assert (await queue_of(stage).stats()).shares == {"b": 3.0}
    node = await stage.node(slots=8, script={"a": HOLD, "b": HOLD})
    for namespace in "ab":
        await stage.submit({namespace: RUN | {"map": list(range(20))}}, namespace=namespace)
    await stage.go()
    assert Counter(name[0] for name in node.held) == {"a": 2, "b": 6}


@pytest.mark.parametrize("weight", [0, -1, 1_001, math.nan, math.inf])
async def test_a_weight_that_is_none_is_refused(stage: Stage, weight: float) -> None:
    with pytest.raises(SpecError, match=r"weight: found .*, expected a number from 0.001 to 1,000"):
        await queue_of(stage).share("a", weight)
    assert await stage.record.flags() == {}


@pytest.mark.parametrize("namespace", ["", "*", "a b"])
async def test_a_share_is_for_one_namespace(stage: Stage, namespace: str) -> None:
    with pytest.raises(SpecError, match="namespace: found"):
        await queue_of(stage).share(namespace, 2)
