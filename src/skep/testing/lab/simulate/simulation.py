"""One simulation: discrete events on virtual time around the real engine core and the real router.

The simulation plays the part of everything around them: runs that arrive, the loop that places, nodes whose attempts take as
long as the trace says, and nodes that are lost.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import msgspec

from skep.engine.memory.core import Core
from skep.engine.protocol import (
    FULL,
    OK,
    Decision,
    Done,
    Expand,
    Failure,
    Load,
    Park,
    ReadyClass,
    Register,
    Resolve,
    Settle,
    Start,
)
from skep.errors import RefusedError
from skep.model.node import Grant, Stop
from skep.model.run import ReadyTask, Token
from skep.model.state import RunState, TaskState
from skep.router.fair import FairShare
from skep.router.fair import Offer as FairOffer
from skep.router.router import Router
from skep.router.wanted import Wanted
from skep.testing.lab.simulate.bound import Bounds
from skep.testing.lab.simulate.fleetfile import SimulatedNode
from skep.testing.lab.simulate.measure import Measured, measure
from skep.testing.lab.simulate.trace import Arriving, Trace
from skep.testing.lab.simulate.work import Durations, took_ms
from skep.upkeep.place import LEAST, MOST

EPOCH: Final = 1
NOTICED_MS: Final = 1_000
"""After how long the server knows that a node is lost, as with real ones."""
MAX_LOST: Final = 3
STARTS_MS: Final = 1_000
"""Virtual time begins there: moments of 0 ms mean `never` to the engine."""
LOOK_AGAIN_MS: Final = 250
"""Where tasks are held: at the latest after so long they are looked at again."""
CLOSED_S: Final = 1.0
"""Where the nodes that could run a task are shut off: they are looked at again after so long."""

Offer = Callable[[Arriving], tuple[Load, Sequence[Wanted]]]
"""Of a run that arrives: how it is loaded, with its ranks, and what is asked of the router for each of its steps."""


class Span(NamedTuple):
    """One attempt, for the picture."""

    node: str
    slot: int
    start_ms: int
    end_ms: int
    run: int
    step: int
    lost: bool


class _Run:
    """A run that has arrived."""

    __slots__ = ("arriving", "least_ms", "ms", "wanted")

    def __init__(self, arriving: Arriving, ms: Durations, least_ms: int, wanted: Sequence[Wanted]) -> None:
        self.arriving = arriving
        self.ms = ms
        self.least_ms = least_ms
        self.wanted = wanted


Starting = tuple[ReadyTask, _Run, int]
"""A ready task that is to start, its run, and the task whose plan applies."""


class _Attempt(NamedTuple):
    run: str
    task: int
    token: Token
    step: int
    node: _Node
    slot: int
    start_ms: int


class _Node:
    """A simulated node: what runs on it, and whether it is there."""

    __slots__ = ("attempts", "busy_ms", "free", "here", "incarnation", "known", "seen", "simulated")

    def __init__(self, simulated: SimulatedNode) -> None:
        self.simulated = simulated
        self.incarnation = 1
        self.here = True
        self.known = True
        """Whether the engine believes that it is there."""
        self.seen = 0
        """The last number of its inbox that it has taken."""
        self.attempts: dict[int, _Attempt] = {}
        """By the number of the lease."""
        self.busy_ms = 0
        self.free = list(range(simulated.info.slots))
        """Slots, by number: a heap."""


class Simulation:
    """Lets a trace happen under one router."""

    def __init__(
        self,
        nodes: Sequence[SimulatedNode],
        trace: Trace,
        router: Router,
        offer: Offer,
        *,
        pass_ms: int = 0,
        keep: bool = False,
        tell: Callable[[int], None] | None = None,
    ) -> None:
        """`pass_ms`: what happens within so long is dealt with together, so that many nodes need fewer looks. `keep` all
        attempts, for a picture. `tell` is called with the number of attempts so far, now and then."""
        self._nodes = {node.info.id: _Node(node) for node in nodes}
        self._order = list(nodes)
        self._bounds = Bounds(nodes)
        self._trace = trace
        self._router = router
        self._offer = offer
        self._pass_ms = pass_ms
        self._tell = tell
        self.spans: list[Span] | None = [] if keep else None
        self._core = Core(EPOCH)
        self._core.max_lost = MAX_LOST
        self.now_ms = STARTS_MS
        self._due: list[tuple[int, int, Callable[[], None]]] = []
        self._sequence = 0
        self._done: list[Done] = []
        self._runs: dict[str, _Run] = {}
        self._waiting: deque[tuple[Load, str]] = deque()
        """Runs for which the engine has no room yet."""
        self._flows: list[tuple[int, int, int]] = []
        self._free = sum(node.info.slots for node in nodes)
        self._heard = 0
        self._fair = FairShare()
        self._held = 0
        """Tasks that were held back in the last pass: those behind them may find room."""
        self._again_ms = 0
        """When held tasks are looked at again; 0: nothing is held."""
        self._attempts = self._lost = self._failed = 0

    def run(self) -> Measured:
        """All of it, to the end of the last run."""
        self._core.register(self.now_ms, [Register(node.info, beats=False) for node in self._order])
        runs = iter(self._trace.runs)
        self._arrive_next(runs)
        for loss in self._trace.losses:
            self._at(STARTS_MS + loss.at_ms, lambda loss=loss: self._lose(loss.node, loss.back_ms))  # type: ignore[misc]
        while len(self._flows) < len(self._trace.runs):
            self._step()
        busy = [self._nodes[node.info.id].busy_ms for node in self._order]
        counts = {"failed": self._failed, "attempts": self._attempts, "lost": self._lost}
        return measure(self._order, busy, self._flows, **counts)

    # -- time

    def _at(self, at_ms: int, what: Callable[[], None]) -> None:
        self._sequence += 1
        heapq.heappush(self._due, (at_ms, self._sequence, what))

    def _step(self) -> None:
        """All that is due next, and then one look of the placing loop."""
        if not self._due:
            left = len(self._trace.runs) - len(self._flows)
            why = "the nodes that could run their tasks are lost for good; let them come back, with `back_after` in `failures`"
            raise RefusedError(f"{left} of {len(self._trace.runs)} runs never end: {why}")
        due, first_ms = self._due, self._due[0][0]
        until_ms = first_ms + self._pass_ms
        while due and due[0][0] <= until_ms:
            self.now_ms = max(due[0][0], self.now_ms)
            heapq.heappop(due)[2]()
        self._complete()
        self._place()
        self._listen()

    # -- runs

    def _arrive_next(self, runs: object) -> None:
        arriving: Arriving | None = next(runs, None)  # type: ignore[call-overload]
        if arriving is not None:
            self._at(STARTS_MS + arriving.at_ms, lambda: self._arrive(arriving, runs))

    def _arrive(self, arriving: Arriving, runs: object) -> None:
        self._router.sync(self._core.look_at_nodes())
        load, wanted = self._offer(arriving)
        ms = arriving.true_ms()
        self._runs[arriving.id] = _Run(arriving, ms, self._bounds.critical_path_ms(arriving.work, ms), wanted)
        self._waiting.append((load, arriving.id))
        self._load()
        self._arrive_next(runs)

    def _load(self) -> None:
        """Hands over what waits, as far as there is room for it."""
        while self._waiting:
            load, run = self._waiting[0]
            fresh = msgspec.structs.replace(load, read_ms=self.now_ms, accepted_ms=self.now_ms)
            (answer,) = self._core.load(self.now_ms, [fresh])
            if answer == FULL:
                return
            self._waiting.popleft()
            self._core.open(self.now_ms, [run])

    def _listen(self) -> None:
        """Hears which runs have ended, and forgets what happened."""
        core = self._core
        for event in core.events(self._heard, core.n - self._heard):
            if event.kind == "ended":
                run = self._runs.pop(event.run)
                at_ms = STARTS_MS + run.arriving.at_ms
                self._flows.append((at_ms, event.at_ms, run.least_ms))
                self._failed += event.state != RunState.SUCCEEDED
        self._heard = core.n
        core.trim(core.n)
        if self._waiting:
            self._load()

    # -- placing, as `skep.upkeep.place` does it

    def _place(self) -> None:
        core = self._core
        while True:
            while core.sweeping:
                core.promote(self.now_ms)
            limit = min(max(self._free + 2 * self._held, LEAST), MOST)
            self._held = 0
            classes = core.ready(limit)
            if not classes:
                self._again_ms = 0
                return
            items: list[Decision] = []
            starts: list[tuple[ReadyClass, list[Starting]]] = []
            for ready in classes:
                some: list[Starting] = []
                for seen in ready.tasks:
                    run = self._runs[seen.run]
                    base = seen.task if seen.parent < 0 else seen.parent
                    decision = self._decide(seen, run, base)
                    if decision is None:
                        some.append((seen, run, base))
                    else:
                        items.append(decision)
                starts.append((ready, some))
            behind = any(len(ready.tasks) >= limit for ready in classes)
            granted = self._chosen(self._in_turn(starts))
            items += granted
            more = behind and (self._free > limit or (self._held > 0 and self._free > len(granted) and limit < MOST))
            if not items and not more:
                return
            moved = False
            for item, answer in zip(items, core.place(self.now_ms, items), strict=True):
                if answer == OK:
                    moved = self._placed(item) or moved
            self._deliver()
            if not (moved or more):
                return

    def _decide(self, seen: ReadyTask, run: _Run, base: int) -> Decision | None:
        """What becomes of it without a node; None: it starts. The assumptions of `work` stand for what only a run knows."""
        work = run.arriving.work
        plan = work.plan.tasks[base]
        child = seen.child >= 0
        if seen.failing and not seen.attempts and not plan.runs_always:
            return Settle(seen.run, seen.task, seen.version, TaskState.SKIPPED, reason="run_failed")
        if not child and seen.unmet and not plan.runs_always:
            return Settle(seen.run, seen.task, seen.version, TaskState.SKIPPED, reason="upstream")
        if plan.handles and not child:
            return Settle(seen.run, seen.task, seen.version, TaskState.SKIPPED, reason="when")
        if plan.map is not None and not child:
            return Expand(seen.run, seen.task, seen.version, seen.failing, work.children[base])
        if plan.parks:
            return Park(seen.run, seen.task, seen.version, seen.failing, "event")
        return None

    def _in_turn(self, starts: Sequence[tuple[ReadyClass, list[Starting]]]) -> list[Starting]:
        """In fair shares between namespaces, by score within each."""
        if len({ready.namespace for ready, _ in starts}) < 2:
            self._fair.round((), self.now_ms)
            found = [one for _, some in starts for one in some]
            return found if len(starts) < 2 else sorted(found, key=lambda one: one[0].score)
        offers = [FairOffer(ready.namespace, [one[0].score for one in some], ready.running) for ready, some in starts]
        return [starts[number][1][at] for number, at in self._fair.round(offers, self.now_ms)]

    def _chosen(self, starting: Sequence[Starting]) -> list[Decision]:
        if not starting:
            return []
        self._router.sync(self._core.look_at_nodes())
        wanted = [run.wanted[run.arriving.work.step(seen)] for seen, run, _ in starting]
        found: list[Decision] = []
        held_s = float("inf")
        choices = self._router.route(wanted, self.now_ms)
        for choice, (seen, run, base) in zip(choices, starting, strict=True):
            if choice.node:
                self._fair.started(run.arriving.work.plan.spec.namespace, 1)
                plan = run.arriving.work.plan
                found.append(
                    Start(
                        seen.run,
                        seen.task,
                        seen.version,
                        seen.failing,
                        choice.node,
                        plan.names[base],
                        b"",
                        plan.tasks[base].takes,
                    )
                )
            elif choice.why == "held":
                held_s = min(held_s, choice.wait_s)
                self._held += 1
            elif choice.why == "unhealthy":
                held_s = min(held_s, CLOSED_S)
        if held_s < float("inf"):
            self._look_again(round(min(max(held_s * 1000, LOOK_AGAIN_MS), 60_000)))
        return found

    def _look_again(self, in_ms: int) -> None:
        """What is held is looked at again even if nothing happens: a node may take longer than was predicted."""
        at_ms = self.now_ms + in_ms
        if self._again_ms <= self.now_ms or at_ms < self._again_ms:
            self._again_ms = at_ms
            self._at(at_ms, _nothing)

    def _placed(self, item: Decision) -> bool:
        """What follows from a decision that was applied. True when others may be ready now."""
        if type(item) is Park:
            run = self._runs[item.run]
            takes = took_ms(float(run.ms[item.task]), 1.0)
            self._at(self.now_ms + takes, lambda: self._resolve(item.run, item.task))
        return type(item) in (Settle, Expand)

    def _resolve(self, run: str, task: int) -> None:
        self._core.resolve(self.now_ms, [Resolve(run, task, "simulation", TaskState.SUCCEEDED)])

    # -- attempts

    def _deliver(self) -> None:
        """Nodes take what the engine has for them."""
        core = self._core
        topics, core.stirred = core.stirred, set()
        for topic in sorted(topics):
            where, _, name = topic.partition(":")
            node = self._nodes.get(name) if where == "node" else None
            if node is None or name not in core.nodes:
                continue
            for entry in core.take(name, node.incarnation, node.seen, MOST):
                node.seen = entry.number
                if type(entry.entry) is Grant:
                    self._begin(node, entry.entry)
                elif type(entry.entry) is Stop:
                    self._stop(node, entry.entry)

    def _begin(self, node: _Node, grant: Grant) -> None:
        run = self._runs[grant.run]
        work = run.arriving.work
        base = grant.task if grant.parent < 0 else grant.parent
        step = grant.task if grant.parent < 0 else work.first[base] + grant.child
        slot = heapq.heappop(node.free)
        attempt = _Attempt(grant.run, grant.task, grant.token, step, node, slot, self.now_ms)
        n = grant.token.n
        node.attempts[n] = attempt
        self._free -= 1
        self._attempts += 1
        if self._tell is not None and self._attempts % 1_000 == 0:
            self._tell(self._attempts)
        self._router.began(n, node.simulated.info.id, run.wanted[step].kind, self.now_ms)
        if node.here:
            takes = took_ms(float(run.ms[step]), node.simulated.speed(work.type(base)))
            self._at(self.now_ms + takes, lambda: self._end(n, node))

    def _end(self, n: int, node: _Node) -> None:
        attempt = node.attempts.pop(n, None)
        if attempt is None:
            return  # its node was lost meanwhile
        self._done.append(Done(attempt.run, attempt.task, attempt.token, b"null", self.now_ms - attempt.start_ms))
        self._over(attempt, n, "succeeded", self.now_ms)

    def _stop(self, node: _Node, stop: Stop) -> None:
        """The run is cancelled: one of its tasks failed, and says so in its `on_failure`."""
        attempt = node.attempts.pop(stop.token.n, None)
        if attempt is not None:
            self._over(attempt, stop.token.n, "cancelled", self.now_ms)
            self._core.fail(self.now_ms, [Failure(attempt.run, attempt.task, attempt.token, stop.reason, cancelled=True)])

    def _over(self, attempt: _Attempt, n: int, result: str, end_ms: int) -> None:
        node, ran_ms = attempt.node, end_ms - attempt.start_ms
        heapq.heappush(node.free, attempt.slot)
        self._free += 1
        node.busy_ms += ran_ms
        kind = self._runs[attempt.run].wanted[attempt.step].kind
        self._router.ended(n, node.simulated.info.id, kind, result, ran_ms, self.now_ms)
        if self.spans is not None:
            run = self._runs[attempt.run].arriving.number
            span = (node.simulated.info.id, attempt.slot, attempt.start_ms, end_ms, run, attempt.step)
            self.spans.append(Span(*span, lost=result == "lost"))

    def _complete(self) -> None:
        if self._done:
            done, self._done = self._done, []
            self._core.complete(self.now_ms, done)

    # -- nodes

    def _lose(self, name: str, back_ms: int) -> None:
        """The node is gone; the server notices a moment later."""
        node = self._nodes[name]
        if not node.here or not any(other.here for other in self._nodes.values() if other is not node):
            return  # it is gone already, or the last one: nothing could be told of a fleet of none
        node.here = False
        gone_ms, attempts = self.now_ms, dict(node.attempts)
        node.attempts.clear()
        self._at(self.now_ms + NOTICED_MS, lambda: self._notice(node, attempts, gone_ms))
        if back_ms:
            self._at(max(STARTS_MS + back_ms, self.now_ms + NOTICED_MS + 1), lambda: self._back(node))

    def _notice(self, node: _Node, attempts: dict[int, _Attempt], gone_ms: int) -> None:
        self._complete()  # what ended before is told before
        for n, attempt in attempts.items():
            self._over(attempt, n, "lost", gone_ms)
        for n, attempt in list(node.attempts.items()):  # given to it since
            self._over(attempt, n, "lost", attempt.start_ms)
        self._lost += len(attempts) + len(node.attempts)
        node.attempts.clear()
        self._free -= node.simulated.info.slots
        self._core.retire(self.now_ms, [(node.simulated.info.id, node.incarnation)], lost=True)

    def _back(self, node: _Node) -> None:
        node.here = True
        node.incarnation += 1
        node.seen = 0
        self._free += node.simulated.info.slots
        info = node.simulated.info
        self._core.register(self.now_ms, [Register(msgspec.structs.replace(info, incarnation=node.incarnation), beats=False)])


def _nothing() -> None:
    pass
