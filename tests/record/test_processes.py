"""Several processes on one file, and one that is killed while it writes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from skep.errors import StaleEpochError
from skep.model.event import Event
from skep.model.run import Token
from skep.record import migrations, transcribe
from skep.record.protocol import EngineRow
from skep.record.read import tasks
from skep.record.sql import SqlRecord
from skep.record.sqlite import Sqlite

PROGRAM = Path(__file__).with_name("writing_process.py")
EPOCH = 7


def start(path: Path, engine: str, batches: int) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, str(PROGRAM), str(path), engine, str(batches)], stdout=subprocess.PIPE, text=True)


async def check_prefix(path: Path, engine: str) -> int:
    """The record holds events 1 to its mark, and the rows are what these events make. Answers the mark."""
    record = SqlRecord(path)
    await record.open()
    row = await record.engine(engine)
    assert row is not None
    run = f"run-{engine}"
    told = [event for _, event in await record.events(run, Token(0, 0), 10**6)]
    assert [event.n for event in told] == list(range(1, row.mark + 1))
    stored = await record.tasks(run)
    await record.close()
    tx = Sqlite(None).connect()
    migrations.ensure(tx)
    for event in told:
        if event.kind == "succeeded":
            event.output = b"1"  # stands in the task's row only
    transcribe._write(tx, engine, EPOCH, told, False, {})
    assert tasks(tx, run) == stored
    tx.close()
    return row.mark


async def test_a_killed_writer_leaves_a_prefix(tmp_path: Path) -> None:
    path = tmp_path / "skep.db"
    process = start(path, "e1", 1_000_000)
    assert process.stdout is not None
    acknowledged = [int(process.stdout.readline()) for _ in range(25)]
    process.kill()
    acknowledged += [int(line) for line in process.stdout.read().split("\n")[:-1]]
    process.stdout.close()
    process.wait()
    assert await check_prefix(path, "e1") >= acknowledged[-1]


async def test_two_processes_write_to_one_file(tmp_path: Path) -> None:
    path = tmp_path / "skep.db"
    processes = {engine: start(path, engine, 30) for engine in ("e1", "e2")}
    for engine, process in processes.items():
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        assert await check_prefix(path, engine) == int(out.split()[-1])


async def test_of_two_transcribers_one_is_told_to_read_again(tmp_path: Path) -> None:
    one, two = SqlRecord(tmp_path / "skep.db"), SqlRecord(tmp_path / "skep.db")
    await one.open()
    await two.open()
    assert await one.open_engine(EngineRow("e1", EPOCH, 0, "p", False), after_epoch=0)
    assert not await two.open_engine(EngineRow("e1", EPOCH, 0, "p", False), after_epoch=0)
    events = [Event(n=1, at_ms=1, kind="registered", node="n")]
    await two.transcribe("e1", EPOCH, 0, events)
    with pytest.raises(StaleEpochError):
        await one.transcribe("e1", EPOCH, 0, events)
    assert len(await one.events("e1", Token(0, 0), 9)) == 1
    await one.close()
    await two.close()
