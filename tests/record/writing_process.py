"""A process that transcribes, for the tests that kill it or run two of it. Prints the mark after each batch.

Arguments: file, engine, number of batches.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from skep.model.event import Event
from skep.record.protocol import EngineRow, NewRun
from skep.record.sql import SqlRecord

EPOCH = 7
TASKS = 40


def batch(run: str, number: int, first: int) -> list[Event]:
    """Events of batch `number`, the first of which is numbered `first`: the end of the batch before, and new grants."""
    told: list[Event] = []
    for task in range((number - 1) * TASKS, number * TASKS) if number else ():
        grant = first - TASKS + task % TASKS
        told.append(
            Event(n=first + len(told), at_ms=first, kind="succeeded", run=run, task=task, attempt=1, token=grant, output=b"1")
        )
    for task in range(number * TASKS, (number + 1) * TASKS):
        n = first + len(told)
        told.append(Event(n=n, at_ms=n, kind="granted", run=run, task=task, attempt=1, token=n, token_epoch=EPOCH, node=run))
    return told


async def main(path: Path, engine: str, batches: int) -> None:
    record = SqlRecord(path)
    await record.open()
    run = f"run-{engine}"
    await record.open_engine(EngineRow(engine, EPOCH, 0, "p", True), after_epoch=0)
    await record.accept([NewRun(id=run, engine=engine, workflow="w", definition=b"{}", digest="d", accepted_ms=1)])
    mark = 0
    for number in range(batches):
        told = batch(run, number, mark + 1)
        await record.transcribe(engine, EPOCH, mark, told)
        mark = told[-1].n
        print(mark, flush=True)
    await record.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
