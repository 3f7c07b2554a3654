"""What lists show, over HTTP and on the command line. One run with its tasks is `skep.model.run.RunView`."""

from __future__ import annotations

from typing import Any

import msgspec

from skep.model.run import TaskView


class RunSummary(msgspec.Struct, kw_only=True):
    """A run without its tasks."""

    id: str
    workflow: str
    state: str
    reason: str | None = None
    paused: bool = False
    namespace: str = "default"
    priority: int = 5
    labels: dict[str, str] = {}
    accepted_ms: int = 0
    due_ms: int | None = None
    """Not started before."""
    started_ms: int | None = None
    finished_ms: int | None = None
    tasks: int = 0
    """Children of maps included, as far as they are known."""
    counts: dict[str, int] = {}
    """Task state to how many; left out in lists."""
    inputs: Any = None
    """Left out in lists."""
    parent: str | None = None
    """The run whose child it is."""
    schedule: str | None = None
    definition: str = ""
    """Digest of its workflow."""
    cost: float = 0.0
    """Of its attempts that are over, in the unit of the nodes' `cost_per_hour`."""
    known: bool = False
    """It was there before it was submitted again, with its idempotency key or unique key: nothing was started."""


class RunList(msgspec.Struct):
    """A page; `next` is the cursor of the page after it."""

    runs: list[RunSummary]
    next: str | None = None


class TaskList(msgspec.Struct):
    """A page of the tasks of a run, in the order of their indexes."""

    tasks: list[TaskView]
    next: str | None = None


class Bulk(msgspec.Struct):
    """What a command to many runs did."""

    done: list[str]
    refused: dict[str, str]
    """Run to why."""


class AttemptRef(msgspec.Struct):
    """An attempt on a node."""

    run: str
    task: str
    attempt: int
    since_ms: int


class CircuitView(msgspec.Struct, kw_only=True):
    """That a node is not trusted with tasks of one type."""

    type: str
    """Empty: of tasks that name none."""
    state: str
    """`open`: it gets none. `half-open`: one is tried there. `closed`: it gets them, and is `slow`."""
    slow: bool = False
    """It takes much longer than was predicted, where other nodes do not."""
    why: str = ""
    since_ms: int = 0


class NodeView(msgspec.Struct, kw_only=True):
    """A node, as shown."""

    id: str
    state: str
    """`live`, `draining`, `silent` (it gives no sign and is soon lost), `lost` or `retired`."""
    incarnation: int = 0
    capabilities: list[str] = []
    labels: dict[str, str] = {}
    executors: list[str] = []
    slots: int = 0
    slots_free: int = 0
    cpu: float = 0
    """Cores."""
    cpu_free: float = 0
    memory: int = 0
    memory_free: int = 0
    vram: int = 0
    vram_free: int = 0
    running: int = 0
    """Leases that it holds."""
    beat_ms: int | None = None
    """When it was last heard of."""
    server: str | None = None
    """Through which server."""
    version: str | None = None
    pid: int | None = None
    swarm: str | None = None
    region: str | None = None
    cost_per_hour: float = 0
    weight: float = 1
    circuits: list[CircuitView] = []
    """Where it is not trusted, as the server that places tasks sees it."""


class QueueStats(msgspec.Struct, kw_only=True):
    """What waits and what runs."""

    paused: list[str]
    """Namespaces that start nothing now; `*` is all of them."""
    shares: dict[str, float] = {}
    """Weights of namespaces that were given one; the others have 1."""
    runs: dict[str, int]
    """Run state to how many; ended ones of the last day."""
    ready: int
    running: int
    delayed: int
    parked: int
    waiting: int
    live_tasks: int
    classes: list[QueueClass]
    slots: int
    slots_free: int
    oldest_ready_ms: int | None
    """Since when the longest waiting of them is ready."""
    full: bool
    """Runs wait in the record because as many tasks are live as may be."""


class QueueClass(msgspec.Struct, kw_only=True):
    """Ready tasks that the same nodes can run."""

    namespace: str
    executor: str
    requires: list[str]
    ready: int
    unplaced: int
    """How many of them found no place when it was last looked,"""
    why: dict[str, int] = {}
    """by reason: `full`, `unable` (no node ever can), `unhealthy` (those that can are shut off), `held` (a busy node is done
    with it sooner than a free one), `paused`."""


class DefinitionView(msgspec.Struct, kw_only=True):
    """A stored version of a workflow."""

    name: str
    version: int
    namespace: str
    digest: str
    note: str = ""
    at_ms: int = 0
    tasks: int = 0
    """Left out in lists."""
    source: Any = None
    """The workflow as people write it; left out in lists."""


class LogLine(msgspec.Struct, kw_only=True):
    """A piece of what an attempt wrote, as it came."""

    position: int
    """Grows; ask for what came after it."""
    task: str
    attempt: int
    stream: str
    at_ms: int
    text: str


class ServerStatus(msgspec.Struct, kw_only=True):
    """The server, as shown."""

    version: str
    protocol: int
    state: str
    """`opening`, `rejoin`, `ready`, `draining`, `failing`."""
    pid: int
    data: str
    engine: str
    epoch: int
    started_ms: int
    nodes: int
    runs: dict[str, int]
    backlog: int
    """Events that are not recorded yet."""
    commit_ms: float
    record_bytes: int
    rejected_events: int
    trouble: str | None = None
    """What fails now."""
    url: str | None = None
    """Where the network finds it; None: only its socket does."""
    engine_at: str = "memory"
    """Where the engine is: `memory`, or the URL of its store without a password."""
    record_at: str = ""
    """Where the record is: a file, or the URL of its database without a password."""
    server: str = ""
    """Its name among the servers of its engine."""
    leads: bool = True
    """Whether it is the one that places, records and keeps time."""


class KeyView(msgspec.Struct, kw_only=True):
    """A key with which somebody comes in from another machine; not the key itself."""

    id: str
    role: str
    """`admin` or `node`."""
    note: str
    created_ms: int
    revoked_ms: int | None = None


class NewKey(KeyView, kw_only=True):
    """A key that was just made."""

    key: str
    """Shown this once: what is kept does not tell it."""
