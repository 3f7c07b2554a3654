"""What a workflow is, once it has been checked: the form that is stored, hashed, sent and run.

People write YAML or Python; `skep.model.authoring` turns both into these structures, and `skep.flow.plan` checks the graph.
Durations are milliseconds (`_ms`), sizes bytes, cpu thousandths of a core (`cpu_milli`).
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

import msgspec

DEFAULT_NAMESPACE: Final = "default"
"""The tenant of whoever names none."""

CAPABILITIES: Final = ("cpu", "gpu", "high-memory", "ssd", "network")
"""The capabilities that a node can find out about itself; any other word in `requires` is a free label."""

PARKED: Final = frozenset({"approval", "uses", "wait_for"})
"""Executors whose tasks wait for somebody else: they need no node and hold nothing."""

TYPE_PRIORITY: Final = {"deployment": 8, "validation": 7, "training": 6}
"""Priority by task type, where neither task nor run names one; 5 for every other type."""

NORMAL_PRIORITY: Final = 5


class RetryPolicy(msgspec.Struct, frozen=True, omit_defaults=True):
    """How often a failed task is tried again, and how long after.

    The n-th retry waits `delay_ms * factor**(n-1)`, at most `max_delay_ms`, plus or minus the share `jitter` of it.
    """

    limit: int = 0
    """Retries after the first attempt; attempts lost with their node do not count."""
    delay_ms: int = 1_000
    factor: float = 2.0
    max_delay_ms: int = 300_000
    jitter: float = 0.2
    only: tuple[str, ...] = ()
    """Error types that are retried; empty means all."""
    never: tuple[str, ...] = ()
    """Error types that are not retried, whatever `only` says."""


class LockSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """A lock that a task holds while it runs. The name may contain expressions."""

    name: str
    shared: bool = False


class ConcurrencySpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """At most `limit` attempts with one key at once, in the whole fleet. The key may contain expressions."""

    key: str
    limit: int = 1


class RateSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """At most so many starts of attempts with one key in a unit of time, spread evenly over it, in the whole fleet.

    One of the three units is given. The key may contain expressions.
    """

    key: str
    per_second: int = 0
    per_minute: int = 0
    per_hour: int = 0
    burst: int = 1
    """How many may start at once after a quiet time."""

    @property
    def unit(self) -> str:
        return "second" if self.per_second else "minute" if self.per_minute else "hour"

    @property
    def unit_us(self) -> int:
        """The unit in microseconds."""
        return UNITS_US[self.unit]

    @property
    def count(self) -> int:
        """Starts in the unit."""
        return self.per_second or self.per_minute or self.per_hour


UNITS_US: Final = {"second": 1_000_000, "minute": 60_000_000, "hour": 3_600_000_000}


class Resources(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one attempt takes of its node. None: the default of the executor."""

    cpu_milli: int | None = None
    memory: int = 0
    vram: int = 0


class PlacementSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a task says about the node on which it runs, beyond what that must have (`requires`, `resources`)."""

    policy: str = ""
    """By name; empty: the one of the node's swarm, else the fleet's."""
    prefer: tuple[str, ...] = ()
    """Nodes by id, or words as in `requires`, the first choice first; where none of them has room, any other will do."""
    affinity: str = ""
    """Tasks with one key go to one node; may hold expressions."""
    cost_sensitive: bool = False
    """The cheapest node that is good enough, not the fastest."""
    cpu_intensive: bool = False
    """It takes a whole core, also where its executor takes none by default."""


class TaskSpec(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One vertex of the graph, checked."""

    name: str
    executor: str
    """`run`, `python`, `http`, `approval`, `uses` or `wait_for`."""
    call: str | tuple[str, ...] | dict[str, Any]
    """`run`: a shell line, or the argument vector that is run without a shell. `python`: `module:function`. The others: what
    was written, by key, with `deadline_ms` for an approval's `deadline`; an inline workflow is a `WorkflowSpec` as JSON under
    `definition`."""
    args: Any = None
    """`with`: the keyword arguments of a Python task, the inputs of a child run; values may hold expressions."""
    env: dict[str, str] | None = None
    cwd: str | None = None
    needs: tuple[str, ...] = ()
    map: Any = None
    """An expression that gives a list, or the list itself: one child for each item."""
    max_parallel: int = 0
    """How many children may be unfinished at once; 0 means all."""
    when: str | None = None
    retry: RetryPolicy | None = None
    timeout_ms: int = 0
    """Longest run of one attempt; 0 means no limit."""
    deadline_ms: int = 0
    """Latest end, counted from the moment the run was accepted; 0 means none."""
    priority: int = 0
    """1 to 10; 0 means: by the run, else by type."""
    type: str = ""
    requires: tuple[str, ...] = ()
    resources: Resources | None = None
    placement: PlacementSpec | None = None
    locks: tuple[LockSpec, ...] = ()
    concurrency: tuple[ConcurrencySpec, ...] = ()
    rates: tuple[RateSpec, ...] = ()
    labels: dict[str, str] | None = None
    estimated_ms: int = 0
    on_failure: str = "fail"
    """`fail`, `cancel`, `continue` or `run:NAME`."""
    isolation: str = ""
    """`process`: a Python task runs in a worker process of its own that can be killed."""
    writes: tuple[str, ...] = ()
    """Paths or names of what it changes; may hold expressions."""

    @property
    def handler(self) -> str | None:
        """The task that `on_failure: {run: NAME}` names."""
        return self.on_failure[4:] if self.on_failure.startswith("run:") else None


class WorkflowSpec(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A named graph of tasks, its inputs and defaults, checked."""

    name: str
    tasks: tuple[TaskSpec, ...]
    description: str = ""
    inputs: dict[str, Any] | None = None
    """Name to default value."""
    required: tuple[str, ...] = ()
    """Inputs without a default: a run must bring them."""
    output: Any = None
    """Any JSON tree with expressions: what the run gives back. None: the outputs of the tasks that nothing needs."""
    timeout_ms: int = 0
    priority: int = 0
    labels: dict[str, str] | None = None
    namespace: str = DEFAULT_NAMESPACE
    unique: str | None = None
    """While a run with this key goes on, another submission is answered with it; may hold expressions over inputs."""
    conflicts: str = "error"
    """What becomes of tasks that may write the same thing at once: `error`, `warn` or `allow`."""

    def encode(self) -> bytes:
        """The canonical JSON."""
        return _ENCODER.encode(self)

    @staticmethod
    def decode(data: bytes) -> WorkflowSpec:
        return _DECODER.decode(data)


_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(WorkflowSpec)


def digest(encoded: bytes) -> str:
    """The identity of a definition: the SHA-256 of its canonical JSON, 32 hexadecimal digits of it."""
    return hashlib.sha256(encoded).hexdigest()[:32]
