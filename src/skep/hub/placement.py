"""Placement: what holds for the choice of nodes in the whole fleet, and which policies there are."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

import msgspec

from skep.engine.protocol import Engine
from skep.errors import Problem, SpecError
from skep.flow.plan import Plan
from skep.record.protocol import Record
from skep.router.options import read_settings, unknown_policy, write_settings
from skep.router.settings import RouterSettings
from skep.upkeep.place import PlaceLoop
from skep.upkeep.routing import Routing

log = logging.getLogger(__name__)

FLAG: Final = "placement"
"""Of the record: the settings, as JSON."""
TOPIC: Final = "placement"
"""Stirred when they have changed."""


class Placement:
    """The noun of the hub."""

    def __init__(
        self,
        engine: Engine,
        record: Record,
        routing: Routing,
        place: PlaceLoop,
        own_policies: Callable[[], Collection[str]] = frozenset,
    ) -> None:
        """`own_policies`: names of those beside Skep's."""
        self._engine = engine
        self._record = record
        self._routing = routing
        self._place = place
        self._own_policies = own_policies
        self._known = ""
        """The settings that hold, as they are recorded."""

    async def open(self) -> None:
        """Takes up what is recorded. Again whenever another server of this engine says that it changed."""
        recorded = (await self._record.flags()).get(FLAG, "")
        if recorded == self._known:
            return
        self._known = recorded
        try:
            settings = msgspec.json.decode(recorded, type=RouterSettings) if recorded else RouterSettings()
        except msgspec.MsgspecError as error:
            log.warning("the recorded placement settings cannot be used, and those before them hold: %s", error)
            return
        self._routing.settings = settings
        self._place.wake()

    def get(self) -> dict[str, Any]:
        """What holds, in the form in which it is set."""
        return write_settings(self._routing.settings)

    async def set(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Sets all of it: what is not named is as at first. At once, on every server. Raises SpecError."""
        settings = read_settings(wanted, self._own_policies())
        await self._change(msgspec.json.encode(settings).decode())
        return self.get()

    async def reset(self) -> dict[str, Any]:
        """As at first."""
        await self._change(None)
        return self.get()

    async def _change(self, value: str | None) -> None:
        await self._record.set_flag(FLAG, value)
        await self.open()
        await self._engine.stir([TOPIC])


def check_policies(plan: Plan, own: Callable[[], Collection[str]]) -> None:
    """Raises SpecError when a task names a policy that there is not. `own`: those beside Skep's."""
    problems = []
    for spec in plan.spec.tasks:
        name = spec.placement.policy if spec.placement is not None else ""
        if name and unknown_policy(name) and (problem := unknown_policy(name, own())):
            problems.append(Problem(f"tasks.{spec.name}.placement.policy", problem))
    if problems:
        raise SpecError(problems[:100])
