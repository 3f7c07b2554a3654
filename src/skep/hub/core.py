"""The nouns that every engine needs, also one that ends with its run."""

from __future__ import annotations

from dataclasses import dataclass

from skep.clock import Clock
from skep.hub.feed import Feed
from skep.hub.runs import Runs
from skep.hub.work import Work


@dataclass(frozen=True, slots=True)
class Core:
    """Half of the hub: what there is of it in one process that ends with its run."""

    runs: Runs
    work: Work
    """The door for nodes."""
    feed: Feed
    clock: Clock
