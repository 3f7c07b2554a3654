"""What every engine must do, as public API: subclass `EngineConformance` in a test module and say how to make one.

    class TestMine(EngineConformance):
        async def make(self, epoch: int) -> Engine:
            return MyEngine(self.clock, epoch)

Every single item is said twice by the driver (a repeat gets the first answer and adds no event), and every event is folded by
`History`, so each test also proves that numbers have no gaps and that no move is outside `skep.model.state.MOVES`. A docstring
here decides what the protocol's text leaves open. Needs pytest and pytest-asyncio.
"""

from skep.testing.engine.claims import ClaimSuite
from skep.testing.engine.commands import CommandSuite
from skep.testing.engine.lines import LineSuite
from skep.testing.engine.maps import MapSuite
from skep.testing.engine.nodes import NodeSuite
from skep.testing.engine.rates import RateSuite
from skep.testing.engine.restore import RestoreSuite
from skep.testing.engine.runs import RunSuite
from skep.testing.engine.stream import StreamSuite
from skep.testing.engine.suite import Suite
from skep.testing.engine.tasks import TaskSuite

__all__ = ["EngineConformance", "Suite"]


class EngineConformance(
    RunSuite, CommandSuite, TaskSuite, MapSuite, ClaimSuite, LineSuite, RateSuite, NodeSuite, StreamSuite, RestoreSuite
):
    """All of it."""
