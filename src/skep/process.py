"""How a process of Skep's own is set up."""

from __future__ import annotations

import gc
import sys


def tune() -> None:
    """For a process that does nothing but run workflows: threads hand over sooner, garbage is looked for less often."""
    sys.setswitchinterval(0.0005)
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
