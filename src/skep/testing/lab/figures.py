"""What is measured, and the work that it is measured with."""

from __future__ import annotations

from typing import Final, NamedTuple

from skep.model.spec import TaskSpec, WorkflowSpec

NOOP: Final = f"{__name__}:noop"


async def noop() -> None:
    """The task that does nothing."""


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
