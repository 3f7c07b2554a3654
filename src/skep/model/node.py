"""What a node says of itself, what it is given, and what it gives back."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgspec

from skep.model.run import Claim, Token
from skep.model.spec import PARKED

APP: Final = "app:"
"""Before the module's name in the capability of a node that runs its functions."""


class GpuInfo(msgspec.Struct, frozen=True):
    """One GPU as the driver reports it; sizes in bytes."""

    name: str
    memory: int
    memory_free: int


class NodeInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """A node as it registers. `incarnation` changes with every start of the same node id."""

    id: str
    incarnation: int = 1
    capabilities: tuple[str, ...] = ("cpu",)
    labels: dict[str, str] = {}
    executors: tuple[str, ...] = ("run", "python", "http")
    slots: int = 1
    cpu_milli: int = 1_000
    memory: int = 0
    vram: int = 0
    disk_free: int = 0
    gpus: tuple[GpuInfo, ...] = ()
    swarm: str = "default"
    region: str = "local"
    cost_per_hour: float = 0.0
    weight: float = 1.0
    version: str = ""
    """Of Skep, as the node has it."""
    pid: int = 0
    """Of its supervisor."""
    identity: str = ""
    """Made at its first start and kept in its state directory: two nodes with one name differ in it."""
    any_app: bool = True
    """Whether it runs Python functions of every module, as nodes on the server's machine do; else only of those that its
    capabilities `app:MODULE` name."""


class LiveNode(NamedTuple):
    """A node as the router sees it."""

    info: NodeInfo
    free: dict[str, int]
    """Units free by resource: slots, cpu (thousandths of a core), memory, vram (bytes)."""
    leases: int
    draining: bool
    beat_ms: int = 0
    """Engine time of its last sign of life."""
    coming: bool = False
    """It has registered and taken nothing yet, and said that it would first present what it has."""
    server: str = ""
    """Through which its last beat came."""


class Requirement(msgspec.Struct, frozen=True, omit_defaults=True, array_like=True):
    """What a node must have and give for an attempt. Its JSON is the name of the requirement class."""

    executor: str
    requires: tuple[str, ...] = ()
    cpu_milli: int = 0
    memory: int = 0
    vram: int = 0
    app: str = ""
    """The module, or the file, of its Python function."""

    @property
    def parks(self) -> bool:
        """Whether such a task waits for somebody else and needs no node at all."""
        return self.executor in PARKED

    def takes(self) -> tuple[tuple[str, int], ...]:
        """(resource, units) of a node that one attempt takes."""
        wanted = (("slots", 1), ("cpu", self.cpu_milli), ("memory", self.memory), ("vram", self.vram))
        return tuple((resource, units) for resource, units in wanted if units)


class Call(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one attempt shall do, with every expression but the secrets filled in. Equal calls share their bytes."""

    executor: str
    call: str | tuple[str, ...] | dict[str, Any]
    args: Any = None
    env: dict[str, str] | None = None
    cwd: str | None = None
    isolation: str = ""
    needs_secrets: bool = False


class Grant(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=True):
    """A lease, as handed to its node."""

    run: str
    task: int
    name: str
    attempt: int
    token: Token
    call: bytes
    """An encoded `Call`."""
    timeout_ms: int = 0
    failures: int = 0
    """Attempts of this task that failed before this one (lost and snoozed ones not counted)."""
    parent: int = -1
    """For a map child: its parent."""
    deadline_ms: int = 0
    """How long until the task's deadline, from the grant on; 0 for none."""
    takes: tuple[tuple[str, int], ...] = ()
    claims: tuple[Claim, ...] = ()
    """What the lease holds: presented again by a node that rejoins."""
    base: str = ""
    """Where relative paths start; empty: where the node's own do."""
    child: int = -1
    """For a map child: its place in the list."""


class HeldLock(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A lock taken inside of a task, as its node presents it when it rejoins."""

    key: str
    units: int
    left_ms: int


class Held(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A lease that a node still works on, as it presents it to an engine that was opened anew."""

    grant: Grant
    locks: tuple[HeldLock, ...] = ()


class Adopted(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=True):
    """Tells a node under which token its attempt goes on."""

    old: Token
    token: Token


class Stop(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=True):
    """Tells a node to end one attempt."""

    token: Token
    reason: str
    """`cancel`, `deadline` or `superseded`."""


class LockGrant(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=True):
    """Tells a node that a lock one of its attempts waits for is now held."""

    token: Token
    key: str


class ErrorInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why an attempt failed, as far as its node knows."""

    type: str
    """The exception's class name, or one of Skep's: `Cancelled`, `ChildFailed`, `Deadline`, `Executor`, `ExitCode`,
    `Expression`, `Import`, `Map`, `NotFound`, `Output`, `Refused`, `Rejected`, `Result`, `Secrets`, `Signal`, `SpawnError`,
    `Stub`, `Timeout`, `WorkerDied`; and in expressions `NodeLost`."""
    message: str
    traceback: str = ""
    exit_code: int | None = None
    signal: int | None = None
    parents: tuple[str, ...] = ()
    """Names of the exception's base classes, so that a retry policy may name one of them."""


def failure(error: bytes, reason: str) -> bytes:
    """The encoded ErrorInfo of a failed task; made of the reason where it has none: `NodeLost` for `node_lost`."""
    return error or msgspec.json.encode(ErrorInfo(reason.title().replace("_", ""), reason.replace("_", " ")))


class Outcome(msgspec.Struct, frozen=True, omit_defaults=True, gc=False, array_like=True):
    """How an attempt ended, as its node reports it."""

    run: str
    task: int
    token: Token
    attempt: int
    result: str
    """`succeeded`, `failed`, `cancelled`, `snoozed`; `lost`: its process died for a reason that may not be its own."""
    output: bytes = b""
    error: ErrorInfo | None = None
    ran_ms: int = 0
    delay_ms: int = 0
    """`snoozed`: when to come back. `failed`: a delay the task itself asked for."""
    failures: int = 0
    parent: int = -1
    child: int = -1


class LogChunk(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Lines or bytes that an attempt wrote. Not an event: it goes to the record by (run, task, attempt, stream, offset)."""

    run: str
    task: int
    attempt: int
    stream: str
    """`out`, `err` or `log`."""
    offset: int
    at_ms: int
    data: bytes


class Progress(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """How far an attempt says it is. Kept only in memory; the last one counts."""

    run: str
    task: int
    attempt: int
    done: float
    total: float
    message: str = ""


_ARTIFACT = b"@"


def artifact_reference(artifact: str) -> bytes:
    """What stands in the place of an output that is kept as an artifact. No JSON text begins like it."""
    return _ARTIFACT + artifact.encode()


def artifact_of(output: bytes) -> str | None:
    """The id of the artifact that an output stands for; None when it is the output itself."""
    return output[1:].decode() if output[:1] == _ARTIFACT else None
