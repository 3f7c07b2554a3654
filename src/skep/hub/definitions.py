"""Definitions: workflows stored under a name, in versions."""

from __future__ import annotations

from skep.clock import Clock
from skep.flow.plan import Plan
from skep.model.authoring import spec_to_data
from skep.model.spec import DEFAULT_NAMESPACE, WorkflowSpec
from skep.model.views import DefinitionView
from skep.record.protocol import Definition, Record
from skep.upkeep.stored import named


class Definitions:
    """The noun of the hub."""

    def __init__(self, record: Record, clock: Clock) -> None:
        self._record = record
        self._clock = clock

    async def put(self, plan: Plan, note: str = "") -> DefinitionView:
        """Stores the next version of a workflow; the last one again when nothing has changed. Raises RefusedError."""
        spec = plan.spec
        stored = await self._record.put_definition(
            spec.namespace, spec.name, plan.digest, plan.encoded, note, self._clock.now_ms()
        )
        return _view(stored, spec)

    async def list(self, namespace: str = "", name: str = "") -> list[DefinitionView]:
        """The newest version of each; with a name all versions of it."""
        return [_view(stored) for stored in await self._record.definitions(namespace, name)]

    async def get(self, name: str, namespace: str = "", version: int = 0) -> DefinitionView:
        """With its source. `name` may be `name@version`. Raises NotFoundError, RefusedError."""
        stored = await self.find(name, namespace, version)
        return _view(stored, WorkflowSpec.decode(stored.body))

    async def find(self, name: str, namespace: str = "", version: int = 0) -> Definition:
        """The stored version: the newest when none is named. Raises NotFoundError, RefusedError."""
        bare, number = named(name)
        return await self._record.stored_definition(namespace or DEFAULT_NAMESPACE, bare, number or version)

    async def remove(self, name: str, namespace: str = "") -> int:
        """All versions; runs keep what they were started with. Answers how many there were."""
        return await self._record.remove_definition(namespace or DEFAULT_NAMESPACE, name)


def _view(stored: Definition, spec: WorkflowSpec | None = None) -> DefinitionView:
    return DefinitionView(
        name=stored.name,
        version=stored.version,
        namespace=stored.namespace,
        digest=stored.digest,
        note=stored.note,
        at_ms=stored.at_ms,
        tasks=len(spec.tasks) if spec is not None else 0,
        source=spec_to_data(spec) if spec is not None else None,
    )
