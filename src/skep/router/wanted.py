"""What is asked of the router, and what it answers. Data only."""

from __future__ import annotations

from typing import NamedTuple

from skep.model.node import Requirement


class Kind(NamedTuple):
    """What durations are learned by. Tasks of one kind are expected to take equally long on one node, but for their size."""

    name: str
    """Workflow and task, `release/test`; the children of a map share their parent's."""
    type: str = ""
    """The task's `type`, such as `testing`."""
    executor: str = ""
    size: int = 0
    """Bytes of input, rounded up to a power of two; 0: not known."""
    estimate_ms: int = 0
    """What its author expects (`estimated_duration`) on a node of ordinary speed; 0: nothing was said."""


class Wanted(NamedTuple):
    """A place for one task. Equal ones are decided on together; put them next to each other."""

    requirement: Requirement
    kind: Kind
    policy: str = ""
    """By name; empty: the one of the node's swarm, else the fleet's."""
    prefer: tuple[str, ...] = ()
    """Nodes by id, or words as in `requires`, the first choice first; where none of them has room, any other will do."""
    affinity: str = ""
    """Tasks with one key go to one node, as long as it is there and has room: a conversation, a data set."""
    near: tuple[tuple[str, int], ...] = ()
    """(node, bytes) of the task's inputs that are there already."""
    cost_sensitive: bool = False
    """The cheapest node that is good enough, not the fastest."""
    due_ms: int = 0
    """How long until its deadline; 0: none."""
    swarm: str = ""
    """Only nodes of this swarm; empty: of any."""
    region: str = ""
    """Only nodes of this region; empty: of any."""


class Choice(NamedTuple):
    """Where one task goes."""

    node: str
    """Empty: nowhere now."""
    why: str = ""
    """Without a node, a word of: `unable` (no node ever can), `unhealthy` (those that can are shut off), `full` (those that can
    have no room), `held` (a node that is busy will be done with it sooner than any free one)."""
    node_waited_for: str = ""
    """`held`: the node that it waits for."""
    wait_s: float = 0.0
    """`held`: for how long, as predicted."""
