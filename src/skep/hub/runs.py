"""Runs: submit, wait, list, look at, cancel, pause, resume, retry."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

import msgspec

from skep.clock import Clock
from skep.errors import RefusedError, SkepError, SpecError, WrongStateError
from skep.flow.plan import Plan, check_inputs, check_unique, compile_plan, unique_key
from skep.hub.feed import Feed
from skep.hub.life import Life
from skep.hub.placement import check_policies
from skep.hub.streams import Streams
from skep.hub.views import Names, summary_of
from skep.ids import new_id
from skep.model.encode import encode
from skep.model.node import Progress
from skep.model.run import RunView
from skep.model.spec import WorkflowSpec
from skep.model.state import RunState, TaskState
from skep.model.views import Bulk, RunList, RunSummary, TaskList
from skep.record.protocol import Accepted, NewRun, Record, RunFilter, RunRow
from skep.upkeep.catalog import Catalog, compiled
from skep.upkeep.load import LoadLoop

MAX_INPUTS: Final = 8 * 1024 * 1024
"""Bytes of JSON that a run's inputs may have."""
PAGE: Final = 1_000
"""Runs read at once."""
PLANS: Final = 64
PLAN_TASKS: Final = 200_000
"""Workflows that are known by the object that was handed in, and the tasks of all of them."""
GROUP: Final = 200
"""Commands given at once: they share commits."""
LOOKS: Final = 10
"""The record looks at a few thousand runs at a time; for one page it is asked so often."""
VERBS: Final = {
    "cancel": (RunState.QUEUED, RunState.RUNNING),
    "pause": (RunState.QUEUED, RunState.RUNNING),
    "resume": (RunState.QUEUED, RunState.RUNNING),
    "retry": (RunState.FAILED, RunState.CANCELLED),
}
"""Commands, and the runs that a command to many means."""


class Runs(Streams):
    """The noun of the hub."""

    def __init__(self, record: Record, catalog: Catalog, load: LoadLoop, feed: Feed, clock: Clock, engine_id: str) -> None:
        super().__init__(record, catalog, load, feed)
        self._clock = clock
        self._engine_id = engine_id
        self._plans: dict[int, Plan] = {}
        self.progress_of: Callable[[str], Mapping[int, Progress]] = lambda run: {}
        """How far the running tasks of a run say they are, by index: what the door for nodes keeps."""
        self.own_policies: Callable[[], Collection[str]] = frozenset
        """Names of placement policies beside Skep's."""

    def plan(self, spec: WorkflowSpec) -> Plan:
        """The compiled workflow; the last few are kept. Raises SpecError."""
        kept = self._plans.get(id(spec))
        return kept if kept is not None and kept.spec is spec else self.keep(compile_plan(spec))

    async def planned(self, spec: WorkflowSpec) -> Plan:
        """`plan`, beside other work when the workflow is a large one."""
        kept = self._plans.get(id(spec))
        return kept if kept is not None and kept.spec is spec else self.keep(await compiled(spec))

    def keep(self, plan: Plan) -> Plan:
        """Makes a plan known, so that submitting its workflow does not compile it again. Raises SpecError for policies that
        there are not."""
        check_policies(plan, self.own_policies)
        if len(self._plans) >= PLANS or sum(len(kept.names) for kept in self._plans.values()) > PLAN_TASKS:
            self._plans.clear()
        self._plans[id(plan.spec)] = plan
        self._catalog.keep_plan(plan)
        return plan

    def kept_plan(self, digest: str) -> Plan | None:
        """A workflow that was compiled before, if it is still at hand."""
        return self._catalog.kept_plan(digest)

    async def submit(
        self,
        spec: WorkflowSpec,
        inputs: Mapping[str, Any] | None = None,
        *,
        run_id: str | None = None,
        namespace: str = "",
        priority: int = 0,
        labels: Mapping[str, str] | None = None,
        timeout_ms: int = 0,
        due_ms: int = 0,
        base: str = "",
        schedule: str = "",
        parent: RunRow | None = None,
        parent_task: int = -1,
        idempotency_key: str | None = None,
        unique: str | None = None,
        life: Life | None = None,
    ) -> str:
        """Accepts one run: returns its id once the record has committed it, or that of the one that is there already under its
        `idempotency_key`, or goes on with the same `unique` key (if none is given, the workflow's own). `due_ms`: it does not
        start before. A child run is never unique, and takes namespace, priority, labels and `base` of its parent where it has
        none of its own. `life`: follows the run from its beginning, for `end`. Raises SpecError, RefusedError.
        """
        plan = await self.planned(spec)
        checked, data = self._inputs(spec, inputs or {})
        run = self._new(plan, data, run_id, priority, labels, timeout_ms, idempotency_key)
        namespace = namespace or run.namespace
        run = msgspec.structs.replace(run, namespace=namespace, due_ms=due_ms, base=base, schedule=schedule)
        if parent is None and (unique is not None or plan.unique is not None):
            key = unique_key(plan, namespace, checked) if unique is None else check_unique(unique)
            run = msgspec.structs.replace(run, unique=key)
        if parent is not None:
            run = msgspec.structs.replace(
                run,
                namespace=parent.namespace,
                priority=run.priority or parent.priority,
                labels={**parent.labels, **run.labels},
                base=base or parent.base,
                parent=(parent.id, parent_task),
                depth=parent.depth + 1,
            )
        (accepted,) = await self._accept([run], life)
        return accepted

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
        plan = await self.planned(spec)
        encoded = [self._inputs(spec, given) for given in inputs]
        new = [
            self._new(plan, data, run_ids[at] if run_ids else None, priority, labels, timeout_ms, keys[at] if keys else None)
            for at, (_, data) in enumerate(encoded)
        ]
        if plan.unique is not None:
            own = [unique_key(plan, spec.namespace, checked) for checked, _ in encoded]
            new = [msgspec.structs.replace(run, unique=key) for run, key in zip(new, own, strict=True)]
        return await self._accept(new)

    def _new(
        self,
        plan: Plan,
        inputs: bytes,
        run_id: str | None,
        priority: int,
        labels: Mapping[str, str] | None,
        timeout_ms: int,
        key: str | None,
    ) -> NewRun:
        spec, now_ms = plan.spec, self._clock.now_ms()
        return NewRun(
            id=run_id or new_id(now_ms),
            engine=self._engine_id,
            workflow=spec.name,
            definition=plan.encoded,
            digest=plan.digest,
            inputs=inputs,
            namespace=spec.namespace,
            priority=priority or spec.priority,
            labels={**(spec.labels or {}), **(labels or {})},
            timeout_ms=timeout_ms or spec.timeout_ms,
            idempotency_key=key,
            accepted_ms=now_ms,
        )

    async def _accept(self, new: Sequence[NewRun], life: Life | None = None) -> list[str]:
        """Those that the record had already, since they were sent again, are in the engine or have ended."""
        answers = await self._record.accept(new)
        accepted: list[Accepted] = []
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
            accepted.append(answer)
        rows = [_row(run) for run, known in zip(new, accepted, strict=True) if known.new]
        if life is not None and rows:
            life.begin(rows[0])
            self._feed.follow(rows[0].id, life)
        self._load.offer(rows)
        return [known.id for known in accepted]

    def _inputs(self, spec: WorkflowSpec, given: Mapping[str, Any]) -> tuple[dict[str, Any], bytes]:
        """All inputs of the run, as they are and encoded."""
        try:
            inputs = check_inputs(spec, dict(given))
            data = encode(inputs)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            if isinstance(error, SpecError):
                raise
            raise SpecError.at("inputs", f"must be JSON: {error}") from None
        if len(data) > MAX_INPUTS:
            raise SpecError.at("inputs", f"have {len(data):,} bytes, {MAX_INPUTS:,} are allowed; pass a path or URL instead")
        return inputs, data

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

    async def end(self, run: str, timeout_s: float, life: Life | None = None) -> RunSummary:
        """The run at its end, or as it is after so long. Raises NotFoundError. `life`: what `submit` was given."""
        try:
            await self.wait(run, timeout_s)
        except TimeoutError:
            return await self.summary(run)
        finally:
            if life is not None:
                self._feed.leave(run)
        row = life.ended() if life is not None else None
        return await (self.summary(run) if row is None else self._views.summary_of(row))

    async def output(self, run: str) -> Any:
        """What the ended run gave back. Raises RunFailedError when it did not succeed."""
        return await self._views.output(run)

    # -- looking

    async def find(self, text: str) -> str:
        """The id of the run that is meant: an id, the unique beginning of one, or `last` for the newest that is no child.

        Raises NotFoundError, RefusedError.
        """
        if text != "last":
            return await self._record.find_run(text)
        cursor = ""
        while True:
            page = await self._record.list_runs(RunFilter(roots=True), limit=1, cursor=cursor)
            cursor = page.cursor
            if page.runs:
                return page.runs[0].id
            if not cursor:
                raise RefusedError("there is no run yet")

    async def view(self, run: str) -> RunView:
        """The whole run as recorded. Raises NotFoundError."""
        return await self._views.whole(run)

    async def summary(self, run: str) -> RunSummary:
        """The run with the counts of its tasks. Raises NotFoundError."""
        return await self._views.summary(run)

    async def list(self, wanted: RunFilter, *, limit: int = 50, cursor: str = "") -> RunList:
        """A page, the newest first. Where a filter fits few, it may be short or empty and still have a cursor."""
        found: list[RunSummary] = []
        for _ in range(LOOKS):
            page = await self._record.list_runs(wanted, limit=limit - len(found), cursor=cursor)
            found += map(summary_of, page.runs)
            cursor = page.cursor
            if not cursor or len(found) >= limit:
                break
        return RunList(found, cursor or None)

    async def tasks(
        self, run: str, *, states: Sequence[str] = (), search: str = "", limit: int = 200, cursor: str = ""
    ) -> TaskList:
        """A page of its tasks, without outputs and history."""
        return await self._views.tasks(run, states=states, search=search, limit=limit, cursor=cursor)

    async def progress(self, run: str) -> dict[str, Progress]:
        """What running tasks say of themselves, by name."""
        found = self.progress_of(run)
        if not found:
            return {}
        plan = await self._catalog.plan((await self._record.run(run)).digest)
        names = Names(plan, await self._record.expansions(run))
        return {names[task]: progress for task, progress in found.items() if task < names.count}

    async def definition(self, run: str) -> bytes:
        """The canonical JSON of its workflow. Raises NotFoundError."""
        return await self._record.definition((await self._record.run(run)).digest)

    # -- commands

    async def cancel(self, run: str, reason: str = "cancelled") -> None:
        """Ends the run: what waits is cancelled, what runs is stopped. Recorded before it is applied."""
        if await self._unfinished(run, RunState.CANCELLED):
            await self._command(run, "cancel", reason.encode())

    async def pause(self, run: str, reason: str = "") -> None:
        """Starts nothing more of the run until `resume`."""
        await self._unfinished(run)
        await self._command(run, "pause", reason.encode())

    async def resume(self, run: str, reason: str = "") -> None:
        """Goes on with a run after `pause`."""
        await self._unfinished(run)
        await self._command(run, "resume", reason.encode())

    async def _unfinished(self, run: str, wanted: RunState | None = None) -> bool:
        """False when it has ended as wanted already. Raises NotFoundError, WrongStateError when it has ended otherwise."""
        if run in self._load.live:
            return True
        state = RunState((await self._record.run(run)).state)
        if state.ended and state is not wanted:
            raise WrongStateError(f"run {run} has ended already: {state.label}")
        return not state.ended

    async def retry(self, run: str, tasks: Sequence[str] = (), reason: str = "") -> None:
        """Takes up an ended run: what did not succeed, or these tasks, and all that comes after it. Raises WrongStateError
        before its end, and when there is nothing to do again."""
        row = await self._record.run(run)
        state = RunState(row.state)
        if not state.ended:
            raise WrongStateError(f"run {run} is {state.label}; only a run that has ended can be retried")
        if state is RunState.SUCCEEDED and not tasks:
            raise WrongStateError(f"nothing of run {run} failed; name the tasks from which on it shall run again")
        plan = await self._catalog.plan(row.digest)
        if not tasks and await self._is_done(run, len(plan.names)):
            raise WrongStateError(f"nothing of run {run} is left to do; name the tasks from which on it shall run again")
        if row.reason == "abandoned" and row.engine != self._engine_id:
            raise WrongStateError(f"run {run} was one of `skep run`, whose process has ended; submit its workflow again")
        indexes = [await self._whole_task(run, plan, name) for name in tasks]
        await self._command(run, "retry", msgspec.json.encode({"reason": reason, "tasks": indexes}), row.command)

    async def _is_done(self, run: str, size: int) -> bool:
        """Whether all its `size` tasks, without children of maps, succeeded or were skipped as they should be: what ran when
        it was cancelled may have succeeded all the same. Asked before a retry is recorded, since that makes the run queued."""
        known = (await self._record.restore([run])).get(run)
        return known is not None and all(
            task.state == TaskState.SUCCEEDED or task.met for task in known.tasks if task.task < size
        )

    async def _whole_task(self, run: str, plan: Plan, name: str) -> int:
        at = await self._views.find(run, name)
        if at >= len(plan.names):
            parent = name.rpartition("[")[0]
            raise RefusedError(f"{name} is a child of a map: retry from {parent}, which does all of them again")
        return at

    async def _command(self, run: str, verb: str, data: bytes, after: int | None = None) -> None:
        await self._load.apply(await self._record.command(run, verb, data, self._clock.now_ms(), after))

    async def bulk(self, verb: str, wanted: RunFilter, *, reason: str = "", limit: int = 10_000) -> Bulk:
        """A command to all runs of a filter that it can be meant for, up to `limit`. A `retry` is not meant for children: that
        of their parents begins them anew."""
        wanted = msgspec.structs.replace(wanted, roots=wanted.roots or (verb == "retry" and not wanted.parent))
        states = tuple(state for state in VERBS[verb] if not wanted.states or state in wanted.states)
        told = Bulk([], {})
        runs = await self._ids(msgspec.structs.replace(wanted, states=tuple(map(int, states))), limit) if states else ()

        async def command(run: str) -> None:
            try:
                await getattr(self, verb)(run, **({"reason": reason} if reason else {}))
                told.done.append(run)
            except SkepError as error:
                told.refused[run] = str(error)

        for first in range(0, len(runs), GROUP):
            await asyncio.gather(*map(command, runs[first : first + GROUP]))
        return told

    async def _ids(self, wanted: RunFilter, limit: int) -> Sequence[str]:
        """All of them first: what a command does would move the pages."""
        ids: list[str] = []
        cursor = ""
        while len(ids) < limit:
            page = await self._record.list_runs(wanted, limit=min(limit - len(ids), PAGE), cursor=cursor)
            ids += [row.id for row in page.runs]
            cursor = page.cursor
            if not cursor:
                break
        return ids


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
        due_ms=run.due_ms,
        parent=run.parent,
        depth=run.depth,
        schedule=run.schedule,
        base=run.base,
    )
