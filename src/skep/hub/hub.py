"""The hub: a namespace of nouns, each operation once."""

from __future__ import annotations

from dataclasses import dataclass

from skep.hub.feed import Feed
from skep.hub.nodes import Nodes
from skep.hub.runs import Runs


@dataclass(frozen=True, slots=True)
class Hub:
    """One door to everything."""

    runs: Runs
    nodes: Nodes
    feed: Feed
