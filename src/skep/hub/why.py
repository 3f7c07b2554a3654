"""Why: gathers what is known of a task, a run or the queue, and says what holds it. Changes nothing."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from skep.engine.protocol import Engine, Line, LiveTask, ReadyClass
from skep.errors import NotFoundError
from skep.hub.because import Choice, Facts, Server, line_view, over, unloaded, verdict
from skep.hub.placed import Placed
from skep.hub.roots import Graph
from skep.hub.standing import Verdict
from skep.hub.tasks import Tasks
from skep.hub.views import Names
from skep.model.node import LiveNode, Requirement
from skep.model.run import RestoredTask
from skep.model.state import RunState, TaskState
from skep.model.wait import WaitView
from skep.model.why import ORDER, CauseGroup, QueueCause, QueueWhy, RunWhy, TaskRef, TaskWhy
from skep.record.protocol import Record, RunRow
from skep.router.fit import eligible
from skep.upkeep.catalog import Catalog, RunContext
from skep.upkeep.load import LoadLoop
from skep.upkeep.place import BACKLOG, PlaceLoop, requirement_of

T = TypeVar("T")

LOOKED_AT: Final = 200
"""Tasks of a run that are looked at one by one."""
NAMED: Final = 5
"""Tasks that a group names."""
CHAIN: Final = 50
"""Tasks of a chain that are told."""
QUEUE: Final = 500
"""Ready tasks of a class that are looked at."""
LARGE: Final = 2_000
"""Tasks of a run that is gone through in a thread: nodes and other clients are answered meanwhile."""
_COMMAND: Final = re.compile(r"(`skep [a-z]+ )RUN\b")


@dataclass(slots=True)
class _Run:
    """A run, as it is looked at."""

    row: RunRow
    context: RunContext
    names: Names
    graph: Graph
    server: Server
    live: bool
    """Whether the engine has it."""


class Why:
    """The noun of the hub."""

    def __init__(
        self, engine: Engine, record: Record, catalog: Catalog, load: LoadLoop, place: PlaceLoop, tasks: Tasks
    ) -> None:
        self._engine = engine
        self._record = record
        self._catalog = catalog
        self._load = load
        self._place = place
        self._tasks = tasks
        self._placed = Placed(record, place)

    # -- a task

    async def task(self, run: str, name: str) -> TaskWhy:
        """What holds one task, and what ends it; how it came to its node. Raises NotFoundError."""
        look = await self._run(run)
        at = look.names.index(name)
        if at is None:
            await self._tasks.check(run, name)
            raise NotFoundError(f"run {run} has no task '{name}'")
        paths = await _aside(look.names.count, lambda: look.graph.paths(at))
        roots = look.graph.roots_of(at, paths)[:LOOKED_AT]
        known = await self._facts(look, [at, *roots])
        facts = known[at]
        said = verdict(facts)
        chain: list[TaskRef] = []
        if roots and said.because in ("needs", "children", "window"):
            verdicts = {root: verdict(known[root]) for root in roots}
            root = min(roots, key=lambda one: ORDER[verdicts[one].because])
            chain = _chain(look, at, root, paths, verdicts[root])
            said = _followed(said, chain, verdicts[root])
        answer = TaskWhy(
            run=run,
            workflow=look.row.workflow,
            task=name,
            state=facts.state.label,
            because=said.because,
            text=said.text,
            unblock=_named(said.unblock, run),
            until_ms=said.until_ms or None,
            since_ms=await self._since(look, at, facts),
            chain=chain if len(chain) <= CHAIN else [*chain[: CHAIN - 1], chain[-1]],
            line=line_view(facts.line, facts.names) if facts.line is not None else None,
        )
        if facts.state is TaskState.READY and facts.wish is not None and facts.live:
            answer.candidates = self._placed.candidates(look.context, look.graph.base(at), facts)
        elif facts.row is not None and facts.row.node:
            answer.placement = await self._placed.placement(run, at, facts.row)
        return answer

    async def _since(self, look: _Run, task: int, facts: Facts) -> int | None:
        """Since when it stands so, as far as is known."""
        row = facts.row
        if facts.state.ended:
            return row.finished_ms if row is not None else look.row.finished_ms
        if facts.state is TaskState.RUNNING:
            return row.started_ms if row is not None else None
        if facts.wait is not None:
            return facts.wait.since_ms or None
        if facts.state is TaskState.READY and facts.live:
            needs = look.context.plan.needs[look.graph.base(task)][:LOOKED_AT]
            rows = await self._record.list_tasks(look.row.id, indexes=needs, limit=LOOKED_AT) if needs else []
            return max([look.row.started_ms or look.row.accepted_ms, *(row.finished_ms or 0 for row in rows)])
        return look.row.started_ms or look.row.accepted_ms

    # -- a run

    async def run(self, run: str) -> RunWhy:
        """What holds the tasks of a run, grouped; of one that has ended, how it came to that. Raises NotFoundError."""
        look = await self._run(run)
        row = look.row
        state = RunState(row.state)
        answer = RunWhy(run=run, workflow=row.workflow, state=state.label, because="", text="")
        if state.ended:
            return await self._ended(look, answer)
        if not look.live:
            said = unloaded(row, look.server, not self._load.refuses(run))
            return _fill(answer, said, row.accepted_ms)
        roots, answer.waiting = await _aside(look.names.count, look.graph.roots)
        known = await self._facts(look, roots[:LOOKED_AT])
        answer.unseen = max(len(roots) - LOOKED_AT, 0)
        answer.causes = await self._groups(look, {at: verdict(facts) for at, facts in known.items()})
        if not answer.causes:
            return _fill(answer, Verdict("placing", "it moves within a moment", "wait a moment"), row.started_ms)
        first = answer.causes[0]
        said = Verdict(first.because, _summary(first), first.unblock, first.until_ms or 0)
        return _fill(answer, said, row.started_ms or row.accepted_ms)

    async def _groups(self, look: _Run, verdicts: Mapping[int, Verdict]) -> list[CauseGroup]:
        groups: dict[tuple[str, str], list[int]] = {}
        said: dict[tuple[str, str], Verdict] = {}
        for at, one in verdicts.items():
            if one.because not in ("succeeded", "when"):
                groups.setdefault((one.because, one.text), []).append(at)
                said.setdefault((one.because, one.text), one)
        found = []
        for key, tasks in groups.items():
            one = said[key]
            until_ms = min((verdicts[at].until_ms for at in tasks if verdicts[at].until_ms), default=None)
            behind = look.graph.behind(tasks) if len(look.graph.states) <= LARGE else None
            found.append(
                CauseGroup(
                    because=one.because,
                    text=one.text,
                    unblock=_named(one.unblock, look.row.id),
                    count=len(tasks),
                    tasks=[look.names[at] for at in tasks[:NAMED]],
                    behind=behind,
                    until_ms=until_ms,
                )
            )
        return sorted(found, key=lambda group: (ORDER[group.because], -(group.behind or 0), -group.count))

    async def _ended(self, look: _Run, answer: RunWhy) -> RunWhy:
        row = look.row
        wrong = (TaskState.FAILED,) if row.state != RunState.CANCELLED else (TaskState.CANCELLED,)
        rows = await self._record.list_tasks(row.id, states=[int(state) for state in wrong], limit=LOOKED_AT)
        answer.causes = await self._groups(look, {one.index: over(one.state, one.reason, one.error) for one in rows})
        word = RunState(row.state).label
        because = row.reason if row.reason in ("timeout", "abandoned") else word
        text = f"it has {word}" if row.state != RunState.CANCELLED else f"it was cancelled: {row.reason or 'nobody said why'}"
        if row.state == RunState.FAILED:
            text = {"timeout": "its time was over", "abandoned": "the process that ran it has ended"}.get(row.reason, text)
            text += f": {_summary(answer.causes[0])}" if answer.causes and because == "failed" else ""
        unblock = f"`skep retry {row.id}`" if row.state != RunState.SUCCEEDED else ""
        return _fill(answer, Verdict(because, text, unblock), row.finished_ms)

    # -- the queue

    async def queue(self, namespace: str = "") -> QueueWhy:
        """What holds the ready tasks of all runs, by namespace and what they want of a node."""
        nodes, classes = await self._engine.survey(QUEUE)
        server = await self._server(nodes)
        live = await self._engine.stats()
        causes: list[QueueCause] = []
        for group in classes:
            if namespace and group.namespace != namespace:
                continue
            first, wanted = group.tasks[0], requirement_of(group.name)
            run = await self._catalog.run(first.run)
            if run is None:
                continue  # it was deleted while we asked
            facts = Facts(server, await self._record.run(first.run), TaskState.READY, wish=None if wanted.parks else wanted)
            base = first.task if first.parent < 0 else first.parent
            choice = replace(self._placed.choice(run, base, facts), turn=self._turn(group, classes, nodes))
            said = verdict(replace(facts, choice=choice))
            causes.append(
                QueueCause(
                    namespace=group.namespace,
                    executor=wanted.executor,
                    requires=list(wanted.requires),
                    because=said.because,
                    text=said.text,
                    unblock=said.unblock,
                    count=len(group.tasks),
                    oldest=TaskRef(await self._name(run, first.task), "ready", said.because, first.run),
                )
            )
        causes.sort(key=lambda cause: (ORDER[cause.because], -cause.count))
        ready = live.states[TaskState.READY]
        aside = max(ready - sum(len(group.tasks) for group in classes), 0)
        return QueueWhy(text=_queue_text(ready, causes), ready=ready, causes=causes, aside=aside)

    async def _name(self, run: RunContext, task: int) -> str:
        if task < len(run.plan.names):
            return run.plan.names[task]
        return Names(run.plan, await self._record.expansions(run.id))[task]

    async def _ready(self) -> dict[tuple[str, str], ReadyClass]:
        """The first ready tasks, by namespace and class."""
        return {(group.namespace, group.name): group for group in await self._engine.ready(QUEUE)}

    # -- what is known

    async def _run(self, run: str) -> _Run:
        row = await self._record.run(run)
        context = await self._catalog.run(run)
        if context is None:
            raise NotFoundError(f"there is no run {run}")
        plan = context.plan
        expansions = await self._record.expansions(run)
        known = (await self._record.restore([run])).get(run)
        tasks: Sequence[RestoredTask] = known.tasks if known is not None else ()
        names = Names(plan, expansions)
        graph = await _aside(names.count, lambda: Graph(plan, expansions, tasks, names.count))
        live = not RunState(row.state).ended and await self._is_live(run)
        return _Run(row, context, names, graph, await self._server(await self._engine.nodes()), live)

    async def _is_live(self, run: str) -> bool:
        try:
            await self._engine.tasks(run, [])
        except NotFoundError:
            return False
        return True

    async def _server(self, nodes: Sequence[LiveNode]) -> Server:
        place = self._place
        return Server(
            now_ms=self._engine.now_ms,
            nodes=nodes,
            paused=frozenset(place.paused),
            rejoins=place.waits,
            crowded=place.crowded,
            behind=await self._engine.backlog() > BACKLOG,
            full=self._load.full,
        )

    async def _facts(self, look: _Run, tasks: Sequence[int]) -> dict[int, Facts]:
        """Of some tasks, in few questions."""
        run = look.row.id
        rows = {row.index: row for row in await self._record.list_tasks(run, indexes=tasks, limit=len(tasks))}
        live: dict[int, LiveTask] = {}
        lines: dict[int, Line] = {}
        if look.live:
            try:
                live = {task.task: task for task in await self._engine.tasks(run, tasks)}
                lines = {line.task: line for line in await self._engine.lines(run, tasks)}
            except NotFoundError:
                look.live = False  # it has just ended
        for now in live.values():
            look.graph.states[now.task] = now.state
        parked = any(look.graph.states[task] == TaskState.PARKED for task in tasks)
        waits = {wait.index: wait for wait in await self._tasks.waits(run=run)} if parked else {}
        children = await self._children(waits.values())
        names = await self._holders(look, lines.values())
        ready = await self._ready() if any(now.state == TaskState.READY for now in live.values()) else {}
        found: dict[int, Facts] = {}
        for task in tasks:
            facts = Facts(
                server=look.server,
                run=look.row,
                state=TaskState(look.graph.states[task]),
                live=look.live,
                usable=not self._load.refuses(run),
                row=rows.get(task),
                wish=self._wish(look, task),
                line=lines.get(task),
                wait=waits.get(task),
                child=children.get(task, ""),
                names=names,
            )
            if facts.live and facts.state is TaskState.READY:
                facts = replace(facts, choice=self._choice(look, task, facts, ready))
            elif facts.state in (TaskState.WAITING, TaskState.PARKED):
                facts = self._with_needs(look, task, facts)
            elif facts.state is TaskState.DELAYED:
                facts = replace(facts, snoozed=await self._snoozed(run, task))
            found[task] = facts
        return found

    def _wish(self, look: _Run, task: int) -> Requirement | None:
        plan = look.context.plan.tasks[look.graph.base(task)]
        return None if plan.parks else plan.wanted

    def _with_needs(self, look: _Run, task: int, facts: Facts) -> Facts:
        waits_for = look.graph.waits_for(task)
        if facts.state is TaskState.PARKED:
            return replace(
                facts, children=sum(look.graph.states[child] < TaskState.SUCCEEDED for child in look.graph.children(task))
            )
        if task >= look.graph.size:
            return replace(facts, siblings=len(waits_for))
        return replace(facts, needs=[look.names[need] for need in waits_for])

    def _choice(self, look: _Run, task: int, facts: Facts, ready: Mapping[tuple[str, str], ReadyClass]) -> Choice:
        shape = look.context.plan.shape
        name = shape.class_names[shape.classes[look.graph.base(task)]]
        said = self._placed.choice(look.context, look.graph.base(task), facts)
        here, group = (look.row.id, task), ready.get((look.row.namespace, name))
        places = [(seen.run, seen.task) for seen in group.tasks] if group is not None else []
        turn = self._turn(group, ready.values(), facts.server.nodes) if group is not None else ""
        return replace(said, behind=places.index(here) if here in places else len(places), turn=turn)

    def _turn(self, group: ReadyClass, ready: Iterable[ReadyClass], nodes: Sequence[LiveNode]) -> str:
        """Another namespace that holds less for its weight, and has tasks that wait for the same nodes."""
        weight, wanted = self._place.fair.weight, requirement_of(group.name)
        able = [node.info for node in nodes if eligible(wanted, node.info)]
        least, found = group.running / weight(group.namespace), ""
        for other in ready:
            share = other.running / weight(other.namespace)
            fits = other.namespace != group.namespace and share < least
            if fits and any(eligible(requirement_of(other.name), info) for info in able):
                least, found = share, other.namespace
        return found

    async def _snoozed(self, run: str, task: int) -> bool:
        history = (await self._record.attempts(run, task)).get(task, [])
        return bool(history) and history[-1].state == "snoozed"

    async def _children(self, waits: Iterable[WaitView]) -> dict[int, str]:
        """Task to the state of the child run that it waits for."""
        found = {}
        for wait in waits:
            if wait.child:
                try:
                    found[wait.index] = RunState((await self._record.run(wait.child)).state).label
                except NotFoundError:
                    continue  # it is to be started
        return found

    async def _holders(self, look: _Run, lines: Iterable[Line]) -> dict[tuple[str, int], str]:
        """Names of the tasks that hold claims."""
        found: dict[tuple[str, int], str] = {}
        for holder in [holder for line in lines for holder in line.holders if holder.run]:
            place = holder.run, holder.task
            if place not in found:
                run = look.context if holder.run == look.row.id else await self._catalog.run(holder.run)
                if run is not None:
                    found[place] = await self._name(run, holder.task)
        return found


def _chain(look: _Run, task: int, root: int, paths: Mapping[int, int], said: Verdict) -> list[TaskRef]:
    """From what the task waits for to the root of it."""
    way = [root]
    while paths[way[-1]] != task:
        way.append(paths[way[-1]])
    way.reverse()
    found = [TaskRef(look.names[at], TaskState(look.graph.states[at]).label) for at in way]
    found[-1].because = said.because
    return found


def _named(unblock: str, run: str) -> str:
    """With the run in its commands."""
    return _COMMAND.sub(rf"\g<1>{run}", unblock)


def _followed(said: Verdict, chain: Sequence[TaskRef], root: Verdict) -> Verdict:
    """What a task waits for, told to the root."""
    way = ", which waits for ".join(ref.task for ref in chain[:3])
    if len(chain) > 3:
        way = f"{chain[0].task}, which waits for {len(chain) - 2:,} more in a row and at last for {chain[-1].task}"
    text = f"it needs {way}: {root.text}" if said.because == "needs" else f"{said.text}; {way}: {root.text}"
    return Verdict(said.because, text, root.unblock, root.until_ms)


def _summary(group: CauseGroup) -> str:
    """A group in a sentence."""
    named = ", ".join(group.tasks[:3]) + (f" and {group.count - 3:,} more" if group.count > 3 else "")
    return f"{named}: {group.text}"


def _fill(answer: RunWhy, said: Verdict, since_ms: int | None) -> RunWhy:
    answer.because, answer.text = said.because, said.text
    answer.unblock = _named(said.unblock, answer.run)
    answer.until_ms, answer.since_ms = said.until_ms or None, since_ms
    return answer


def _queue_text(ready: int, causes: Sequence[QueueCause]) -> str:
    if not ready:
        return "nothing waits to be started"
    return f"{ready:,} ready {'task' if ready == 1 else 'tasks'}" + (f"; most urgent: {causes[0].text}" if causes else "")


async def _aside(tasks: int, work: Callable[[], T]) -> T:
    """Of a large run, in a thread."""
    return await asyncio.to_thread(work) if tasks > LARGE else work()
