"""The record: durable truth. What was accepted, what happened.

Every method returns after its effect is committed (SQLite: `synchronous=FULL`). Calls made while a commit is under way share
the next one; the writer commits as soon as it is idle and no timer delays it. One failing call never fails its neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from skep.model.event import Event
from skep.model.node import LogChunk
from skep.model.run import AttemptView, Token


class EngineRow(msgspec.Struct, frozen=True):
    """One engine. `mark` is the last event of `epoch` that the record has."""

    id: str
    epoch: int
    mark: int
    process: str
    """Names the process that holds the live state: a new one means that the engine must be opened."""
    embedded: bool
    """An engine of `skep run` or a test: restores nothing, its runs end as `abandoned` when its owner is gone."""


class NewRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run to accept. The client makes `id` (UUIDv7), so sending it again is safe."""

    id: str
    engine: str
    workflow: str
    definition: bytes
    """The canonical JSON of its `WorkflowSpec`; stored once for all runs with the same `digest`."""
    digest: str
    inputs: bytes = b"{}"
    namespace: str = "default"
    priority: int = 0
    labels: Mapping[str, str] = {}
    timeout_ms: int = 0
    idempotency_key: str | None = None
    """Unique in the namespace; the same key with the same body returns the first run, with another body is refused."""
    accepted_ms: int


class RunRow(msgspec.Struct, kw_only=True):
    """A run as recorded. `state` is a `RunState`; `loaded` the epoch under which an engine has it, 0 for never."""

    id: str
    engine: str
    workflow: str
    digest: str
    inputs: bytes
    namespace: str
    priority: int
    labels: dict[str, str]
    timeout_ms: int
    state: int
    reason: str
    paused: bool
    loaded: int
    command: int
    """Number of the last command recorded for it."""
    accepted_ms: int
    started_ms: int | None
    finished_ms: int | None
    task_count: int


class TaskRow(msgspec.Struct, kw_only=True):
    """A task as recorded. One without a row has not begun: waiting, or ready for the first time, which the record does not
    tell apart."""

    index: int
    state: int
    attempts: int
    node: str
    reason: str
    started_ms: int | None
    finished_ms: int | None
    output: bytes
    """JSON; empty for none."""
    error: bytes
    """An encoded `ErrorInfo`; empty for none."""


class Expansion(msgspec.Struct, frozen=True):
    """The children of a map: `count` indexes in a row from `first`."""

    parent: int
    first: int
    count: int


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """A recorded wish: cancel, pause, resume, retry. Numbered per run; engines apply only a higher number."""

    run: str
    number: int
    verb: str
    data: bytes = b""
    at_ms: int


class StateValue(msgspec.Struct, frozen=True):
    """A value of the shared state. `version` grows by one with each put; 0 stands for an absent key."""

    value: bytes
    version: int
    expires_ms: int


class Fence(msgspec.Struct, frozen=True):
    """Who asks: the task and the token of its lease. The task's fence row is raised to the token in the same transaction;
    a token below it is refused with SupersededError."""

    run: str
    task: int
    token: Token


class Record(Protocol):
    """The seam. `SqlRecord` is the one implementation, for SQLite and (with its dialect) PostgreSQL."""

    async def open(self) -> None:
        """Creates or checks the schema. Raises RecordError for one of a newer version, naming both."""
        ...

    async def close(self) -> None: ...

    # -- engines

    async def engine(self, engine: str) -> EngineRow | None: ...

    async def open_engine(self, row: EngineRow, *, after_epoch: int) -> bool:
        """Compare-and-set: stores `row` with mark 0 if the recorded epoch is `after_epoch` (0: none yet).
        False: another was faster."""
        ...

    async def abandon(self, engine: str, now_ms: int) -> int:
        """Ends every unfinished run of an embedded engine as failed (`abandoned`), its unfinished tasks as cancelled, and
        forgets the engine. Answers how many runs. Raises WrongStateError for an engine that is not embedded."""
        ...

    async def embedded_engines(self) -> list[str]: ...

    # -- commands

    async def accept(self, runs: Sequence[NewRun]) -> list[str | Exception]:
        """Stores runs. Per item: the id under which it is known (an earlier one for a repeated key or id), or the refusal
        (RefusedError for a key used with another body or an id used with another definition)."""
        ...

    async def command(self, run: str, verb: str, data: bytes, at_ms: int) -> Command:
        """Numbers and stores a command. Raises NotFoundError. `retry` makes an ended run queued and unloaded again, so that
        `unloaded` and `commands` find it; whether it may be retried is for the caller to check first."""
        ...

    async def commands(self, engine: str, after: Mapping[str, int]) -> list[Command]:
        """Commands of unfinished runs above the numbers given per run (0 when absent), in order."""
        ...

    async def unloaded(self, engine: str, epoch: int, limit: int) -> list[RunRow]:
        """Unfinished runs whose `loaded` is below `epoch`, by priority, then age."""
        ...

    # -- transcription

    async def transcribe(self, engine: str, epoch: int, after: int, events: Sequence[Event]) -> None:
        """Appends events and applies them to runs, tasks and attempts, in one transaction that first moves the mark from
        `after` to the last. They must be contiguous from `after` + 1, else RecordError. Raises StaleEpochError when epoch or
        mark are not those recorded. An event that cannot be applied is logged and kept in `rejected`; the rest goes on."""
        ...

    async def unfinished(self, engine: str) -> int:
        """How many runs have not ended."""
        ...

    # -- reading

    async def definition(self, digest: str) -> bytes:
        """Raises NotFoundError."""
        ...

    async def run(self, run: str) -> RunRow:
        """Raises NotFoundError."""
        ...

    async def tasks(self, run: str) -> list[TaskRow]: ...

    async def attempts(self, run: str) -> dict[int, list[AttemptView]]:
        """Task index to its attempts, oldest first; `error` is the decoded ErrorInfo as a dictionary."""
        ...

    async def expansions(self, run: str) -> list[Expansion]: ...

    async def outputs(self, run: str, tasks: Sequence[int]) -> dict[int, bytes]:
        """JSON outputs of succeeded tasks; indexes without one are left out."""
        ...

    async def errors(self, run: str, tasks: Sequence[int]) -> dict[int, bytes]:
        """The encoded ErrorInfo of each failed task; the others are left out."""
        ...

    async def events(self, run: str, after: Token, limit: int) -> list[tuple[Token, Event]]:
        """Events of a run above `after` in order, each with its (epoch, n). Under an engine's id are the
        events of its nodes.
        Outputs are left out: they stand in the task's row."""
        ...

    # -- what lease holders keep here

    async def get_state(self, namespace: str, key: str, now_ms: int, fence: Fence | None = None) -> StateValue | None: ...

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
        """Stores a value and answers its new version. `expect`: the version it must have now (0: absent or expired), else
        ConflictError. `ttl_ms` 0: kept for ever."""
        ...

    async def save_checkpoint(self, fence: Fence, data: bytes, at_ms: int) -> None: ...

    async def load_checkpoint(self, fence: Fence) -> bytes | None:
        """The last checkpoint of any attempt of the task."""
        ...

    async def append_logs(self, chunks: Sequence[LogChunk]) -> None:
        """Stores output of attempts; a chunk that is there already (same offset) is left as it is."""
        ...

    async def logs(
        self, run: str, task: int, attempt: int | None = None, *, after: int = 0, limit: int = 1_000
    ) -> list[LogChunk]:
        """In the order of arrival; `after` skips that many chunks."""
        ...

    async def put_artifact(self, run: str, data: bytes, now_ms: int) -> str:
        """Stores bytes by content and answers their id (`sha256:…`)."""
        ...

    async def get_artifact(self, artifact: str) -> bytes:
        """Raises NotFoundError."""
        ...

    async def prune(self, *, ended_before_ms: int, now_ms: int, limit: int) -> int:
        """Deletes whole ended runs with everything of theirs, expired state, and artifacts that no run refers to for a day.
        Answers how many runs went."""
        ...

    async def stats(self) -> dict[str, Any]:
        """Sizes and counts for people: runs by state, bytes on disk, measured commit time in ms."""
        ...
