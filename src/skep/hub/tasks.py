"""Tasks: one of them with its output and history, what parked ones wait for, and the decisions of people."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from skep.clock import Clock
from skep.errors import Problem, RefusedError, SpecError, WrongStateError
from skep.hub.answered import check_answer
from skep.hub.views import Names, Views
from skep.ids import child_run_id
from skep.model.encode import encode
from skep.model.fields import Fault, show_path
from skep.model.node import artifact_of
from skep.model.run import TaskView
from skep.model.state import TaskState
from skep.model.wait import APPROVAL, CHILD, EVENT, Verdict, Wait, WaitView
from skep.record.protocol import Record, WaitRow
from skep.upkeep.catalog import Catalog
from skep.upkeep.load import LoadLoop

KINDS: Final = (APPROVAL, CHILD, EVENT)
SHOWN: Final = 1_000
"""Waits in one list."""
MAX_COMMENT: Final = 10_000
"""Characters of a comment."""
MAX_BY: Final = 200
MAX_DATA: Final = 64 * 1024
"""Bytes of JSON that an answer may bring."""


class Tasks:
    """The noun of the hub."""

    def __init__(self, record: Record, catalog: Catalog, load: LoadLoop, clock: Clock, engine_id: str) -> None:
        self._record = record
        self._catalog = catalog
        self._load = load
        self._clock = clock
        self._engine_id = engine_id
        self._views = Views(record, catalog)

    async def check(self, run: str, name: str) -> None:
        """Raises NotFoundError for a task that the run does not have."""
        await self._views.find(run, name)

    async def get(self, run: str, name: str) -> TaskView:
        """One task with its output and history; the output of a map is the list of its children's. Raises NotFoundError."""
        view = await self._views.task(run, await self._views.find(run, name))
        if view.state == TaskState.SUCCEEDED.label and view.output is None:
            for expansion in await self._record.expansions(run):
                if expansion.parent == view.index:
                    children = range(expansion.first, expansion.first + expansion.count)
                    outputs = await self._record.outputs(run, children)
                    view.output = [await self._value(outputs.get(child, b"null")) for child in children]
        return view

    async def _value(self, data: bytes) -> Any:
        artifact = artifact_of(data)
        return msgspec.json.decode(data if artifact is None else await self._record.get_artifact(artifact))

    # -- waits

    async def waits(self, kind: str = "", run: str = "", namespace: str = "") -> list[WaitView]:
        """What parked tasks wait for, the oldest first, at most 1,000 of them. Raises RefusedError."""
        if kind and kind not in KINDS:
            raise RefusedError(f"kind: found {kind!r}, expected one of {', '.join(KINDS)}")
        rows = await self._record.waits(
            self._engine_id, kinds=(kind,) if kind else (), runs=(run,) if run else (), namespace=namespace, limit=SHOWN
        )
        children: dict[str, Names] = {}
        """Of runs in which a child of a map waits."""
        views: list[WaitView] = []
        for row in rows:
            context = await self._catalog.run(row.run)
            if context is None:
                continue  # it was deleted while we asked
            plan = context.plan
            if row.task >= len(plan.names) and row.run not in children:
                children[row.run] = Names(plan, await self._record.expansions(row.run))
            views.append(_view(row, children[row.run][row.task] if row.run in children else plan.names[row.task]))
        return views

    # -- decisions

    async def approve(self, run: str, name: str, *, by: str, comment: str = "", data: Any = None, id: str = "") -> TaskView:
        """The task succeeds, with `data` in its output: what its form asks for. Only one decision is ever taken; the same `id`
        again is the same decision.

        Raises NotFoundError, SpecError (what the form asks for is not there), WrongStateError (it does not wait for an
        approval, or it was decided: by whom and when).
        """
        return await self._decide(run, name, True, by, comment, data, id)

    async def reject(self, run: str, name: str, *, by: str, comment: str = "", data: Any = None, id: str = "") -> TaskView:
        """The task fails. Raises as `approve` does."""
        return await self._decide(run, name, False, by, comment, data, id)

    async def _decide(self, run: str, name: str, approve: bool, by: str, comment: str, data: Any, id: str) -> TaskView:
        task = await self._views.find(run, name)
        row = await self._record.task(run, task)
        if row is None:
            raise WrongStateError(f"task '{name}' has not begun: nobody is asked yet")
        said = {"id": id, "by": by.strip(), "comment": comment, "data": data}
        verdict = Verdict(task=task, attempt=row.attempts, approve=approve, **said)
        encoded = _encoded(verdict)
        if approve:
            await self._check_form(run, task, data)
        try:
            command = await self._record.decide(run, task, row.attempts, encoded, self._clock.now_ms())
        except WrongStateError as error:
            raise WrongStateError(str(error).replace(f"task {task} of run {run}", f"task '{name}'")) from None
        await self._load.apply(command)
        return await self.get(run, name)

    async def _check_form(self, run: str, task: int, data: Any) -> None:
        """A wait that has been decided is not found any more; then `decide` says so."""
        for row in await self._record.waits(self._engine_id, kinds=(APPROVAL,), runs=(run,), task=task):
            try:
                await check_answer(Wait.decode(row.data).form, data)
            except Fault as fault:
                raise SpecError([Problem(show_path(("data", *path)), text) for path, text in fault.found]) from None


def _encoded(verdict: Verdict) -> bytes:
    if not verdict.by or len(verdict.by) > MAX_BY:
        raise SpecError.at("by", f"expected who decides: a name of up to {MAX_BY} characters")
    if len(verdict.comment) > MAX_COMMENT:
        raise SpecError.at("comment", f"has {len(verdict.comment):,} characters, {MAX_COMMENT:,} are allowed")
    try:
        data = encode(verdict)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise SpecError.at("data", f"must be JSON: {error}") from None
    if len(data) > MAX_DATA:
        raise SpecError.at("data", f"has {len(data):,} bytes, {MAX_DATA:,} are allowed; give a path or URL instead")
    return data


def _view(row: WaitRow, task: str) -> WaitView:
    wait = Wait.decode(row.data)
    return WaitView(
        run=row.run,
        task=task,
        index=row.task,
        attempt=row.attempt,
        kind=row.kind,
        workflow=row.workflow,
        namespace=row.namespace,
        message=wait.message,
        form=wait.form,
        event=wait.event or None,
        key=wait.key or None,
        child=child_run_id(row.run, row.task, row.attempt) if row.kind == CHILD else None,
        since_ms=row.since_ms,
        due_ms=row.due_ms or None,
    )
