"""Events: what happened, in the order in which it happened. Written in the same atomic step as the change they tell of.

| kind | of | says |
|---|---|---|
| loaded | run | the engine knows the run; `count` tasks; `state` and `reason` if it is being cancelled |
| paused, resumed, cancelling | run | the flag was set; `reason`, `command` |
| ended | run | `state` succeeded, failed or cancelled; `reason` |
| ready | tasks | `tasks` may start |
| granted | task | `node` holds the lease (`epoch`, `n`) for `attempt` |
| adopted | task | as `granted`, of an attempt that began under an earlier engine: (`token_epoch`, `token`) it saw first |
| succeeded | task | `output`; `started_ms`, `ran_ms` when it ran |
| failed, cancelled, skipped | task or tasks | `reason`, `error` |
| retrying, snoozed, returned | task | the attempt ended and the task goes on at `due_ms` (0: now) |
| parked | task | `reason`: approval, child, event, with `data` (an encoded `Wait`) and its `attempt`; or map, with `first` and
  `count` of its children |
| reset | tasks | a recorded `retry`, number `command`, made them wait again |
| registered, draining, retired, lost | node | `node` |
"""

from __future__ import annotations

import msgspec


class Event(msgspec.Struct, omit_defaults=True, gc=False):
    """One event. `n` counts from 1 within an epoch without gaps; which fields are set depends on `kind`."""

    n: int
    at_ms: int
    kind: str
    run: str = ""
    task: int = -1
    attempt: int = 0
    token: int = 0
    """The `n` of the lease's grant; its epoch is in `token_epoch`."""
    token_epoch: int = 0
    node: str = ""
    state: int = -1
    reason: str = ""
    tasks: tuple[int, ...] = ()
    first: int = -1
    """parked for a map: the index of its first child, `count` of them in a row."""
    count: int = 0
    due_ms: int = 0
    started_ms: int = 0
    ran_ms: int = 0
    error: bytes = b""
    output: bytes = b""
    data: bytes = b""
    command: int = 0
    """Number of the recorded command that this follows from."""
