"""What is measured, and the work that it is measured with."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from skep.model.spec import TaskSpec, WorkflowSpec
from skep.node.context import current_context

NOOP: Final = f"{__name__}:noop"


async def noop() -> None:
    """The task that does nothing."""


LOCK: Final = f"{__name__}:lock"
STATE: Final = f"{__name__}:state"
OPERATIONS: Final = 300
"""As often as each is done, the first 20 left out."""


async def lock() -> float:
    """Takes and gives back a lock, again and again; the p99 of taking it, in ms."""
    return await _p99_ms(_lock)


async def state() -> float:
    """Reads and writes a value of the shared state in turn; the p99 of both, in ms."""
    return await _p99_ms(_state)


async def _p99_ms(operation: Callable[[int], Awaitable[float]]) -> float:
    times = sorted([await operation(at) for at in range(OPERATIONS)][20:])
    return times[len(times) * 99 // 100] * 1000


async def _lock(at: int) -> float:
    began = time.perf_counter()
    async with current_context().lock(f"bench-{at % 7}"):
        return time.perf_counter() - began


async def _state(at: int) -> float:
    began = time.perf_counter()
    if at % 2:
        await current_context().state.aput("bench", at)
    else:
        await current_context().state.aget("bench")
    return time.perf_counter() - began


class Figure(NamedTuple):
    """One row of the table."""

    name: str
    unit: str
    floor: float
    aim: float
    more_is_better: bool = False


def workflow(needs: list[tuple[str, ...]], call: str = NOOP) -> WorkflowSpec:
    """No-op tasks t0, t1, …, each needing what its row names."""
    tasks = tuple(TaskSpec(name=f"t{at}", executor="python", call=call, needs=row) for at, row in enumerate(needs))
    return WorkflowSpec(name="bench", tasks=tasks)
