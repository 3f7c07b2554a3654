"""The record on SQL: the `Record` of `protocol`, made of the plain functions of this package.

Writes go to the writer thread, reads to a few reader threads with connections of their own. In memory there is one connection,
so reads take the writer's way too; inline, everything runs on the thread that calls and no method ever suspends.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from skep.errors import RecordError
from skep.model.event import Event
from skep.model.node import LogChunk
from skep.model.run import AttemptView, Token
from skep.record import artifacts, kept, prune, read, runs, schema, transcribe
from skep.record.connection import Readers
from skep.record.dialect import Dialect, Sqlite, Transaction
from skep.record.protocol import Command, EngineRow, Expansion, Fence, NewRun, RunRow, StateValue, TaskRow
from skep.record.writer import Writer

P = ParamSpec("P")
T = TypeVar("T")

FEW: Final = 8
"""Runs or events that make a small call."""
READERS: Final = 2
"""Reader threads: a long listing does not hold up a short question."""


class SqlRecord:
    """A record in the SQLite file `path`; None: in memory, gone at close.

    `folder`: of artifacts; by default `artifacts` beside the file. `inline`: no threads at all, for tests on virtual time.
    """

    def __init__(self, path: Path | None = None, *, folder: Path | None = None, inline: bool = False) -> None:
        self._dialect: Dialect = Sqlite(path)
        self._folder = folder or (path.parent / "artifacts" if path else None)
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self.files = artifacts.Files(self._folder or Path())
        self._inline = inline
        self.writer = Writer(self._dialect, inline=inline)
        """Its `calls`, `commits` and `commit_ms` are counted since the start."""
        self._readers: Readers | None = None
        self._threads: ThreadPoolExecutor | None = None

    # -- the doors

    def call(self, fn: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """The blocking door, for threads without an event loop: `call(kept.put_state, …).result()`. Runs a function of this
        package in the writer's next transaction; the future is done after the commit, or carries a SkepError."""
        return self.writer.call(lambda tx: fn(tx, *args, **kwargs))

    async def _write(self, fn: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.writer.ask(lambda tx: fn(tx, *args, **kwargs))

    async def _write_small(self, fn: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.writer.ask(lambda tx: fn(tx, *args, **kwargs), small=True)

    async def _read(self, fn: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._readers is None:
            return await self._write(fn, *args, **kwargs)
        return await self._aside(self._readers.read, lambda tx: fn(tx, *args, **kwargs))

    async def _aside(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs what blocks on a thread, unless inline."""
        if self._inline:
            return fn(*args, **kwargs)
        if self._threads is None:
            raise RecordError("the record is not open; open it first, and make no calls after close")
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(fn, *args, **kwargs))

    # -- its life

    async def open(self) -> None:
        if self._threads is None and not self._inline:
            self._threads = ThreadPoolExecutor(READERS, "skep-reader")
        try:
            await self._aside(self.writer.open)
            await self._write(schema.ensure)
        except BaseException:
            await self.close()
            raise
        if self._readers is None and self._dialect.shared and not self._inline:
            self._readers = Readers(self._dialect)
        if self._folder is None and self._temporary is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="skep-artifacts-")
            self.files = artifacts.Files(Path(self._temporary.name))

    def give_up(self) -> None:
        """Every write fails at once from now on, so that nothing which is to end waits for a disk; only `close` may follow."""
        self.writer.give_up()

    async def close(self) -> None:
        """Finishes what is queued. Harmless when repeated, and after an `open` that failed."""
        if self._inline or self._threads is not None:
            await self._aside(self.writer.close)
        if self._threads is not None:
            self._threads.shutdown()
            self._threads = None
        if self._readers is not None:
            self._readers.close()
            self._readers = None
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = None

    # -- engines

    async def engine(self, engine: str) -> EngineRow | None:
        return await self._read(runs.engine, engine)

    async def open_engine(self, row: EngineRow, *, after_epoch: int) -> bool:
        return await self._write(runs.open_engine, row, after_epoch)

    async def abandon(self, engine: str, now_ms: int) -> int:
        return await self._write(runs.abandon, engine, now_ms)

    async def embedded_engines(self) -> list[str]:
        return await self._read(runs.embedded_engines)

    # -- commands

    async def accept(self, new: Sequence[NewRun]) -> list[str | Exception]:
        write = self._write_small if len(new) <= FEW else self._write
        return await write(runs.accept, new)

    async def command(self, run: str, verb: str, data: bytes, at_ms: int) -> Command:
        return await self._write(runs.command, run, verb, data, at_ms)

    async def commands(self, engine: str, after: Mapping[str, int]) -> list[Command]:
        return await self._read(runs.commands, engine, after)

    async def unloaded(self, engine: str, epoch: int, limit: int, now_ms: int) -> list[RunRow]:
        return await self._read(runs.unloaded, engine, epoch, limit, now_ms)

    async def unfinished(self, engine: str) -> int:
        return await self._read(runs.unfinished, engine)

    # -- transcription

    async def transcribe(self, engine: str, epoch: int, after: int, events: Sequence[Event]) -> None:
        # The end of a run: most likely nothing else is under way that a commit on this thread would hold up.
        last = bool(events) and len(events) <= FEW and events[-1].kind == "ended"
        write = self._write_small if last else self._write
        await write(transcribe.transcribe, engine, epoch, after, events)

    # -- reading

    async def definition(self, digest: str) -> bytes:
        return await self._read(read.definition, digest)

    async def run(self, run: str) -> RunRow:
        return await self._read(read.run, run)

    async def tasks(self, run: str) -> list[TaskRow]:
        return await self._read(read.tasks, run)

    async def attempts(self, run: str) -> dict[int, list[AttemptView]]:
        return await self._read(read.attempts, run)

    async def expansions(self, run: str) -> list[Expansion]:
        return await self._read(read.expansions, run)

    async def outputs(self, run: str, tasks: Sequence[int]) -> dict[int, bytes]:
        return await self._read(read.outputs, run, tasks)

    async def errors(self, run: str, tasks: Sequence[int]) -> dict[int, bytes]:
        return await self._read(read.errors, run, tasks)

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

    async def put_artifact(self, run: str, data: bytes, now_ms: int) -> str:
        artifact = await self._aside(artifacts.artifact_id, data)
        await self._write(artifacts.link, artifact, run, len(data), now_ms)
        await self._aside(self.files.write, artifact, data)
        return artifact

    async def get_artifact(self, artifact: str) -> bytes:
        return await self._aside(self.files.read, artifact)

    async def prune(self, *, ended_before_ms: int, now_ms: int, limit: int) -> int:
        return await self._write(prune.prune, self.files, ended_before_ms=ended_before_ms, now_ms=now_ms, limit=limit)

    async def stats(self) -> dict[str, Any]:
        found = await self._read(read.stats)
        writer = self.writer
        return found | {"commit_ms": round(writer.commit_ms, 3), "commits": writer.commits, "calls": writer.calls}
