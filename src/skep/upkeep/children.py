"""Child runs: a parked task starts one, takes over how it ends, and takes it along when it is given up itself."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from skep.errors import NotFoundError, RefusedError, RunFailedError, SpecError, WrongStateError
from skep.ids import child_run_id
from skep.model.encode import encode
from skep.model.node import ErrorInfo
from skep.model.spec import WorkflowSpec
from skep.model.state import RunState
from skep.model.wait import Wait
from skep.record.protocol import Record, RunFilter, RunRow
from skep.upkeep.stored import Stored

DEEPEST: Final = 8
"""How many runs a run may be nested in."""
UNFINISHED: Final = (int(RunState.QUEUED), int(RunState.RUNNING), int(RunState.CANCELLING))
PAGE: Final = 1_000
PARENTS: Final = 256
"""Runs kept whose children are started."""


class ChildRuns(Protocol):
    """What of the hub's runs is needed here."""

    async def submit(
        self, spec: WorkflowSpec, inputs: Mapping[str, Any] | None, *, run_id: str, parent: RunRow, parent_task: int
    ) -> str:
        """Accepts a child run, which inherits from its parent; the same id again is the same run. Raises SpecError,
        RefusedError."""
        ...

    async def output(self, run: str) -> Any:
        """What an ended run gave back. Raises RunFailedError when it did not succeed."""
        ...

    async def cancel(self, run: str, reason: str) -> object:
        """By a recorded command."""
        ...


class ChildEnd(NamedTuple):
    """How a child run ended, as its parent's task takes it over."""

    output: bytes = b""
    """JSON."""
    error: ErrorInfo | None = None
    final: bool = False
    """Another child would not mend it."""


class RefusedChild(Exception):
    """The child run could not be started, and never will be."""


class Children:
    """Starts child runs, asks for their ends, cancels them."""

    def __init__(self, record: Record, runs: ChildRuns, engine_id: str) -> None:
        self._record = record
        self._runs = runs
        self._engine_id = engine_id
        self._stored = Stored(record)
        self._parents: OrderedDict[str, RunRow] = OrderedDict()

    async def start(self, run: str, task: int, attempt: int, wait: Wait) -> bool:
        """Starts the child of an attempt, if it is not there yet. True: it has ended already. Raises RefusedChild."""
        child = child_run_id(run, task, attempt)
        try:
            return RunState((await self._record.run(child)).state).ended
        except NotFoundError:
            pass
        parent = await self._parent(run)
        if parent.depth >= DEEPEST:
            raise RefusedChild(f"runs may be nested {DEEPEST} deep, and this would be deeper; is a workflow its own child?")
        if wait.inputs is not None and not isinstance(wait.inputs, Mapping):
            raise RefusedChild("`with` must give a mapping from inputs to values")
        try:
            spec = await self._stored.workflow(parent.namespace, wait.workflow, wait.definition)
            await self._runs.submit(spec, wait.inputs, run_id=child, parent=parent, parent_task=task)
        except (NotFoundError, RefusedError, SpecError, msgspec.MsgspecError) as error:
            raise RefusedChild(str(error)) from None
        return False

    async def _parent(self, run: str) -> RunRow:
        """What a child takes over from it never changes; a map has many children."""
        parent = self._parents.get(run)
        if parent is None:
            parent = self._parents[run] = await self._record.run(run)
            if len(self._parents) > PARENTS:
                self._parents.popitem(last=False)
        return parent

    async def end(self, child: str) -> ChildEnd:
        """How the ended child ended."""
        try:
            return ChildEnd(encode(await self._runs.output(child)))
        except RunFailedError as error:
            why = f"run {child} {error.state}" + (f" ({error.reason})" if error.reason else "")
            for name, trouble in error.failures[:1]:
                why += f": {name}: {trouble.partition(chr(10))[0]}"
            return ChildEnd(error=ErrorInfo("ChildFailed", why), final=error.state == RunState.CANCELLED.label)
        except (NotFoundError, ValueError, RecursionError, msgspec.MsgspecError) as error:
            return ChildEnd(error=ErrorInfo("ChildFailed", f"the output of run {child} cannot be had: {error}"), final=True)

    async def cancel(self, child: str) -> None:
        """The task that waits for it does not wait any more."""
        try:
            await self._runs.cancel(child, "parent")
        except (NotFoundError, WrongStateError):
            pass  # it never was, or has ended in the meantime

    async def unfinished(self, cursor: str) -> tuple[list[str], str]:
        """Some of the child runs of this engine that have not ended; then from where to ask for more, empty for nothing.

        Without those that somebody has commanded by themselves: who retries a child run does not mean its parent."""
        page = await self._record.list_runs(RunFilter(states=UNFINISHED), limit=PAGE, cursor=cursor)
        own = [run for run in page.runs if run.parent is not None and run.engine == self._engine_id and not run.command]
        return [run.id for run in own], page.cursor
