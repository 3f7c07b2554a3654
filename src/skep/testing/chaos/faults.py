"""Every fault by name: what it hits, how long it lasts, and what it needs."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final, NamedTuple

from skep.testing.chaos.acts import (
    CABLE,
    COMMAND,
    DRAIN,
    EMPTY,
    FLUSH,
    LEADER,
    MACHINE,
    OLDER,
    POSTGRES,
    WORKER,
    Act,
    frozen,
    killed,
    line,
)
from skep.testing.chaos.fleet import Fleet
from skep.testing.chaos.plan import Kind
from skep.testing.chaos.proxy import CUT, SILENT, SLOW


class Attack(NamedTuple):
    kind: Kind
    text: str
    act: Act
    needs: Callable[[Fleet], str]
    """Why it cannot be; empty when it can."""


def _always(fleet: Fleet) -> str:
    return ""


def _ours(fleet: Fleet) -> str:
    return "" if fleet.ours else "the fleet is not ours to break"


def _redis(fleet: Fleet) -> str:
    return _ours(fleet) or ("" if fleet.redis is not None else fleet.without or "the fleet has no Redis")


def _postgres(fleet: Fleet) -> str:
    return _ours(fleet) or ("" if fleet.postgres is not None else fleet.without or "the fleet has no PostgreSQL")


def _command(fleet: Fleet) -> str:
    return "" if fleet.command is not None else "no command was given: --kill-command"


def _several(fleet: Fleet) -> str:
    return _ours(fleet) or ("" if len(fleet.servers) > 1 else "the fleet has one server, which leads: server-kill is that")


def _lines(fleet: Fleet) -> str:
    return _ours(fleet) or ("" if fleet.lines else fleet.without or "the fleet has no lines that could be cut")


def _places(fleet: Fleet) -> str:
    return _ours(fleet) or ("" if fleet.places else fleet.no_places)


MOMENT: Final = (0.0, 0.1)
KILLED: Final = (0.2, 4.0)
CUTS: Final = (0.2, 6.0)
BRIEF: Final = (0.5, 8.0)
"""Shorter than what makes a node lost: 10 s."""
LATE: Final = (10.4, 12.0)
"""Just long enough for that: what its processes did meanwhile is told while others do it again."""
LONG: Final = (12.5, 18.0)
"""Longer than that, and than the 12 s after which a node ends what holds a lock."""
ANY: Final = (0.5, 16.0)

_ALL: Final = (
    ("node-kill", "node", KILLED, "kill -9 of a node", killed("nodes"), _ours),
    ("worker-kill", "node", MOMENT, "kill -9 of one of a node's processes", WORKER, _ours),
    ("node-freeze", "node", BRIEF, "SIGSTOP of a node", frozen("nodes"), _ours),
    ("node-late", "node", LATE, "SIGSTOP of a node until it is just lost", frozen("nodes"), _ours),
    ("node-stall", "node", LONG, "SIGSTOP of a node for too long", frozen("nodes"), _ours),
    ("machine-freeze", "node", BRIEF, "SIGSTOP of a node and all its processes", MACHINE, _ours),
    ("partition", "node", ANY, "a node's cable is pulled", CABLE, _places),
    ("node-cut", "node", CUTS, "a node's connections are reset", line("node", CUT), _lines),
    ("node-silent", "node", ANY, "nothing comes through to a node", line("node", SILENT), _lines),
    ("node-slow", "node", BRIEF, "a node's line is slow", line("node", SLOW, 0.1), _lines),
    ("server-kill", "server", KILLED, "kill -9 of a server", killed("servers"), _ours),
    ("leader-kill", "server", KILLED, "kill -9 of the server that leads", LEADER, _several),
    ("server-freeze", "server", BRIEF, "SIGSTOP of a server", frozen("servers"), _ours),
    ("server-stall", "server", LONG, "SIGSTOP of a server for long", frozen("servers"), _ours),
    ("node-drain", "node", BRIEF, "a node is drained, and taken back", DRAIN, _always),
    ("kill-command", "fleet", MOMENT, "the command of the fleet's owner", COMMAND, _command),
    ("redis-cut", "server", CUTS, "a server is cut off from Redis", line("redis", CUT), _lines),
    ("postgres-cut", "server", CUTS, "a server is cut off from PostgreSQL", line("postgres", CUT), _lines),
    ("slow-record", "server", BRIEF, "PostgreSQL answers late, as on a slow disk", line("postgres", SLOW, 0.05), _lines),
    ("redis-freeze", "redis", BRIEF, "SIGSTOP of Redis", frozen("redis"), _redis),
    ("redis-kill", "redis", KILLED, "kill -9 of Redis", killed("redis"), _redis),
    ("redis-flush", "redis", MOMENT, "FLUSHALL", FLUSH, _redis),
    ("redis-empty", "redis", KILLED, "Redis comes back empty", EMPTY, _redis),
    ("redis-older", "redis", KILLED, "Redis comes back a second older", OLDER, _redis),
    ("postgres-freeze", "postgres", BRIEF, "SIGSTOP of PostgreSQL", POSTGRES, _postgres),
    ("postgres-stop", "postgres", KILLED, "PostgreSQL is stopped", killed("postgres", "stop"), _postgres),
    ("postgres-kill", "postgres", KILLED, "kill -9 of PostgreSQL", killed("postgres"), _postgres),
)
ALL: Final = {name: Attack(Kind(name, on, *for_s), text, act, needs) for name, on, for_s, text, act, needs in _ALL}
"""By name."""

PROOF: Final = {
    "fence": ("node-late",),
    "epoch": ("server-kill", "redis-flush"),
    "mark": ("server-kill", "redis-flush"),
}
"""Guards that a fleet can do without (`broken`), and the faults against which each stands."""

NEVER: Final = {
    "slow-disk": "no disk is made slow; with PostgreSQL `slow-record` delays each of its answers instead",
    "full-disk": "no disk of this machine is filled",
    "clock-skew": "without libfaketime no process gets another clock; `unshare --time` moves only the monotonic ones",
}
"""What is never done, and why."""


def possible(fleet: Fleet, wanted: Collection[str] = ()) -> tuple[list[Attack], dict[str, str]]:
    """Those of the faults wanted (empty: of all) that the fleet can have; and why it is without the others."""
    chosen = [attack for name, attack in ALL.items() if not wanted or name in wanted]
    reasons = {attack.kind.name: attack.needs(fleet) for attack in chosen}
    left_out = {name: reason for name, reason in reasons.items() if reason}
    return [attack for attack in chosen if not reasons[attack.kind.name]], left_out | ({} if wanted else NEVER)
