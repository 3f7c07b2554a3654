"""Graphs to run, the history that events tell, and a driver that speaks to one engine."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol

from skep.engine.protocol import (
    OK,
    Adopt,
    Answer,
    Done,
    Engine,
    Expand,
    Failure,
    Load,
    Park,
    Register,
    RunCommand,
    Settle,
    Start,
)
from skep.model.event import Event
from skep.model.node import NodeInfo
from skep.model.run import Claim, Policy, Rate, ReadyTask, Shape, Token
from skep.model.state import MOVES, TaskState

MINUTE_MS = 60_000
PRIORITY_MS = 10 * MINUTE_MS
"""What one step of priority is worth in waiting time."""


def shape(
    edges: Iterable[tuple[int, int]] = (),
    size: int = 1,
    *,
    order_ms: Mapping[int, int] = {},
    classes: Mapping[int, int] = {},
    class_names: Iterable[str] = ("cpu",),
    policies: Mapping[int, int] = {},
    windows: Mapping[int, int] = {},
    deadlines_ms: Mapping[int, int] = {},
) -> Shape:
    """A graph of `size` tasks in which `(a, b)` says that `b` needs `a`; options are by task, the rest has the defaults."""
    successors: list[list[int]] = [[] for _ in range(size)]
    pending = [0] * size
    for first, then in edges:
        successors[first].append(then)
        pending[then] += 1

    def column(given: Mapping[int, int], default: int = 0) -> tuple[int, ...]:
        return tuple(given.get(task, default) for task in range(size))

    return Shape(
        pending=tuple(pending),
        successors=tuple(map(tuple, successors)),
        order_ms=column(order_ms, 5 * PRIORITY_MS),
        classes=column(classes),
        class_names=tuple(class_names),
        policies=column(policies, Policy.FAIL),
        windows=column(windows),
        deadlines_ms=column(deadlines_ms),
        roots=tuple(task for task in range(size) if not pending[task]),
    )


def chain(size: int, **options: Any) -> Shape:
    """Each task needs the one before it."""
    return shape([(task, task + 1) for task in range(size - 1)], size, **options)


def fan(size: int, **options: Any) -> Shape:
    """`size` tasks that all need task 0."""
    return shape([(0, task) for task in range(1, size + 1)], size + 1, **options)


LEGAL = frozenset((move.event, move.source, move.target) for move in MOVES)
TARGETS = {move.event: move.target for move in MOVES if move.event not in ("retrying", "returned")}


class Lease(NamedTuple):
    token: Token
    node: str
    attempt: int


class RunHistory:
    """One run, as its events tell it."""

    def __init__(self, graph: Shape | None) -> None:
        self.graph = graph
        self.needs: list[list[int]] = [[] for _ in range(graph.size)] if graph else []
        for first, then in ((a, b) for a in range(len(self.needs)) for b in graph.successors[a]) if graph else ():
            self.needs[then].append(first)
        self.states: list[TaskState] = []
        self.attempts: list[int] = []
        self.due_ms: dict[int, int] = {}
        self.reasons: dict[int, str] = {}
        """Why a task came to its state, as its last event says."""
        self.data: dict[int, bytes] = {}
        """What a parked task waits for."""
        self.leases: dict[int, Lease] = {}
        self.children: dict[int, range] = {}
        self.paused = False
        self.cancelling = False
        self.end: tuple[int, str] | None = None
        """State and reason, once it has ended."""
        self.known = False
        """Whether an earlier engine had it, and this one has not loaded it yet."""

    def left(self, now_ms: int) -> None:
        """Its engine is gone: what was ready, running or due has to be let out again."""
        for task, state in enumerate(self.states):
            due = state == TaskState.DELAYED and self.due_ms[task] <= now_ms
            if due or state in (TaskState.READY, TaskState.RUNNING):
                self.states[task] = TaskState.WAITING
        self.leases.clear()
        self.known = True

    def grow(self, size: int) -> None:
        missing = size - len(self.states)
        self.states += [TaskState.WAITING] * missing
        self.attempts += [0] * missing

    def may_start(self, task: int) -> bool:
        """Whether all that a task needs has ended; for a map child, whether its parent's window has room."""
        if task < len(self.needs):
            return all(self.states[other].ended for other in self.needs[task])
        parent, siblings = next((item for item in self.children.items() if task in item[1]), (0, range(0)))
        window = self.graph.windows[parent] if self.graph else 0
        begun = sum(not self.states[child].ended and self.states[child] != TaskState.WAITING for child in siblings)
        return not window or begun < window

    def met(self, task: int) -> bool:
        """Whether a task ended in a way that lets those who need it go on."""
        match self.states[task]:
            case TaskState.SUCCEEDED:
                return True
            case TaskState.SKIPPED:
                return self.reasons.get(task) == "when"
            case TaskState.FAILED:
                return self.graph is not None and self.graph.policies[task] == Policy.CONTINUE
        return False


class History:
    """Folds events and raises AssertionError at the first that breaks a rule: a gap, a move that is not in `MOVES`, a task
    made ready before what it needs has ended, an outcome of a lease that is not held, an end while a task has none."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.events: list[Event] = []
        self.graphs: dict[str, Shape] = {}
        self.runs: dict[str, RunHistory] = {}
        self.nodes: set[str] = set()
        self.token = Token(0, 0)
        self._before: dict[str, RunHistory] = {}
        """Runs as they were when this engine was opened."""

    def reopened(self, epoch: int, count: int, now_ms: int) -> History:
        """The history of the next engine, when the record has the first `count` events of this one."""
        told = History(self.epoch)
        told.graphs = self.graphs
        told.runs = copy.deepcopy(self._before)
        for event in self.events[:count]:
            told.fold(event)
        after = History(epoch)
        after.graphs, after.runs = self.graphs, told.runs
        for run in after.runs.values():
            run.left(now_ms)
        after._before = copy.deepcopy(after.runs)
        return after

    def fold(self, event: Event) -> None:
        assert event.n == len(self.events) + 1, f"expected event {len(self.events) + 1}, found {event}"
        assert not self.events or event.at_ms >= self.events[-1].at_ms, f"time went back at {event}"
        self.events.append(event)
        match event.kind:
            case "registered":
                self.nodes.add(event.node)
            case "retired" | "lost":
                self.nodes.discard(event.node)
            case "draining":
                pass
            case "loaded":
                run = self.runs.setdefault(event.run, RunHistory(self.graphs.get(event.run)))
                run.grow(event.count if run.known else len(run.states) + event.count)
                assert len(run.states) == event.count, f"loaded with another size: {event}"
                run.known = False
            case _:
                self._fold_run(event, self.runs[event.run])

    def _fold_run(self, event: Event, run: RunHistory) -> None:
        match event.kind:
            case "paused" | "resumed":
                run.paused = event.kind == "paused"
            case "cancelling":
                run.cancelling = True
            case "ended":
                assert all(state.ended for state in run.states), f"{event} while {run.states}"
                assert run.end is None or run.known, f"ended twice: {event}"  # it was brought back for a retry that was refused
                run.end, run.known = (event.state, event.reason), False
            case _:
                for task in event.tasks or (event.task,):
                    self._fold_task(event, run, task)

    def _fold_task(self, event: Event, run: RunHistory, task: int) -> None:
        source = run.states[task]
        target = TARGETS.get(event.kind) or (TaskState.DELAYED if event.due_ms else TaskState.READY)
        if event.kind == "reset":
            target, run.end, run.cancelling, run.known = TaskState.WAITING, None, False, False
        assert (event.kind, source, target) in LEGAL, f"{source.label} -> {target.label} by {event}"
        assert run.end is None, f"after the end: {event}"
        if event.kind == "ready" and source == TaskState.WAITING:
            assert run.may_start(task), f"too early: {event}"
        if source == TaskState.RUNNING:
            lease = run.leases.pop(task)
            assert not event.token or (event.token, event.token_epoch) == (lease.token.n, lease.token.epoch), event
        if event.kind == "parked" and event.first < 0:
            assert event.attempt == run.attempts[task] + (not event.token), f"parking is an attempt: {event}"
            run.attempts[task] = event.attempt
            run.data[task] = event.data
        if source == TaskState.PARKED and task not in run.children and event.kind not in ("ready", "skipped"):
            assert event.attempt == run.attempts[task], f"an attempt ended: {event}"
        if event.kind == "granted":
            token = Token(event.token_epoch or self.epoch, event.token or event.n)
            assert token > self.token, f"tokens grow: {event}"
            assert event.attempt == run.attempts[task] + 1, f"attempts count by one: {event}"
            self.token, run.attempts[task] = token, event.attempt
            run.leases[task] = Lease(token, event.node, event.attempt)
        if event.kind == "adopted":
            # The task may have begun anew under a number of which the record did not know.
            assert event.attempt in (run.attempts[task], run.attempts[task] + 1), event
            self.token, run.attempts[task] = Token(self.epoch, event.n), event.attempt
            run.leases[task] = Lease(self.token, event.node, event.attempt)
        if event.count:
            run.children[task] = range(event.first, event.first + event.count)
            run.grow(event.first + event.count)
        run.states[task], run.reasons[task], run.due_ms[task] = target, event.reason, event.due_ms


class MovableClock(Protocol):
    """The time of the engine under test, in the test's hand."""

    def now_ms(self) -> int: ...
    def advance(self, ms: int) -> None: ...


class Driver:
    """Speaks to one engine in few words and folds all that happens. `r` is the run and `n` the node unless others are named."""

    def __init__(self, engine: Engine, clock: MovableClock) -> None:
        self.engine = engine
        self.clock = clock
        self.history = History(engine.epoch)

    async def read(self) -> list[Event]:
        """The events since the last call, folded."""
        before = len(self.history.events)
        while fresh := await self.engine.events(len(self.history.events), 1_000):
            for event in fresh:
                self.history.fold(event)
        return self.history.events[before:]

    async def tell(self, verb: str, item: object) -> Answer:
        """One item of a verb, always said twice: the repeat must get the first answer and add no event."""
        call = getattr(self.engine, verb)
        (answer,) = await call([item])
        await self.read()
        (again,) = await call([item])
        assert again == answer, f"{verb}: first {answer}, repeated {again}"
        assert not await self.read(), f"{verb}: a repeat added {self.history.events[-1]}"
        result: Answer = answer
        return result

    async def last(self, kind: str) -> Event:
        """The last event of a kind."""
        await self.read()
        return next(event for event in reversed(self.history.events) if event.kind == kind)

    # runs

    def chunk(self, graph: Shape, run: str = "r", first: int = 0, count: int | None = None, **options: Any) -> Load:
        now_ms = self.clock.now_ms()
        self.history.graphs[run] = graph
        given: dict[str, Any] = {"namespace": "default", "read_ms": now_ms, "accepted_ms": now_ms} | options
        return Load(run=run, shape=graph, first=first, count=graph.size if count is None else count, **given)

    async def submit(self, graph: Shape, run: str = "r", **options: Any) -> None:
        """Loads and opens a run."""
        assert await self.tell("load", self.chunk(graph, run, **options)) == OK
        assert await self.tell("open", run) == OK

    async def command(
        self, verb: str, number: int = 1, run: str = "r", reason: str = "", tasks: tuple[int, ...] = ()
    ) -> Answer:
        return await self.tell(verb, RunCommand(run, number, reason, tasks))

    async def states(self, run: str = "r") -> str:
        """The states of all tasks in order, as engine and events agree on."""
        await self.read()
        told = self.history.runs[run].states
        live = await self.engine.tasks(run, range(len(told)))
        assert [task.state for task in live] == told
        return " ".join(state.label for state in told)

    async def ended(self, run: str = "r") -> tuple[int, str] | None:
        """State and reason of a run, None while it goes on."""
        await self.read()
        return self.history.runs[run].end

    async def adopt(self, item: Adopt) -> Answer:
        """Said twice; an adopted lease is found with `token`."""
        answer = (await self.engine.adopt([item]))[0]
        await self.read()
        assert (await self.engine.adopt([item]))[0] == answer
        assert not await self.read(), "a repeat added an event"
        lease = self.history.runs[item.run].leases.get(item.task) if item.run in self.history.runs else None
        assert answer.answer != OK or lease is None or answer.token == lease.token
        return answer.answer

    # nodes

    async def node(self, name: str = "n", incarnation: int = 1, slots: int = 1_000, beats: bool = True, **info: Any) -> Answer:
        return await self.tell("register", Register(NodeInfo(name, incarnation, slots=slots, **info), beats))

    async def free(self, name: str = "n") -> dict[str, int]:
        return next(node.free for node in await self.engine.nodes() if node.info.id == name)

    # tasks

    async def queue(self, limit: int = 100_000) -> list[tuple[str, int]]:
        """Run and task of all that is ready, class by class in order."""
        return [(task.run, task.task) for group in await self.engine.ready(limit) for task in group.tasks]

    async def find(self, task: int, run: str = "r") -> ReadyTask:
        """A ready task as `place` must see it."""
        groups = await self.engine.ready(100_000)
        return next(found for group in groups for found in group.tasks if (found.run, found.task) == (run, task))

    async def offer(
        self,
        task: int,
        run: str = "r",
        node: str = "n",
        takes: tuple[tuple[str, int], ...] = (("slots", 1),),
        claims: tuple[Claim | Rate, ...] = (),
    ) -> Answer:
        """Tries to start a ready task."""
        found = await self.find(task, run)
        start = Start(run, task, found.version, found.failing, node, f"task-{task}", b"{}", takes, claims)
        return await self.tell("place", start)

    async def start(self, task: int = 0, run: str = "r", **how: Any) -> Token:
        """Starts a ready task, and answers its token."""
        assert await self.offer(task, run, **how) == OK
        return self.token(task, run)

    def token(self, task: int = 0, run: str = "r") -> Token:
        return self.history.runs[run].leases[task].token

    async def settle(self, task: int = 0, state: int = TaskState.SUCCEEDED, reason: str = "", run: str = "r") -> None:
        """Ends a ready task without an attempt."""
        found = await self.find(task, run)
        assert await self.tell("place", Settle(run, task, found.version, state, reason)) == OK

    async def expand(self, task: int, count: int, run: str = "r") -> range:
        """Gives a ready task its map children, and answers their indexes."""
        found = await self.find(task, run)
        assert await self.tell("place", Expand(run, task, found.version, found.failing, count)) == OK
        return self.history.runs[run].children.get(task, range(0))

    async def wait(self, task: int = 0, reason: str = "approval", run: str = "r", data: bytes = b"") -> None:
        """Parks a ready task."""
        found = await self.find(task, run)
        assert await self.tell("place", Park(run, task, found.version, found.failing, reason, data)) == OK

    async def complete(self, task: int = 0, run: str = "r") -> None:
        assert await self.tell("complete", Done(run, task, self.token(task, run))) == OK

    async def fail(self, task: int = 0, run: str = "r", **how: Any) -> None:
        assert await self.tell("fail", Failure(run, task, self.token(task, run), **how)) == OK

    async def work(self, *tasks: int, run: str = "r", fails: bool = False) -> None:
        """Starts tasks and ends them, one after the other."""
        for task in tasks:
            await self.start(task, run)
            await (self.fail(task, run) if fails else self.complete(task, run))
