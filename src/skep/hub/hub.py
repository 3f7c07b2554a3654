"""The hub: a namespace of nouns, each operation once."""

from __future__ import annotations

from dataclasses import dataclass

from skep.clock import Clock
from skep.hub.definitions import Definitions
from skep.hub.events import Events
from skep.hub.feed import Feed
from skep.hub.insight import Insight
from skep.hub.keys import Keys
from skep.hub.nodes import Nodes
from skep.hub.placement import Placement
from skep.hub.queue import Queue
from skep.hub.runs import Runs
from skep.hub.schedules import Schedules
from skep.hub.tasks import Tasks
from skep.hub.why import Why
from skep.hub.work import Work


@dataclass(frozen=True, slots=True)
class Hub:
    """One door to everything."""

    runs: Runs
    tasks: Tasks
    nodes: Nodes
    queue: Queue
    placement: Placement
    definitions: Definitions
    schedules: Schedules
    events: Events
    keys: Keys
    insight: Insight
    why: Why
    work: Work
    """The door for nodes."""
    feed: Feed
    clock: Clock
