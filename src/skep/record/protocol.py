"""The record: durable truth. What was accepted, what happened.

Every method returns after its effect is committed (SQLite: `synchronous=FULL`). Calls made while a commit is under way share
the next one; the writer commits as soon as it is idle and no timer delays it. One failing call never fails its neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec

from skep.model.event import Event
from skep.model.node import LogChunk
from skep.model.run import AttemptView, RestoredTask, Token


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
    unique: str | None = None
    """While a run of the namespace with this key goes on, it is returned; where that is another engine's, this is refused."""
    accepted_ms: int
    due_ms: int = 0
    """Not loaded before this time; 0: at once."""
    parent: tuple[str, int] | None = None
    """The run and the task whose child it is."""
    depth: int = 0
    """How many runs it is nested in."""
    schedule: str = ""
    """Name of the schedule that fired it."""
    base: str = ""
    """Where relative paths of its tasks start, on nodes of the machine where it was submitted; empty: each node's own."""


class Accepted(NamedTuple):
    """A run that the record has."""

    id: str
    new: bool
    """Whether this call brought it."""


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
    applied: int = 0
    """Number of the last command of which the record has the effect."""
    due_ms: int = 0
    parent: tuple[str, int] | None = None
    depth: int = 0
    schedule: str = ""
    base: str = ""
    cost: float = 0.0
    """Of its attempts that are over, in the unit of the nodes' `cost_per_hour`."""
    counts: tuple[int, ...] = ()
    """How many of its tasks stand in each `TaskState`; those without a row count as waiting. Only where a method says so."""


class RunFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which runs. All that is set must hold."""

    namespace: str = ""
    states: tuple[int, ...] = ()
    workflow: str = ""
    labels: Mapping[str, str] = {}
    """Each of them, with this value; an empty value: the label is there."""
    search: str = ""
    """Begins the id, or is in the workflow's name or a label's value."""
    schedule: str = ""
    parent: str = ""
    """Children of this run."""
    roots: bool = False
    """Only those that are nobody's children."""
    accepted_from_ms: int = 0
    accepted_to_ms: int = 0
    """Exclusive; 0: none."""


class RunPage(msgspec.Struct, frozen=True):
    """Runs, the newest first; `cursor` asks for those after them, empty for no more."""

    runs: list[RunRow]
    cursor: str


class Expansion(msgspec.Struct, frozen=True):
    """The children of a map: `count` indexes in a row from `first`."""

    parent: int
    first: int
    count: int


class RestoredRun(msgspec.Struct, frozen=True):
    """What an engine must know of a run that was loaded before."""

    tasks: list[RestoredTask]
    """Those with a row, in the order of their indexes, children of maps after the tasks of the workflow."""
    expansions: list[Expansion]
    """In the order of `first`."""


class WaitRow(msgspec.Struct, frozen=True, kw_only=True):
    """A wait that is not over: its task is parked, and nobody has decided it."""

    run: str
    task: int
    attempt: int
    engine: str
    namespace: str
    workflow: str
    kind: str
    event: str
    key: str
    data: bytes
    """An encoded `Wait`."""
    accepted_ms: int
    """When its run was."""
    depth: int
    """Of its run."""
    since_ms: int
    due_ms: int
    """0: never."""


class Signal(msgspec.Struct, frozen=True, kw_only=True):
    """An event that somebody sent. Kept for 7 days."""

    id: str
    """Made by the sender, so that sending it again is safe."""
    namespace: str
    name: str
    key: str
    data: bytes
    at_ms: int


class Definition(msgspec.Struct, frozen=True, kw_only=True):
    """A stored version of a workflow."""

    namespace: str
    name: str
    version: int
    digest: str
    body: bytes
    note: str
    at_ms: int


class ScheduleRow(msgspec.Struct, frozen=True, kw_only=True):
    """A stored schedule. `spec` is the encoded `ScheduleSpec` of `skep.flow.timetable`."""

    namespace: str
    name: str
    spec: bytes
    paused: bool
    fired_ms: int
    """The last time for which it was decided (fired, skipped or passed over); 0: none."""
    next_ms: int
    """0: never again."""
    made_ms: int
    version: int
    """Grows by one with each `put_schedule`."""


class NodeRow(msgspec.Struct, frozen=True, kw_only=True):
    """A node as recorded from its engine's events."""

    engine: str
    id: str
    incarnation: int
    state: str
    """`live`, `retired` or `lost`."""
    draining: bool
    """As somebody wants it, whether it is there or not."""
    at_ms: int


class KeyRow(msgspec.Struct, frozen=True, kw_only=True):
    """A key with which a node or a person comes in from elsewhere. Of its secret only a digest is kept."""

    id: str
    digest: str
    """No two keys have the same."""
    role: str
    note: str
    created_ms: int
    revoked_ms: int = 0
    """0: it is good."""


class PastAttempt(NamedTuple):
    """An attempt on a node that is over, or goes on."""

    run: str
    digest: str
    """Of its workflow."""
    task: int
    parent: int
    """Of a map child: its parent; else -1."""
    attempt: int
    node: str
    state: str
    """`succeeded`, `failed`, `cancelled`, `snoozed`, `lost` or `running`."""
    since_ms: int
    ran_ms: int


class DecisionRow(msgspec.Struct, frozen=True):
    """How tasks of a run came to their nodes, in one batch."""

    run: str
    first: int
    last: int
    """Tasks that it tells of lie between these two."""
    data: bytes
    """An encoded list of `Decided`."""


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
    due_ms: int | None = None
    """delayed: when it is due."""


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

    async def own(self, engine: str) -> bool:
        """Makes this process the one owner of an engine that lives in its memory, until `close` or its end. True; asked again
        it looks whether that is still so, and takes it anew where the database was away. Raises DataInUseError naming who has
        it. With SQLite the data directory has an owner already."""
        ...

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

    async def accept(self, runs: Sequence[NewRun]) -> list[Accepted | Exception]:
        """Stores runs. Per item: under which id it is known (an earlier one for a repeated key or id), or the refusal
        (RefusedError for a key used with another body or an id used with another definition)."""
        ...

    async def command(self, run: str, verb: str, data: bytes, at_ms: int, after: int | None = None) -> Command:
        """Numbers and stores a command. `after`: the number of the last one that its sender knew of; with another since then
        nothing is stored. `retry` makes an ended run queued and unloaded again, so that `unloaded` and `commands` find it;
        whether it may be retried is for the caller to check first. `cancel` makes a run that is not due yet due now. Raises
        NotFoundError; WrongStateError for the sake of `after`."""
        ...

    async def commands(self, engine: str, after: Mapping[str, int]) -> list[Command]:
        """Commands of unfinished runs above the numbers given per run (0 when absent), in order."""
        ...

    async def unloaded(self, engine: str, epoch: int, limit: int, now_ms: int) -> list[RunRow]:
        """Unfinished runs whose `loaded` is below `epoch` and that are due, by priority, then age."""
        ...

    async def next_due_ms(self, engine: str, now_ms: int) -> int:
        """When the next run that is not due yet will be; 0: there is none."""
        ...

    async def restore(self, runs: Sequence[str]) -> dict[str, RestoredRun]:
        """What the record knows of runs that were loaded before. Runs without any row are left out."""
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
        """Waits that are not over, the oldest first; of all kinds, runs and tasks where none are named."""
        ...

    async def decide(self, run: str, task: int, attempt: int, data: bytes, at_ms: int) -> Command:
        """Stores the decision on an approval as a command (`decide`, with `data`) and marks the wait decided, in one
        transaction; so only one is ever stored, and one with the same id (of its `Verdict`) is answered again. Raises
        NotFoundError, WrongStateError (it does not wait, waits in another
        attempt, or was decided: by whom)."""
        ...

    async def send(self, signal: Signal) -> bool:
        """Stores an event. False: it is there already."""
        ...

    async def signals(self, namespace: str, name: str, key: str, from_ms: int, limit: int = 1) -> list[Signal]:
        """Events of that name and key sent at or after `from_ms`, the oldest first."""
        ...

    # -- definitions, schedules, nodes, flags

    async def put_definition(self, namespace: str, name: str, digest: str, body: bytes, note: str, at_ms: int) -> Definition:
        """Stores the next version; the last one again when its digest is the same."""
        ...

    async def definitions(self, namespace: str = "", name: str = "") -> list[Definition]:
        """All versions of `name`, the newest first; without a name the newest version of each, by name. Bodies are left out
        (empty)."""
        ...

    async def stored_definition(self, namespace: str, name: str, version: int = 0) -> Definition:
        """0: the newest. Raises NotFoundError that names what there is."""
        ...

    async def remove_definition(self, namespace: str, name: str) -> int:
        """All versions; runs keep what they were started with. Answers how many there were."""
        ...

    async def put_schedule(self, namespace: str, name: str, spec: bytes, next_ms: int, at_ms: int) -> ScheduleRow:
        """Stores or replaces a schedule."""
        ...

    async def schedules(self, namespace: str = "", due_ms: int = 0) -> list[ScheduleRow]:
        """By name; with `due_ms` only those that are not paused and whose `next_ms` is at or before it (and not 0)."""
        ...

    async def schedule(self, namespace: str, name: str) -> ScheduleRow:
        """Raises NotFoundError."""
        ...

    async def remove_schedule(self, namespace: str, name: str) -> bool: ...

    async def move_schedule(
        self, row: ScheduleRow, *, fired_ms: int | None = None, next_ms: int | None = None, paused: bool | None = None
    ) -> bool:
        """Compare-and-set on `row.version` and `row.fired_ms`. False: somebody else moved or replaced it."""
        ...

    async def next_schedule_ms(self) -> int:
        """The earliest `next_ms` of schedules that are not paused; 0: none."""
        ...

    async def nodes(self, engine: str) -> list[NodeRow]: ...

    async def want_drain(self, engine: str, node: str, on: bool, at_ms: int) -> None:
        """Stores that a node shall (not) drain, whether it is there or not."""
        ...

    async def set_price(self, engine: str, node: str, cost_per_hour: float, slots: int, at_ms: int) -> None:
        """What an hour of a node costs, for attempts that are granted to it from now on."""
        ...

    async def priced(self, engine: str) -> set[str]:
        """Nodes that ever cost something."""
        ...

    async def flags(self) -> dict[str, str]:
        """Settings of the whole installation by name, such as `paused:NAMESPACE`."""
        ...

    async def set_flag(self, name: str, value: str | None) -> None:
        """None removes it."""
        ...

    # -- keys

    async def put_key(self, row: KeyRow) -> None:
        """Stores a new key; the same one again is as once. Raises RefusedError for an id or a digest that another key has."""
        ...

    async def keys(self) -> list[KeyRow]:
        """All of them, also those that were revoked, the oldest first."""
        ...

    async def revoke_key(self, id: str, at_ms: int) -> bool:
        """False: there is no such key, or it was revoked before."""
        ...

    # -- reading

    async def definition(self, digest: str) -> bytes:
        """Raises NotFoundError."""
        ...

    async def run(self, run: str, *, counts: bool = False) -> RunRow:
        """`counts`: with them, which takes some time for a run of many tasks. Raises NotFoundError."""
        ...

    async def find_run(self, prefix: str) -> str:
        """The id of the one run whose id begins so. Raises NotFoundError, or RefusedError naming some of several."""
        ...

    async def list_runs(self, wanted: RunFilter, *, limit: int = 50, cursor: str = "") -> RunPage:
        """A page, the newest first. Fast with a million runs, whatever the filter; `counts` and `inputs` are left out.

        So that it is fast, a page looks at 4,000 runs at most: it may be short, even empty, and have a cursor, where few runs
        pass two filters that many pass alone. Ask on until the cursor is empty. Raises RefusedError for a cursor that is none.
        """
        ...

    async def count_runs(self, namespace: str = "", *, now_ms: int = 0) -> dict[int, int]:
        """RunState to how many; ended ones only of the day before `now_ms` (0: before the last end)."""
        ...

    async def tasks(self, run: str) -> list[TaskRow]: ...

    async def task(self, run: str, index: int) -> TaskRow | None: ...

    async def list_tasks(
        self, run: str, *, states: Sequence[int] = (), after: int = -1, limit: int = 1_000, indexes: Sequence[int] | None = None
    ) -> list[TaskRow]:
        """Rows with an index above `after`, in order; only those in `states`, and only `indexes`, where these are given."""
        ...

    async def attempts(self, run: str, task: int | None = None) -> dict[int, list[AttemptView]]:
        """Task index, of all tasks or one, to its attempts, oldest first; `error` is the decoded ErrorInfo as a dictionary."""
        ...

    async def past_attempts(self, engine: str, limit: int) -> list[PastAttempt]:
        """Attempts on nodes of the latest runs, the oldest of them first; some thousand runs are looked at. Of those that go on
        only the ones of this engine."""
        ...

    async def expansions(self, run: str) -> list[Expansion]: ...

    async def outputs(self, run: str, tasks: Sequence[int]) -> dict[int, bytes]:
        """JSON outputs of succeeded tasks; indexes without one are left out."""
        ...

    async def errors(self, run: str, tasks: Sequence[int]) -> dict[int, bytes]:
        """The encoded ErrorInfo of each failed task; the others are left out."""
        ...

    async def keep_decisions(self, rows: Sequence[DecisionRow]) -> None:
        """Stores how tasks came to their nodes; it goes with their runs."""
        ...

    async def decisions(self, run: str, task: int, limit: int) -> list[DecisionRow]:
        """Those batches that may tell of a task, the latest first."""
        ...

    async def last_event(self, run: str) -> Token:
        """The last recorded event of a run; (0, 0) for none."""
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

    async def log_stream(
        self, run: str, tasks: Sequence[int] = (), *, attempt: int | None = None, after: int = 0, limit: int = 1_000
    ) -> list[tuple[int, LogChunk]]:
        """Chunks of a run (of these tasks, where some are named) above the position `after`, in the order of arrival, each
        with its position."""
        ...

    async def put_artifact(self, run: str, data: bytes, now_ms: int) -> str:
        """Stores bytes by content and answers their id (`sha256:…`)."""
        ...

    async def get_artifact(self, artifact: str) -> bytes:
        """Raises NotFoundError."""
        ...

    async def prune(self, *, ended_before_ms: int, now_ms: int, limit: int) -> int:
        """Deletes whole ended runs with everything of theirs (not a child whose parent goes on), expired state, events sent
        more than 7 days ago, and artifacts that no run refers to for a day. Answers how many runs went."""
        ...

    async def backup(self, target: Path) -> dict[str, Any]:
        """Writes a consistent copy of the record, with its artifacts, to a new folder while work goes on; answers sizes for
        people. Raises RecordError (it exists, no room, ...)."""
        ...

    async def stats(self) -> dict[str, Any]:
        """Quick, however much there is: `bytes` of the database on disk, `rejected_events`, and since the start of this process
        `calls`, `commits` and `commit_ms`, what one takes."""
        ...
