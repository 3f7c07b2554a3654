"""Every key of a Redis engine: its name, type, how long it lives, who writes it. Scripts may name no others.

All of one engine carry the hash tag `{skep:ID}`, so they lie in one slot of a cluster. All but the first carry the epoch too:
what an earlier epoch left is never read again, and `sweep` unlinks it.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Key(NamedTuple):
    """One key, or one family of keys of which `{}` is a run, a node, a queue or a claim."""

    name: str
    """As the scripts' headers say it."""
    pattern: str
    type: str
    lifetime: str
    writer: str


FOREVER: Final = "epoch"
"""As long as its epoch: `sweep` removes it."""
RUN: Final = "run"
"""Until the run has ended, its end is recorded and a minute has gone: `trim` removes it."""
NODE: Final = "node"
"""As long as the node is registered."""
EMPTY: Final = "empty"
"""As long as something is in it."""

KEYS: Final = (
    Key("epoch", "epoch", "string", "engine", "open_epoch"),
    Key("schema", "schema", "string", "engine", "open_epoch: the version of all this"),
    Key("engine", "engine", "string", FOREVER, "every verb: time, last event, mark, counts"),
    Key("events", "events", "list", EMPTY, "every verb that changes something; cut by trim"),
    Key("queues", "queues", "zset", EMPTY, "whatever makes ready: names of queues in the order of their beginning"),
    Key("ready", "ready:{}", "zset", EMPTY, "whatever makes ready, place: tasks that are offered, by score"),
    Key("delays", "delays", "zset", EMPTY, "fail, snooze, resolve, open, place: what promote makes due"),
    Key("limits", "limits", "zset", EMPTY, "open, place, claim, reap: what reap ends"),
    Key("sweeping", "sweeping", "zset", EMPTY, "whatever leaves a cursor: runs that promote advances"),
    Key("ended", "ended", "list", EMPTY, "whatever ends a run: what trim forgets"),
    Key("nodes", "nodes", "hash", EMPTY, "register, place, complete ...: what of a node changes"),
    Key("infos", "infos", "hash", EMPTY, "register: what a node says of itself"),
    Key("beats", "beats", "zset", EMPTY, "register, beat: signs of life"),
    Key("inbox", "inbox:{}", "list", NODE, "place, cancel, reap ...: what take gives"),
    Key("held_by", "held:{}", "set", NODE, "place and every end of a lease: numbers of a node's leases"),
    Key("dismissed", "dismissed:{}", "set", NODE, "dismiss"),
    Key("running", "running", "hash", EMPTY, "place, adopt, and every end of a lease: slots that attempts hold, by namespace"),
    Key("leases", "leases", "hash", EMPTY, "place, adopt, and every end of a lease"),
    Key("asks", "asks", "hash", EMPTY, "claim, release: locks taken inside of attempts"),
    Key("claims", "claims", "hash", EMPTY, "place, claim, and every end of a lease"),
    Key("holders", "holders", "hash", EMPTY, "as claims: units by lease and claim"),
    Key("waiters", "waiters", "hash", EMPTY, "as claims: who waits for what"),
    Key("line", "line:{}", "zset", EMPTY, "as claims: numbers of those who wait for one claim"),
    Key("run", "run:{}", "string", RUN, "load, and whatever moves the run: its head"),
    Key("spec", "run:{}:spec", "string", RUN, "load: what never changes of each task"),
    Key("tasks", "run:{}:tasks", "string", RUN, "whatever moves a task: what does change; zeros are the beginning"),
    Key("edges", "run:{}:edges", "string", RUN, "load: which tasks need which"),
    Key("roots", "run:{}:roots", "string", RUN, "load: tasks that need nothing"),
    Key("due", "run:{}:due", "list", RUN, "load: restored tasks that are due later; gone after open"),
    Key("deadlines", "run:{}:limits", "hash", RUN, "load: tasks by deadline"),
    Key("rest", "run:{}:rest", "hash", RUN, "what few runs have: families, waiters, who resolved what, adopted leases"),
    Key("held", "run:{}:held", "zset", RUN, "place: tasks put aside by a pause"),
)
NAMES: Final = frozenset(key.name for key in KEYS)


def tag(engine_id: str) -> str:
    """What all keys of an engine begin with."""
    return f"{{skep:{engine_id}}}:"


def epoch_key(engine_id: str) -> str:
    """Says which epoch is open."""
    return tag(engine_id) + "epoch"


def schema_key(engine_id: str) -> str:
    """Says in which form the keys of the open epoch are."""
    return tag(engine_id) + "schema"


def topics_channel(engine_id: str, epoch: int) -> str:
    """Where scripts publish which topics stirred: (who said it, topics)."""
    return f"{tag(engine_id)}{epoch}:topics"


def epoch_of(key: str) -> int | None:
    """The epoch to which a key belongs; None for the one that says which is open."""
    number = key.partition("}:")[2].partition(":")[0]
    return int(number) if number.isdigit() else None
