"""Runs: submit, wait, look at, cancel, pause, resume, retry."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from skep.clock import Clock
from skep.errors import RunFailedError, SpecError, WrongStateError
from skep.flow.decide import Facts, Upstream, run_output
from skep.flow.evaluation import ExpressionError
from skep.flow.plan import Plan, check_inputs, compile_plan
from skep.hub.feed import Feed
from skep.ids import new_id
from skep.model.encode import encode
from skep.model.node import ErrorInfo, artifact_of, failure
from skep.model.run import RunView, TaskView
from skep.model.spec import WorkflowSpec
from skep.model.state import RunState, TaskState
from skep.record.protocol import Expansion, NewRun, Record, RunRow, TaskRow
from skep.upkeep.catalog import Catalog
from skep.upkeep.load import LoadLoop

MAX_INPUTS = 8 * 1024 * 1024
"""Bytes of JSON that a run's inputs may have."""


class Runs:
    """The noun of the hub."""

    def __init__(self, record: Record, catalog: Catalog, load: LoadLoop, feed: Feed, clock: Clock, engine_id: str) -> None:
        self._record = record
        self._catalog = catalog
        self._load = load
        self._feed = feed
        self._clock = clock
        self._engine_id = engine_id
        self._plans: dict[int, Plan] = {}

    def plan(self, spec: WorkflowSpec) -> Plan:
        """The compiled workflow; the last few are kept. Raises SpecError."""
        kept = self._plans.get(id(spec))
        return kept if kept is not None and kept.spec is spec else self.keep(compile_plan(spec))

    def keep(self, plan: Plan) -> Plan:
        """Makes a plan known, so that submitting its workflow does not compile it again."""
        if len(self._plans) >= 64:
            self._plans.clear()
        self._plans[id(plan.spec)] = plan
        self._catalog.keep_plan(plan)
        return plan

    async def submit(
        self,
        spec: WorkflowSpec,
        inputs: Mapping[str, Any] | None = None,
        *,
        run_id: str | None = None,
        priority: int = 0,
        labels: Mapping[str, str] | None = None,
        timeout_ms: int = 0,
        idempotency_key: str | None = None,
    ) -> str:
        """Accepts one run: returns its id once the record has committed it. Raises SpecError, RefusedError."""
        (answer,) = await self.submit_many(
            spec,
            [inputs or {}],
            run_ids=[run_id] if run_id else None,
            priority=priority,
            labels=labels,
            timeout_ms=timeout_ms,
            keys=[idempotency_key],
        )
        return answer

    async def submit_many(
        self,
        spec: WorkflowSpec,
        inputs: Sequence[Mapping[str, Any]],
        *,
        run_ids: Sequence[str] | None = None,
        priority: int = 0,
        labels: Mapping[str, str] | None = None,
        timeout_ms: int = 0,
        keys: Sequence[str | None] | None = None,
    ) -> list[str]:
        """Accepts many runs of one workflow in one commit. All are checked first: nothing is half-submitted."""
        plan = self.plan(spec)
        now_ms = self._clock.now_ms()
        encoded = [self._encode_inputs(spec, given) for given in inputs]
        new = [
            NewRun(
                id=run_ids[at] if run_ids else new_id(now_ms),
                engine=self._engine_id,
                workflow=spec.name,
                definition=plan.encoded,
                digest=plan.digest,
                inputs=data,
                namespace=spec.namespace,
                priority=priority or spec.priority,
                labels={**(spec.labels or {}), **(labels or {})},
                timeout_ms=timeout_ms or spec.timeout_ms,
                idempotency_key=keys[at] if keys else None,
                accepted_ms=now_ms,
            )
            for at, data in enumerate(encoded)
        ]
        answers = await self._record.accept(new)
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        accepted = [str(answer) for answer in answers]
        if run_ids:
            self._load.look()  # perhaps sent again: whether a run is new, and has not even ended, the record knows
        else:
            self._load.offer([_row(run) for run, known in zip(new, accepted, strict=True) if run.id == known])
        return accepted

    def _encode_inputs(self, spec: WorkflowSpec, given: Mapping[str, Any]) -> bytes:
        try:
            data = encode(check_inputs(spec, dict(given)))
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            if isinstance(error, SpecError):
                raise
            raise SpecError.at("inputs", f"must be JSON: {error}") from None
        if len(data) > MAX_INPUTS:
            raise SpecError.at("inputs", f"have {len(data):,} bytes, {MAX_INPUTS:,} are allowed; pass a path or URL instead")
        return data

    # -- the end

    async def wait(self, run: str, timeout_s: float | None = None) -> RunState:
        """Waits until the end of the run is recorded. Raises NotFoundError, TimeoutError; SkepError when that was given up."""
        end = self._feed.end_of(run)
        try:
            if run not in self._load.live:
                row = await self._record.run(run)
                if RunState(row.state).ended:
                    return RunState(row.state)
            async with asyncio.timeout(timeout_s):
                return RunState((await end).state)
        finally:
            end.cancel()

    async def output(self, run: str) -> Any:
        """What the ended run gave back. Raises RunFailedError when it did not succeed."""
        row = await self._record.run(run)
        view = await self.view(run)
        if row.state != RunState.SUCCEEDED:
            raise failure_of(view)
        return view.output

    async def view(self, run: str) -> RunView:
        """The whole run as recorded. Raises NotFoundError."""
        record = self._record
        row = await record.run(run)
        plan = await self._catalog.plan(row.digest)
        tasks = {task.index: task for task in await record.tasks(run)}
        attempts = await record.attempts(run)
        expansions = await record.expansions(run)
        outputs = {at: await self._value(task.output) for at, task in tasks.items() if task.output}
        view = RunView(
            id=row.id,
            workflow=row.workflow,
            state=RunState(row.state).label,
            reason=row.reason or None,
            namespace=row.namespace,
            priority=row.priority or 5,
            labels=row.labels,
            inputs=msgspec.json.decode(row.inputs),
            accepted_ms=row.accepted_ms,
            started_ms=row.started_ms,
            finished_ms=row.finished_ms,
        )
        for at, name in _names(plan, expansions):
            task = tasks.get(at)
            view.tasks.append(_task_view(at, name, task, outputs.get(at)))
            view.tasks[-1].history = attempts.get(at, [])
        self._join_children(view, expansions, plan)
        if row.state == RunState.SUCCEEDED:
            view.output = self._output(plan, row, view, expansions)
        return view

    async def _value(self, data: bytes) -> Any:
        artifact = artifact_of(data)
        if artifact is not None:
            data = await self._record.get_artifact(artifact)
        return msgspec.json.decode(data)

    def _join_children(self, view: RunView, expansions: Sequence[Expansion], plan: Plan) -> None:
        """The output of a map is the list of its children's."""
        by_index = {task.index: task for task in view.tasks}
        for expansion in expansions:
            parent = by_index[expansion.parent]
            children = [by_index[expansion.first + at] for at in range(expansion.count)]
            times = [child.started_ms for child in children if child.started_ms]
            parent.started_ms = min(times, default=parent.started_ms)
            if parent.state == TaskState.SUCCEEDED.label:
                parent.output = [child.output for child in children]

    def _output(self, plan: Plan, row: RunRow, view: RunView, expansions: Sequence[Expansion]) -> Any:
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

    # -- commands

    async def cancel(self, run: str, reason: str = "cancelled") -> None:
        """Ends the run: what waits is cancelled, what runs is stopped. Recorded before it is applied."""
        await self._command(run, "cancel", reason)

    async def pause(self, run: str, reason: str = "") -> None:
        """Starts nothing more of the run until `resume`."""
        await self._command(run, "pause", reason)

    async def resume(self, run: str, reason: str = "") -> None:
        await self._command(run, "resume", reason)

    async def retry(self, run: str, reason: str = "") -> None:
        """Takes up an ended run: what did not succeed, and all that comes after it. Raises WrongStateError before its end."""
        state = RunState((await self._record.run(run)).state)
        if not state.ended:
            raise WrongStateError(f"run {run} is {state.label}; only a run that has ended can be retried")
        await self._command(run, "retry", reason)

    async def _command(self, run: str, verb: str, reason: str) -> None:
        await self._load.apply(await self._record.command(run, verb, reason.encode(), self._clock.now_ms()))


def _row(run: NewRun) -> RunRow:
    """What the record has just stored for it."""
    return RunRow(
        id=run.id,
        engine=run.engine,
        workflow=run.workflow,
        digest=run.digest,
        inputs=run.inputs,
        namespace=run.namespace,
        priority=run.priority,
        labels=dict(run.labels),
        timeout_ms=run.timeout_ms,
        state=RunState.QUEUED,
        reason="",
        paused=False,
        loaded=0,
        command=0,
        accepted_ms=run.accepted_ms,
        started_ms=None,
        finished_ms=None,
        task_count=0,
    )


def _names(plan: Plan, expansions: Sequence[Expansion]) -> list[tuple[int, str]]:
    """Every task of the run, a map's children right after it."""
    children = {expansion.parent: expansion for expansion in expansions}
    found: list[tuple[int, str]] = []
    for at, name in enumerate(plan.names):
        found.append((at, name))
        expansion = children.get(at)
        if expansion is not None:
            found += [(expansion.first + child, f"{name}[{child}]") for child in range(expansion.count)]
    return found


def _task_view(at: int, name: str, row: TaskRow | None, output: Any) -> TaskView:
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


def failure_of(view: RunView) -> RunFailedError:
    """The error for a run that did not succeed: its failed tasks with their remote tracebacks."""
    failures = []
    for task in view.tasks:
        if task.state == "failed":
            error = msgspec.convert(task.error, ErrorInfo) if task.error else None
            trouble = f"{error.type}: {error.message}" if error else task.reason or "failed"
            if error is not None and error.traceback:
                trouble += "\n" + error.traceback.rstrip()
            failures.append((task.name, trouble))
    return RunFailedError(view.id, view.state, view.reason, failures)
