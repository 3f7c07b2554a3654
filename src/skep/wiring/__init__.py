"""The only room that names concrete drivers: puts an engine, a record, the loops, a hub and nodes together.

`embedded` does it for one process that ends with its run, `server` for one that stays.
"""

from skep.wiring.data import RECORD_FILE
from skep.wiring.embedded import Embedded

__all__ = ["RECORD_FILE", "Embedded"]
