"""What people see of runs and tasks, made of rows of the record."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, Final

import msgspec

from skep.errors import NotFoundError, RefusedError
from skep.flow.decide import Facts, Upstream, run_output
from skep.flow.evaluation import ExpressionError
from skep.flow.plan import Plan
from skep.model.node import artifact_of, failure
from skep.model.run import AttemptView, RunView, TaskView, failure_of
from skep.model.spec import NORMAL_PRIORITY
from skep.model.state import RunState, TaskState
from skep.model.views import RunSummary, TaskList
from skep.record.protocol import Expansion, Record, RunRow, TaskRow
from skep.upkeep.catalog import Catalog

WINDOW: Final = 2_000
"""Indexes looked at in one read, where tasks without a row are among those that are wanted."""
MOST: Final = 10_000
"""Tasks in one page."""
LARGE: Final = 2_000
"""Tasks of a run whose whole view is made in a thread: nodes and other clients are answered meanwhile."""


class Views:
    """Looks things up, and puts them in words."""

    def __init__(self, record: Record, catalog: Catalog) -> None:
        self._record = record
        self._catalog = catalog

    # -- runs

    async def summary(self, run: str) -> RunSummary:
        """The run with the counts of its tasks. Raises NotFoundError."""
        return await self.summary_of(await self._record.run(run, counts=True))

    async def summary_of(self, row: RunRow) -> RunSummary:
        """The same of a row with counts."""
        summary = summary_of(row)
        plan = await self._catalog.plan(row.digest)
        summary.tasks = max(row.task_count, len(plan.names))
        counts = dict(zip((state.label for state in TaskState), row.counts, strict=False))
        counts["waiting"] = counts.get("waiting", 0) + summary.tasks - sum(counts.values())
        summary.counts = {state: count for state, count in counts.items() if count}
        summary.inputs = msgspec.json.decode(row.inputs)
        return summary

    async def output(self, run: str) -> Any:
        """What the ended run gave back. Raises RunFailedError when it did not succeed."""
        view = await self._view(run, history=False)
        if view.state != RunState.SUCCEEDED.label:
            raise failure_of(view)
        return view.output

    async def whole(self, run: str) -> RunView:
        """The whole run as recorded. Raises NotFoundError."""
        return await self._view(run, history=True)

    async def _view(self, run: str, *, history: bool) -> RunView:
        record = self._record
        row = await record.run(run)
        plan = await self._catalog.plan(row.digest)
        tasks = await record.tasks(run)
        attempts = await record.attempts(run) if history else {}
        expansions = await record.expansions(run)
        for task in tasks:
            artifact = artifact_of(task.output)
            if artifact is not None:
                task.output = await record.get_artifact(artifact)
        if len(tasks) <= LARGE:
            return _whole(plan, row, tasks, attempts, expansions)
        return await asyncio.to_thread(_whole, plan, row, tasks, attempts, expansions)

    async def _value(self, data: bytes) -> Any:
        artifact = artifact_of(data)
        return msgspec.json.decode(data if artifact is None else await self._record.get_artifact(artifact))

    # -- tasks

    async def tasks(
        self, run: str, *, states: Sequence[str] = (), search: str = "", limit: int = 200, cursor: str = ""
    ) -> TaskList:
        """A page of the tasks of a run in the order of their indexes, without outputs and history. Raises NotFoundError,
        RefusedError."""
        row = await self._record.run(run)
        plan = await self._catalog.plan(row.digest)
        names = Names(plan, await self._record.expansions(run))
        after = _cursor(cursor)
        wanted = _states(states)
        limit = max(1, min(limit, MOST))
        found: list[TaskView] = []
        async for at, task in self._walk(run, names, wanted, search, after, limit + 1):
            found.append(task_view(at, names[at], task, None))
            if len(found) > limit:
                return TaskList(found[:limit], str(found[limit - 1].index))
        return TaskList(found)

    async def _walk(
        self, run: str, names: Names, states: Sequence[int], search: str, after: int, limit: int
    ) -> AsyncIterator[tuple[int, TaskRow | None]]:
        """(index, row) of the wanted tasks above `after`; the row of one that has not begun is None."""
        if states and TaskState.WAITING not in states and not search:
            for task in await self._record.list_tasks(run, states=states, after=after, limit=limit):
                yield task.index, task
            return
        for first in range(after + 1, names.count, WINDOW):
            window: Sequence[int] = range(first, min(first + WINDOW, names.count))
            if search:
                window = [at for at in window if search in names[at]]
            rows = {row.index: row for row in await self._rows(run, window, not search)}
            for at in window:
                row = rows.get(at)
                if not states or (TaskState.WAITING if row is None else row.state) in states:
                    yield at, row

    async def _rows(self, run: str, window: Sequence[int], whole: bool) -> list[TaskRow]:
        """Those in the window; `whole`: it is all indexes from the first to the last."""
        if whole:
            rows = await self._record.list_tasks(run, after=window[0] - 1, limit=len(window))
            return [row for row in rows if row.index <= window[-1]]
        return await self._record.list_tasks(run, indexes=window, limit=len(window))

    async def find(self, run: str, name: str) -> int:
        """The index of a task by its name, `parent[3]` for a child of a map. Raises NotFoundError."""
        row = await self._record.run(run)
        plan = await self._catalog.plan(row.digest)
        if name in plan.index:
            return plan.index[name]
        names = Names(plan, await self._record.expansions(run))
        found = names.index(name)
        if found is None:
            some = ", ".join(plan.names[:10]) + (", …" if len(plan.names) > 10 else "")
            raise NotFoundError(f"run {run} has no task '{name}'; it has {some}")
        return found

    async def task(self, run: str, index: int) -> TaskView:
        """One task with its output and history."""
        row = await self._record.run(run)
        plan = await self._catalog.plan(row.digest)
        names = Names(plan, await self._record.expansions(run))
        task = await self._record.task(run, index)
        output = await self._value(task.output) if task is not None and task.output else None
        view = task_view(index, names[index], task, output)
        view.history = (await self._record.attempts(run, index)).get(index, [])
        return view


class Names:
    """The names of all tasks of a run, by index and back."""

    def __init__(self, plan: Plan, expansions: Sequence[Expansion]) -> None:
        self._plan = plan
        self._expansions = sorted(expansions, key=lambda expansion: expansion.first)
        ends = [expansion.first + expansion.count for expansion in expansions]
        self.count = max([len(plan.names), *ends])

    def __getitem__(self, at: int) -> str:
        return self._plan.names[at] if at < len(self._plan.names) else self._plan.name(at, self._around(at))

    def _around(self, at: int) -> Sequence[Expansion]:
        place = bisect_right(self._expansions, at, key=attrgetter("first"))
        return self._expansions[max(place - 1, 0) : place]

    def index(self, name: str) -> int | None:
        known = self._plan.index.get(name)
        if known is not None:
            return known
        parent, bracket, rest = name.rpartition("[")
        number = rest.removesuffix("]")
        if not bracket or not (number.isdecimal() and len(number) < 10) or parent not in self._plan.index:
            return None
        expansion = next((e for e in self._expansions if e.parent == self._plan.index[parent]), None)
        return expansion.first + int(number) if expansion is not None and int(number) < expansion.count else None


def _cursor(text: str) -> int:
    if not text:
        return -1
    if not (text.isdecimal() and len(text) < 10):
        raise RefusedError(f"cursor: found {text[:40]!r}, expected the `next` of the page before")
    return int(text)


def _states(words: Sequence[str]) -> list[int]:
    known = {state.label: int(state) for state in TaskState}
    for word in words:
        if word not in known:
            raise RefusedError(f"state: found {word!r}, expected one of {', '.join(known)}")
    return [known[word] for word in words]


def summary_of(row: RunRow) -> RunSummary:
    """The run as it stands in lists."""
    return RunSummary(
        id=row.id,
        workflow=row.workflow,
        state=RunState(row.state).label,
        reason=row.reason or None,
        paused=row.paused,
        namespace=row.namespace,
        priority=row.priority or NORMAL_PRIORITY,
        labels=row.labels,
        accepted_ms=row.accepted_ms,
        due_ms=row.due_ms or None,
        started_ms=row.started_ms,
        finished_ms=row.finished_ms,
        tasks=row.task_count,
        parent=row.parent[0] if row.parent else None,
        schedule=row.schedule or None,
        definition=row.digest,
        cost=row.cost,
    )


def names_of(plan: Plan, expansions: Sequence[Expansion]) -> Iterator[tuple[int, str]]:
    """Every task of the run, a map's children right after it."""
    children = {expansion.parent: expansion for expansion in expansions}
    for at, name in enumerate(plan.names):
        yield at, name
        expansion = children.get(at)
        if expansion is not None:
            for child in range(expansion.count):
                yield expansion.first + child, f"{name}[{child}]"


def task_view(at: int, name: str, row: TaskRow | None, output: Any) -> TaskView:
    """A task without its history."""
    if row is None:
        return TaskView(name=name, state=TaskState.WAITING.label, index=at)
    return TaskView(
        name=name,
        state=TaskState(row.state).label,
        index=at,
        attempts=row.attempts,
        node=row.node or None,
        reason=row.reason or None,
        started_ms=row.started_ms,
        finished_ms=row.finished_ms,
        output=output,
        error=msgspec.json.decode(row.error) if row.error else None,
    )


def _whole(
    plan: Plan,
    row: RunRow,
    rows: Sequence[TaskRow],
    attempts: Mapping[int, list[AttemptView]],
    expansions: Sequence[Expansion],
) -> RunView:
    """The run with all of its tasks. Outputs that were artifacts stand in their rows."""
    tasks = {task.index: task for task in rows}
    view = RunView(
        id=row.id,
        workflow=row.workflow,
        state=RunState(row.state).label,
        reason=row.reason or None,
        namespace=row.namespace,
        priority=row.priority or NORMAL_PRIORITY,
        labels=row.labels,
        inputs=msgspec.json.decode(row.inputs),
        accepted_ms=row.accepted_ms,
        started_ms=row.started_ms,
        finished_ms=row.finished_ms,
        cost=row.cost,
    )
    for at, name in names_of(plan, expansions):
        task = tasks.get(at)
        output = msgspec.json.decode(task.output) if task is not None and task.output else None
        view.tasks.append(task_view(at, name, task, output))
        view.tasks[-1].history = attempts.get(at, [])
    _join_children(view, expansions)
    if row.state == RunState.SUCCEEDED:
        view.output = _output(plan, row, view, expansions)
    return view


def _join_children(view: RunView, expansions: Sequence[Expansion]) -> None:
    """The output of a map is the list of its children's."""
    by_index = {task.index: task for task in view.tasks}
    for expansion in expansions:
        parent = by_index[expansion.parent]
        children = [by_index[expansion.first + at] for at in range(expansion.count)]
        times = [child.started_ms for child in children if child.started_ms]
        parent.started_ms = min(times, default=parent.started_ms)
        if parent.state == TaskState.SUCCEEDED.label:
            parent.output = [child.output for child in children]


def _output(plan: Plan, row: RunRow, view: RunView, expansions: Sequence[Expansion]) -> Any:
    errors = _errors(view, expansions)
    upstream = {
        task.index: Upstream(TaskState[task.state.upper()], task.output, errors.get(task.index))
        for task in view.tasks
        if task.index < len(plan.names)
    }
    facts = Facts(plan, {"id": row.id, "workflow": row.workflow, "namespace": row.namespace}, view.inputs, upstream)
    try:
        return run_output(facts)
    except ExpressionError as error:
        return {"error": f"the run's `output` does not work out: {error}"}


def _errors(view: RunView, expansions: Sequence[Expansion]) -> dict[int, dict[str, str]]:
    """Why each failed task failed, as expressions see it; for a map, why the first of its failed children did."""
    found = {
        task.index: task.error or msgspec.json.decode(failure(b"", task.reason or ""))
        for task in view.tasks
        if task.state == TaskState.FAILED.label
    }
    for at in expansions:
        if at.parent in found:
            found[at.parent] = next(
                (found[task] for task in range(at.first, at.first + at.count) if task in found), found[at.parent]
            )
    return {task: {"type": error["type"], "message": error["message"]} for task, error in found.items()}
