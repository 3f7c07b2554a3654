"""The record on SQL: the `Record` of `protocol`, made of the plain functions of this package."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from skep.model.event import Event
from skep.model.node import LogChunk
from skep.model.run import AttemptView, Token
from skep.record import (
    artifacts,
    backup,
    chunks,
    costs,
    decisions,
    definitions,
    history,
    kept,
    keys,
    listing,
    nodes,
    prune,
    read,
    restore,
    runs,
    schedules,
    transcribe,
    waits,
)
from skep.record.batch import Batch
from skep.record.doors import Doors
from skep.record.protocol import (
    Accepted,
    Command,
    DecisionRow,
    Definition,
    EngineRow,
    Expansion,
    Fence,
    KeyRow,
    NewRun,
    NodeRow,
    PastAttempt,
    RestoredRun,
    RunFilter,
    RunPage,
    RunRow,
    ScheduleRow,
    Signal,
    StateValue,
    TaskRow,
    WaitRow,
)

FEW: Final = 8
"""Runs or events that make a small call."""
SOME: Final = 1_000
"""Tasks that are counted in no time."""
PRUNED: Final = 200
"""Runs that one step of `prune` takes."""


class SqlRecord(Doors):
    """The `Record`; see `Doors` for where it is kept."""

    _accepts: Batch[NewRun, Accepted | Exception] | None = None
    """The last that was handed to the writer."""
    _backups = 0
    """How many are being made: artifacts stay meanwhile."""

    # -- engines

    async def own(self, engine: str) -> bool:
        await self._aside(self._own, engine)
        return True

    async def engine(self, engine: str) -> EngineRow | None:
        return await self._read(runs.engine, engine)

    async def open_engine(self, row: EngineRow, *, after_epoch: int) -> bool:
        return await self._write(runs.open_engine, row, after_epoch)

    async def abandon(self, engine: str, now_ms: int) -> int:
        return await self._write(runs.abandon, engine, now_ms)

    async def embedded_engines(self) -> list[str]:
        return await self._read(runs.embedded_engines)

    # -- commands

    async def accept(self, new: Sequence[NewRun]) -> list[Accepted | Exception]:
        if len(new) > FEW:
            return await self._write(runs.accept, new)
        if self._inline or not self.writer.busy:
            return await self._write_small(runs.accept, new)
        loop = asyncio.get_running_loop()
        batch = self._accepts
        place = batch.add(new) if batch is not None and batch.loop is loop else None
        if batch is None or place is None:
            batch = self._accepts = Batch(runs.accept, loop)
            place = batch.add(new) or 0
            batch.answers = self.writer.queued(batch, loop)
        answers = await asyncio.shield(batch.answers)
        return answers[place : place + len(new)]

    async def command(self, run: str, verb: str, data: bytes, at_ms: int, after: int | None = None) -> Command:
        return await self._write(runs.command, run, verb, data, at_ms, after)

    async def commands(self, engine: str, after: Mapping[str, int]) -> list[Command]:
        return await self._read(runs.commands, engine, after)

    async def unloaded(self, engine: str, epoch: int, limit: int, now_ms: int) -> list[RunRow]:
        return await self._read(runs.unloaded, engine, epoch, limit, now_ms)

    async def next_due_ms(self, engine: str, now_ms: int) -> int:
        return await self._read(runs.next_due_ms, engine, now_ms)

    async def restore(self, wanted: Sequence[str]) -> dict[str, RestoredRun]:
        return await self._read(restore.restore, wanted)

    async def unfinished(self, engine: str) -> int:
        return await self._read(runs.unfinished, engine)

    # -- transcription

    async def transcribe(self, engine: str, epoch: int, after: int, events: Sequence[Event]) -> None:
        # The end of a run: most likely nothing else is under way that a commit on this thread would hold up.
        last = bool(events) and len(events) <= FEW and events[-1].kind == "ended"
        write = self._write_small if last else self._write
        await write(transcribe.transcribe, engine, epoch, after, events)

    # -- waits, events

    async def waits(
        self,
        engine: str,
        *,
        kinds: Sequence[str] = (),
        runs: Sequence[str] = (),
        task: int = -1,
        namespace: str = "",
        limit: int = 1_000_000,
    ) -> list[WaitRow]:
        return await self._read(waits.waits, engine, kinds, runs, task, namespace, limit)

    async def decide(self, run: str, task: int, attempt: int, data: bytes, at_ms: int) -> Command:
        return await self._write(waits.decide, run, task, attempt, data, at_ms)

    async def send(self, signal: Signal) -> bool:
        return await self._write(waits.send, signal)

    async def signals(self, namespace: str, name: str, key: str, from_ms: int, limit: int = 1) -> list[Signal]:
        return await self._read(waits.signals, namespace, name, key, from_ms, limit)

    # -- definitions, schedules, nodes, flags

    async def put_definition(self, namespace: str, name: str, digest: str, body: bytes, note: str, at_ms: int) -> Definition:
        return await self._write(definitions.put, namespace, name, digest, body, note, at_ms)

    async def definitions(self, namespace: str = "", name: str = "") -> list[Definition]:
        return await self._read(definitions.listed, namespace, name)

    async def stored_definition(self, namespace: str, name: str, version: int = 0) -> Definition:
        return await self._read(definitions.stored, namespace, name, version)

    async def remove_definition(self, namespace: str, name: str) -> int:
        return await self._write(definitions.remove, namespace, name)

    async def put_schedule(self, namespace: str, name: str, spec: bytes, next_ms: int, at_ms: int) -> ScheduleRow:
        return await self._write(schedules.put, namespace, name, spec, next_ms, at_ms)

    async def schedules(self, namespace: str = "", due_ms: int = 0) -> list[ScheduleRow]:
        return await self._read(schedules.listed, namespace, due_ms)

    async def schedule(self, namespace: str, name: str) -> ScheduleRow:
        return await self._read(schedules.one, namespace, name)

    async def remove_schedule(self, namespace: str, name: str) -> bool:
        return await self._write(schedules.remove, namespace, name)

    async def move_schedule(
        self, row: ScheduleRow, *, fired_ms: int | None = None, next_ms: int | None = None, paused: bool | None = None
    ) -> bool:
        return await self._write(schedules.move, row, fired_ms, next_ms, paused)

    async def next_schedule_ms(self) -> int:
        return await self._read(schedules.next_ms)

    async def nodes(self, engine: str) -> list[NodeRow]:
        return await self._read(nodes.nodes, engine)

    async def want_drain(self, engine: str, node: str, on: bool, at_ms: int) -> None:
        await self._write(nodes.want_drain, engine, node, on, at_ms)

    async def set_price(self, engine: str, node: str, cost_per_hour: float, slots: int, at_ms: int) -> None:
        await self._write(costs.set_price, engine, node, costs.price_of(cost_per_hour, slots), at_ms)

    async def priced(self, engine: str) -> set[str]:
        return set(await self._read_small(costs.prices, engine))

    async def flags(self) -> dict[str, str]:
        return await self._read(nodes.flags)

    async def set_flag(self, name: str, value: str | None) -> None:
        await self._write(nodes.set_flag, name, value)

    # -- keys

    async def put_key(self, row: KeyRow) -> None:
        await self._write(keys.put, row)

    async def keys(self) -> list[KeyRow]:
        return await self._read(keys.keys)

    async def revoke_key(self, id: str, at_ms: int) -> bool:
        return await self._write(keys.revoke, id, at_ms)

    # -- reading

    async def definition(self, digest: str) -> bytes:
        return await self._read(read.definition, digest)

    async def run(self, run: str, *, counts: bool = False) -> RunRow:
        row = await self._read_small(read.run, run)
        if counts:
            count = self._read_small if row.task_count <= SOME else self._read
            row.counts = await count(read.counts, run, row.task_count)
        return row

    async def find_run(self, prefix: str) -> str:
        return await self._read(listing.find_run, prefix)

    async def list_runs(self, wanted: RunFilter, *, limit: int = 50, cursor: str = "") -> RunPage:
        return await self._read(listing.page, wanted, limit, cursor)

    async def count_runs(self, namespace: str = "", *, now_ms: int = 0) -> dict[int, int]:
        return await self._read(listing.count_runs, namespace, now_ms)

    async def tasks(self, run: str) -> list[TaskRow]:
        return await self._read(read.tasks, run)

    async def task(self, run: str, index: int) -> TaskRow | None:
        return await self._read(read.task, run, index)

    async def list_tasks(
        self, run: str, *, states: Sequence[int] = (), after: int = -1, limit: int = 1_000, indexes: Sequence[int] | None = None
    ) -> list[TaskRow]:
        return await self._read(read.list_tasks, run, states, after, limit, indexes)

    async def attempts(self, run: str, task: int | None = None) -> dict[int, list[AttemptView]]:
        return await self._read(read.attempts, run, task)

    async def past_attempts(self, engine: str, limit: int) -> list[PastAttempt]:
        return await self._read(history.past_attempts, engine, limit)

    async def expansions(self, run: str) -> list[Expansion]:
        return await self._read(read.expansions, run)

    async def outputs(self, run: str, tasks: Sequence[int]) -> dict[int, bytes]:
        return await self._read(read.outputs, run, tasks)

    async def errors(self, run: str, tasks: Sequence[int]) -> dict[int, bytes]:
        return await self._read(read.errors, run, tasks)

    async def keep_decisions(self, rows: Sequence[DecisionRow]) -> None:
        await self._write(decisions.keep, rows)

    async def decisions(self, run: str, task: int, limit: int) -> list[DecisionRow]:
        return await self._read(decisions.of_task, run, task, limit)

    async def last_event(self, run: str) -> Token:
        return await self._read(read.last_event, run)

    async def events(self, run: str, after: Token, limit: int) -> list[tuple[Token, Event]]:
        return await self._read(read.events, run, after, limit)

    # -- what lease holders keep here

    async def get_state(self, namespace: str, key: str, now_ms: int, fence: Fence | None = None) -> StateValue | None:
        if fence is None:
            return await self._read(kept.get_state, namespace, key, now_ms)
        return await self._write(kept.get_state, namespace, key, now_ms, fence)

    async def put_state(
        self,
        namespace: str,
        key: str,
        value: bytes,
        *,
        now_ms: int,
        ttl_ms: int,
        expect: int | None = None,
        fence: Fence | None = None,
    ) -> int:
        return await self._write(
            kept.put_state, namespace, key, value, now_ms=now_ms, ttl_ms=ttl_ms, expect=expect, fence=fence
        )

    async def save_checkpoint(self, fence: Fence, data: bytes, at_ms: int) -> None:
        await self._write(kept.save_checkpoint, fence, data, at_ms)

    async def load_checkpoint(self, fence: Fence) -> bytes | None:
        return await self._write(kept.load_checkpoint, fence)

    async def append_logs(self, chunks: Sequence[LogChunk]) -> None:
        await self._write(kept.append_logs, chunks)

    async def logs(
        self, run: str, task: int, attempt: int | None = None, *, after: int = 0, limit: int = 1_000
    ) -> list[LogChunk]:
        return await self._read(kept.logs, run, task, attempt, after=after, limit=limit)

    async def log_stream(
        self, run: str, tasks: Sequence[int] = (), *, attempt: int | None = None, after: int = 0, limit: int = 1_000
    ) -> list[tuple[int, LogChunk]]:
        return await self._read(kept.log_stream, run, tasks, attempt, after, limit)

    async def put_artifact(self, run: str, data: bytes, now_ms: int) -> str:
        artifact = await self._aside(artifacts.artifact_id, data)
        await self._write(artifacts.link, artifact, run, len(data), now_ms)
        if not self._dialect.far:
            await self._aside(self.files.write, artifact, data)
            return artifact
        wanted = await self._read(chunks.missing, artifact, len(data))
        for start in range(0, len(wanted), chunks.AT_ONCE):
            await self._write(chunks.put, artifact, data, wanted[start : start + chunks.AT_ONCE])
        return artifact

    async def get_artifact(self, artifact: str) -> bytes:
        if self._dialect.far:
            return await self._read(chunks.get, artifact)
        return await self._aside(self.files.read, artifact)

    async def prune(self, *, ended_before_ms: int, now_ms: int, limit: int) -> int:
        gone = 0
        while gone < limit:
            taken = await self._write(prune.take_runs, ended_before_ms, min(limit - gone, PRUNED))
            gone += taken
            while await self._write(prune.sweep):
                pass
            if taken < PRUNED:
                break
        while await self._write(prune.age, ended_before_ms=ended_before_ms, now_ms=now_ms):
            pass
        while not self._backups and await self._write(prune.orphans, None if self._dialect.far else self.files, now_ms):
            pass
        return gone

    async def backup(self, target: Path) -> dict[str, Any]:
        size = await self._read(self._dialect.size)
        self._backups += 1
        try:
            if self._inline:
                return backup.backup(self._dialect, size, self.files, target)
            return await asyncio.to_thread(backup.backup, self._dialect, size, self.files, target)
        finally:
            self._backups -= 1

    async def stats(self) -> dict[str, Any]:
        found = await self._read(read.stats)
        writer = self.writer
        return found | {"commit_ms": round(writer.commit_ms, 3), "commits": writer.commits, "calls": writer.calls}
