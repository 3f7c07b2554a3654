"""The engine: live coordination, who may do what now. Rebuildable from the record.

Each verb takes a list and answers in its order; one bad item never fails the others. Each item names what makes a repeat a
repeat (its *identity*), and a repeat gets the first answer: a lost reply is normal. Answers are the words below. No engine
holds policy or chance: where a task goes, whether and when it is tried again arrive as arguments.

The clock is the engine's own (`now_ms` is handed to the memory engine's core). All durations are milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Literal, NamedTuple, Protocol

import msgspec

from skep.model.event import Event
from skep.model.node import Adopted, Grant, HeldLock, LiveNode, LockGrant, NodeInfo, Stop
from skep.model.run import EXCLUSIVE, Claim, Rate, ReadyTask, RestoredTask, Shape, Token

OK: Final = "ok"
NOT_FOUND: Final = "not_found"
"""The engine does not know this run, task or node (it ended long ago, or was never loaded)."""
WRONG_STATE: Final = "wrong_state"
"""The task is not in a state from which the verb may move it; see `skep.model.state.MOVES`."""
SUPERSEDED: Final = "superseded"
"""The token is not that of the task's lease: nothing was changed."""
CHANGED: Final = "changed"
"""The run began to fail after the decision was made: decide again."""
NO_FIT: Final = "no_fit"
"""The node has not enough free; the task stays ready."""
WAITING: Final = "waiting"
"""A fleet-wide claim does not fit: the task (or the lease that asked) is in the claim's waiter list."""
PAUSED: Final = "paused"
"""The run is paused: the task is put aside until `resume`."""
CANCELLING: Final = "cancelling"
"""The run is being cancelled: nothing of it starts."""
EXPIRED: Final = "expired"
"""The load was read from the record too long ago."""
FULL: Final = "full"
"""Live tasks would exceed their bound; or a run its own."""
REFUSED: Final = "refused"
"""Another live node has this id."""

Answer = Literal[
    "ok",
    "not_found",
    "wrong_state",
    "superseded",
    "changed",
    "no_fit",
    "waiting",
    "paused",
    "cancelling",
    "expired",
    "full",
    "refused",
]

RELEASE_LIMIT: Final = 500
"""Tasks released or swept in one call, counted over its whole batch; the rest follows through `promote`."""
LOAD_VALID_MS: Final = 30_000
HOLDERS: Final = 10
"""Of a claim, as `lines` names them."""
FORGET_MS: Final = 60_000
"""How long the live state of an ended run stays beyond the mark."""


class Load(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A chunk of a run: tasks `first` to `first + count`. Identity: run and chunk.

    A run that the record knows already comes with what it knows, which may be anything between two of its events. Its tasks
    are then those of the shape and, after them, the children of `families`; a task that is not in `restored` waits. `open`
    makes what was ready or running ready again, as far as it can start, and says so. One that was running keeps its attempt
    number: its node may come and have it adopted; if it is placed in place of that, the attempt counts as lost.
    """

    run: str
    namespace: str
    shape: Shape
    first: int
    count: int
    read_ms: int
    """Engine time at which the run was read from the record."""
    accepted_ms: int
    timeout_ms: int = 0
    command: int = 0
    """Number of the last recorded command that this load already reflects."""
    paused: bool = False
    child: bool = False
    """A child run: it loads however many tasks are live, since its parent waits for it."""
    restored: Sequence[RestoredTask] = ()
    """Of this chunk, in the order of their indexes."""
    families: Sequence[tuple[int, int, int]] = ()
    """First chunk only: maps that were expanded, (parent, first, count), in the order of `first`."""
    cancelling: str = ""
    """Why it was being cancelled, if it was."""
    ended: bool = False
    """It has ended, and a recorded `retry` above `command` follows: `open` lets nothing out and tells nothing. If that retry is
    refused, the end is told again."""
    opens: bool = False
    """Of a last chunk: the run is opened in the same step, as `open` does it."""


class ReadyClass(NamedTuple):
    """The first tasks of one requirement class, best score first."""

    namespace: str
    name: str
    tasks: list[ReadyTask]
    running: int = 0
    """Slots that all attempts of the namespace hold now."""


class Start(msgspec.Struct, frozen=True, gc=False):
    """Grant the task to a node. Identity: run, task, version."""

    run: str
    task: int
    version: int
    failing: bool
    node: str
    name: str
    call: bytes
    takes: tuple[tuple[str, int], ...] = ()
    """What the attempt takes of its node: (resource, units)."""
    claims: tuple[Claim | Rate, ...] = ()
    """Fleet-wide ones: what the lease holds, and what the grant spends."""
    timeout_ms: int = 0
    deadline_ms: int = 0
    """How long until the task's deadline; 0 for none."""
    base: str = ""
    """Handed on to the node."""


class Settle(msgspec.Struct, frozen=True, gc=False):
    """End the task without an attempt: skipped, failed or succeeded. Identity: run, task, version."""

    run: str
    task: int
    version: int
    state: int
    reason: str = ""
    error: bytes = b""
    output: bytes = b""


class Expand(msgspec.Struct, frozen=True, gc=False):
    """Give the task `count` map children and park it until they end. Identity: run, task, version."""

    run: str
    task: int
    version: int
    failing: bool
    count: int


class Park(msgspec.Struct, frozen=True, gc=False):
    """Park the task; that counts as an attempt, though without a lease. Identity: run, task, version."""

    run: str
    task: int
    version: int
    failing: bool
    reason: str
    """`approval`, `child` or `event`."""
    data: bytes = b""
    """An encoded `Wait`."""


Decision = Start | Settle | Expand | Park


class Done(msgspec.Struct, frozen=True, gc=False):
    """The attempt succeeded. Identity: token."""

    run: str
    task: int
    token: Token
    output: bytes = b""
    ran_ms: int = 0


class Failure(msgspec.Struct, frozen=True, gc=False):
    """The attempt failed or was cancelled. Identity: token."""

    run: str
    task: int
    token: Token
    reason: str = ""
    error: bytes = b""
    ran_ms: int = 0
    retry_in_ms: int = -1
    """-1: the task ends; 0: ready at once; else delayed."""
    cancelled: bool = False
    lost: bool = False
    """Its process died, perhaps for another attempt's fault: as if its node had been lost."""


class Snooze(msgspec.Struct, frozen=True, gc=False):
    """The attempt gives its lease back and comes again later; it uses up no retry. Identity: token."""

    run: str
    task: int
    token: Token
    in_ms: int
    ran_ms: int = 0


class Parked(msgspec.Struct, frozen=True, gc=False):
    """The attempt gives its lease back and waits to be resolved. Identity: token."""

    run: str
    task: int
    token: Token
    reason: str
    ran_ms: int = 0


class Resolve(msgspec.Struct, frozen=True, gc=False):
    """Ends the wait of a parked task; the first one wins. Identity: run, task, `by`."""

    run: str
    task: int
    by: str
    state: int
    """SUCCEEDED, FAILED, CANCELLED, or READY to run again."""
    reason: str = ""
    output: bytes = b""
    error: bytes = b""
    retry_in_ms: int = -1
    """FAILED: as in `Failure`."""
    attempt: int = 0
    """Only if the task is parked for this attempt; 0: whichever it is."""


class Adopt(msgspec.Struct, frozen=True, gc=False):
    """A lease of an earlier engine goes on under a new token. Identity: the old token.

    The task must be able to start, or be delayed, and `attempt` its last attempt (which was running) or the next one (whose
    grant was not recorded); a map child must be the one it was. Else `superseded`. What the lease takes and claims is taken
    whether it fits or not: it is in use.
    """

    run: str
    task: int
    attempt: int
    node: str
    name: str
    token: Token
    """The old one, which the attempt saw first."""
    takes: tuple[tuple[str, int], ...] = ()
    claims: tuple[Claim, ...] = ()
    locks: tuple[HeldLock, ...] = ()
    ended: bool = False
    """The attempt has ended already, and only its outcome is to be told: the node is told nothing, and need not list it."""
    parent: int = -1
    """For a map child: its parent, and its place in the list."""
    child: int = -1


class Adoption(NamedTuple):
    """The answer to an `Adopt`, and the new token if it is `ok`."""

    answer: Answer
    token: Token


class RunCommand(msgspec.Struct, frozen=True, gc=False):
    """A recorded command. Applied only when its number is above the last one applied. Identity: run, number."""

    run: str
    number: int
    reason: str = ""
    tasks: tuple[int, ...] = ()
    """`retry`: from these tasks on; empty: everything that did not succeed."""


class Ask(msgspec.Struct, frozen=True, gc=False):
    """A lock taken inside a running task. Identity: token, key.

    `wrong_state` when the lease has fewer units of it already: give a shared lock back before asking for all of it.
    """

    run: str
    task: int
    token: Token
    key: str
    units: int = EXCLUSIVE
    cap: int = EXCLUSIVE
    hold_ms: int = 600_000
    """It is freed after so long, whatever the task does."""
    wait: bool = True


class Beat(msgspec.Struct, frozen=True, gc=False):
    """A sign of life: every lease the node holds or whose outcome is not yet acknowledged. Identity: none, it may repeat."""

    node: str
    incarnation: int
    leases: tuple[Token, ...] = ()
    seen: int = 0
    """The number of the last inbox entry it received."""
    server: str = ""
    """Through whom it came."""


class Register(msgspec.Struct, frozen=True):
    """A node joins; a newer incarnation of the same id replaces the old one, whose leases return. Identity: id, incarnation."""

    info: NodeInfo
    beats: bool = True
    """False for a node inside this process: it ends with the process and is never silent."""
    coming: bool = False
    """It has still to present what it worked on before, perhaps the very tasks that would be given to it: nothing is placed
    there until its first `take`."""


class InboxEntry(NamedTuple):
    """Something for a node. Numbered per node from 1."""

    number: int
    entry: Grant | Stop | LockGrant | Adopted


class LiveTask(NamedTuple):
    """One task's live state."""

    task: int
    state: int
    attempts: int
    node: str
    met: bool
    """Ended in a way that lets those who need it go on."""
    first: int = -1
    """For a map parent that was expanded: the index of its first child, `children` of them in a row."""
    children: int = 0
    failures: int = 0
    """Attempts that failed, lost ones not counted."""


class Holder(NamedTuple):
    """Who has units of a claim."""

    units: int
    run: str
    """Empty: nobody any more. Its node was lost, and the units are kept until the attempt is sure to have ended there."""
    task: int
    node: str


class Line(NamedTuple):
    """A task that waits in the line of a claim."""

    task: int
    key: str
    units: int
    """That it waits for, of `cap`."""
    cap: int
    used: int
    ahead: int
    """How many stand in the line before it."""
    waiters: int
    """How many stand in it at all."""
    due_ms: int
    """A rate: when it is its turn, if all before it spend as much as it does. 0: it is no rate."""
    inside: bool
    """It runs, and its code asked for a lock."""
    withheld: bool
    """Nothing is given to anyone for now, see `withhold`."""
    holders: list[Holder]
    """The oldest leases, `HOLDERS` at most."""


class Promoted(NamedTuple):
    """What `promote` or `reap` did."""

    moved: int
    more: bool
    next_ms: int
    """When something is due next; 0 for nothing."""


class EngineStats(NamedTuple):
    """What is live now."""

    states: tuple[int, ...]
    """How many tasks of unfinished runs stand in each `TaskState`."""
    runs: int
    live_tasks: int
    """As they count against the bound."""
    oldest_ready_ms: int
    """Since when the longest waiting of the ready tasks is ready; 0: none is."""


class Engine(Protocol):
    """The seam. Every method is one atomic step; see the module's text for lists, answers and repeats."""

    epoch: int

    @property
    def now_ms(self) -> int:
        """The engine's time, as near as can be told without asking it."""
        ...

    @property
    def heard(self) -> int:
        """The number of an event not older than any that a verb of this object has told of."""
        ...

    def listen(self, topic: str, callback: Callable[[], None]) -> Callable[[], None]:
        """Calls back, on the loop's thread, when a topic stirs: `ready`, `events`, `due`, `node:ID`, `mark` (it moved), or any
        that `stir` names. Answers how to stop."""
        ...

    async def stir(self, topics: Sequence[str]) -> None:
        """Stirs topics, in every process that has this engine. One may be missed by a process that was cut off meanwhile: it
        is a hint to look now, never the only reason to look."""
        ...

    # runs
    async def load(self, items: Sequence[Load]) -> list[Answer]: ...
    async def open(self, runs: Sequence[str]) -> list[Answer]: ...
    async def cancel(self, items: Sequence[RunCommand]) -> list[Answer]: ...
    async def pause(self, items: Sequence[RunCommand]) -> list[Answer]: ...
    async def resume(self, items: Sequence[RunCommand]) -> list[Answer]: ...
    async def retry(self, items: Sequence[RunCommand]) -> list[Answer]: ...

    # tasks
    async def ready(self, limit: int) -> list[ReadyClass]:
        """Up to `limit` tasks of each class, best first. Changes nothing."""
        ...

    async def survey(self, limit: int) -> tuple[list[LiveNode], list[ReadyClass]]:
        """`nodes` and `ready` in one look."""
        ...

    async def place(self, items: Sequence[Decision]) -> list[Answer]: ...
    async def take(self, node: str, incarnation: int, after: int, limit: int) -> list[InboxEntry]:
        """What the node was given above number `after`; everything up to `after` is forgotten. Raises NotFoundError."""
        ...

    async def complete(self, items: Sequence[Done]) -> list[Answer]: ...
    async def fail(self, items: Sequence[Failure]) -> list[Answer]: ...
    async def snooze(self, items: Sequence[Snooze]) -> list[Answer]: ...
    async def park(self, items: Sequence[Parked]) -> list[Answer]: ...
    async def resolve(self, items: Sequence[Resolve]) -> list[Answer]: ...
    async def adopt(self, items: Sequence[Adopt]) -> list[Adoption]:
        """The node gets an `Adopted` in its inbox. `not_found`: no such run, task or node."""
        ...

    async def dismiss(self, items: Sequence[tuple[str, Token]]) -> list[Answer]:
        """Tells nodes that leases they presented are theirs no more: `Stop(token, "superseded")`. Identity: node, token."""
        ...

    async def tasks(self, run: str, tasks: Sequence[int]) -> list[LiveTask]:
        """The live state of tasks. Raises NotFoundError."""
        ...

    async def lines(self, run: str, tasks: Sequence[int]) -> list[Line]:
        """For those of the tasks that wait for a claim, where they stand and who has it. Raises NotFoundError."""
        ...

    # time
    async def promote(self) -> Promoted:
        """Makes due what is delayed, and advances one chunk of what larger verbs left over."""
        ...

    async def reap(self, silent_ms: int, max_lost: int) -> Promoted:
        """Ends what is over: nodes silent for longer than `silent_ms`, run timeouts, task deadlines, locks held too long.
        A task whose node was lost `max_lost` times fails with reason `node_lost`."""
        ...

    async def withhold(self, ms: int) -> None:
        """Gives no claim to anyone for so long: somebody of whom the engine cannot know may have it still. Whoever asks waits
        in line; adopted leases keep what they hold. A repeat can only make it longer; 0 ends it."""
        ...

    # nodes
    async def register(self, items: Sequence[Register]) -> list[Answer]: ...
    async def beat(self, items: Sequence[Beat]) -> list[Answer]: ...
    async def drain(self, nodes: Sequence[str], on: bool = True) -> list[Answer]: ...
    async def retire(self, nodes: Sequence[tuple[str, int]], *, lost: bool = False) -> list[Answer]:
        """Nodes (id, incarnation) leave; their leases return at once. `lost`: not in good order, so that what they hold of
        fleet-wide claims stays taken for a while and their attempts count as lost."""
        ...

    async def nodes(self) -> list[LiveNode]: ...

    async def stats(self) -> EngineStats:
        """Counts for people: some milliseconds with 200,000 tasks."""
        ...

    # locks
    async def claim(self, items: Sequence[Ask]) -> list[Answer]: ...
    async def release(self, items: Sequence[tuple[Token, str]]) -> list[Answer]: ...

    # the stream
    async def lead(self, server: str, hold_ms: int) -> bool:
        """Takes or renews the leader's lease. False: another server has it."""
        ...

    async def events(self, after: int, limit: int) -> list[Event]:
        """Events of this epoch above number `after`, in order, without gaps."""
        ...

    async def backlog(self) -> int:
        """How many events are above the mark."""
        ...

    async def memory(self) -> tuple[int, int]:
        """Bytes that the engine's store uses, and how many it may; 0: not known, or no other than this process'."""
        ...

    async def mark(self) -> int:
        """The highest mark that `trim` was told: the record has everything up to it."""
        ...

    async def trim(self, mark: int, keep: int = 0) -> None:
        """The record has everything up to `mark`: it may be forgotten here, but for the last `keep` of these events, which
        other servers still read."""
        ...
