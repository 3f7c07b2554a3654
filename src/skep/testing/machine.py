"""Random work on one or more engines in lock step. Every answer, event and view must be the same on all of them.

Subclass `EngineMachine` and say which engines: the first is told every item once, all others twice in a row and some of them
again much later. So two engines of one kind prove that repeats change nothing, and two of different kinds that they agree.

After every step: events fold by the table (`History`); what is free of a node is what it has less what its leases take; claims
are within their caps; whatever is ready is offered, unless it was put aside; whatever may start has been let out. In the end
everything is driven on, and every run must end: an unfinished run always has something that can move it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from skep.engine.protocol import (
    OK,
    PAUSED,
    WAITING,
    Ask,
    Beat,
    Decision,
    Done,
    Expand,
    Failure,
    Load,
    Park,
    Parked,
    Register,
    Resolve,
    RunCommand,
    Settle,
    Snooze,
    Start,
)
from skep.model.node import NodeInfo
from skep.model.run import EXCLUSIVE, Claim, Policy, Rate, ReadyTask, Shape, Token
from skep.model.state import TaskState
from skep.testing.shapes import MINUTE_MS, History, Lease, RunHistory, shape

Subject = Callable[..., Any]
"""An engine as `subject(now_ms, verb, *arguments)`."""

SILENT_MS = 10_000
MAX_LOST = 2
ROUNDS = 200
"""More than enough to bring all work to its end."""
NODES = ("a", "b", "c")
CLAIMS = (
    (),
    (),
    (Claim("lock", EXCLUSIVE, EXCLUSIVE),),
    (Claim("lock", 1, EXCLUSIVE),),
    (Rate("rate", 2_000_000, 4_000_000),),
    (Rate("rate", 400_000, 1_000_000), Claim("key", 1, 1)),
    (Claim("key", 1, 2), Claim("lock", 1, EXCLUSIVE)),
)
CAPS = {"lock": EXCLUSIVE, "key": 2}
OUTCOMES = ("done", "done", "failed", "failed", "again", "later", "cancelled", "snoozed", "snoozed", "parked", "parked", "lost")
MANY = st.integers(0, 1_000)
"""A choice among however many there are."""


@st.composite
def graphs(draw: st.DrawFn) -> Shape:
    """Small graphs: every pair may be an edge, every task may be a map with a window."""
    size = draw(st.integers(1, 5))
    pairs = [(a, b) for b in range(size) for a in range(b)]
    edges = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []

    def some(values: st.SearchStrategy[int]) -> dict[int, int]:
        return draw(st.dictionaries(st.integers(0, size - 1), values, max_size=3))

    return shape(
        edges,
        size,
        policies=some(st.sampled_from(Policy)),
        windows=some(st.integers(1, 2)),
        classes=some(st.just(1)),
        class_names=("cpu", "gpu"),
        order_ms=some(st.integers(0, 10 * MINUTE_MS)),
        deadlines_ms=some(st.sampled_from((0, 20_000))) if draw(st.booleans()) else {},
    )


class EngineMachine(RuleBasedStateMachine):
    """Define `subjects` to use it."""

    def subjects(self, epoch: int) -> Sequence[Subject]:
        """Fresh engines of that epoch."""
        raise NotImplementedError

    @initialize()
    def begin(self) -> None:
        self.engines = self.subjects(1)
        self.now_ms = 1_000_000
        self.history = History(1)
        self.accepted: dict[str, Load] = {}
        """Runs as they were submitted, each in one piece."""
        self.commands: dict[str, list[tuple[str, RunCommand]]] = {}
        self.reports: list[tuple[int, str, int, Lease, str]] = []
        """How attempts ended: number of the event before, run, task, lease, and what its node said."""
        self.told: list[tuple[str, Any]] = []
        """Items that were answered `ok`, to be repeated late."""
        self.starts: dict[Token, Start] = {}
        self.locks: dict[tuple[Token, str], tuple[int, int]] = {}
        """Locks taken inside tasks: units, and until when."""
        self.aside: set[tuple[str, int]] = set()
        """Ready tasks that were answered `paused` or `waiting`."""
        self.spent: Counter[str] = Counter()
        """Rates, and when all that was spent of them has come back, in microseconds."""
        self.number = 0
        self.incarnations = dict.fromkeys(NODES, 1)
        for name in NODES[:2]:
            self.join(name, 0, 2, True)

    # -- saying the same to all

    def ask(self, verb: str, *arguments: Any) -> Any:
        """A question, or a verb without items: everyone answers alike."""
        first, *others = (engine(self.now_ms, verb, *arguments) for engine in self.engines)
        for other in others:
            assert other == first, f"{verb}{arguments}: {first} and {other}"
        return first

    def tell(self, verb: str, *items: Any) -> list[str]:
        """Items of a verb: the first engine is told once, the others twice."""
        doubled = [item for item in items for _ in range(2)]
        answers: list[str] = self.engines[0](self.now_ms, verb, list(items))
        for engine in self.engines[1:]:
            assert engine(self.now_ms, verb, doubled) == [answer for answer in answers for _ in range(2)], f"{verb} {items}"
        self.told += [(verb, item) for item, answer in zip(items, answers, strict=True) if answer == OK]
        self.read()
        return answers

    def read(self) -> None:
        """Folds what happened."""
        for event in self.ask("events", len(self.history.events), 100_000):
            self.history.fold(event)

    def next(self) -> int:
        self.number += 1
        return self.number

    # -- what there is

    def runs(self) -> Iterator[tuple[str, RunHistory]]:
        """Those that go on."""
        return ((name, run) for name, run in self.history.runs.items() if run.end is None)

    def leases(self) -> list[tuple[str, int, Lease]]:
        return [(name, task, lease) for name, run in self.history.runs.items() for task, lease in run.leases.items()]

    def ready(self) -> list[ReadyTask]:
        return [task for group in self.ask("ready", 10_000) for task in group.tasks]

    def parked(self) -> list[tuple[str, int]]:
        return [(name, task) for name, run in self.runs() for task, state in enumerate(run.states) if state == TaskState.PARKED]

    # -- runs

    @precondition(lambda self: sum(1 for _ in self.runs()) < 3)
    @rule(graph=graphs(), paused=st.sampled_from((False, False, True)), timeout_ms=st.sampled_from((0, 0, 30_000)), cut=MANY)
    def submit(self, graph: Shape, paused: bool, timeout_ms: int, cut: int) -> None:
        self.submit_one(f"run-{self.next()}", graph, cut % graph.size, paused=paused, timeout_ms=timeout_ms)

    def submit_one(self, run: str, graph: Shape, cut: int = 0, **options: Any) -> None:
        """Loads a run, in two chunks if it is to be cut, and opens it."""
        self.history.graphs[run] = graph
        times: dict[str, Any] = {"read_ms": self.now_ms, "accepted_ms": self.now_ms}
        whole = Load(run=run, namespace="default", shape=graph, first=0, count=graph.size, **times, **options)
        self.accepted[run] = whole
        for first, last in ((0, cut), (cut, graph.size)):
            if first < last:
                assert self.tell("load", msgspec.structs.replace(whole, first=first, count=last - first)) == [OK]
        assert self.tell("open", run) == [OK]

    @precondition(lambda self: self.history.runs)
    @rule(
        verb=st.sampled_from(("cancel", "pause", "pause", "resume", "retry", "retry")),
        which=MANY,
        tasks=st.sets(MANY, max_size=2),
    )
    def command(self, verb: str, which: int, tasks: set[int]) -> None:
        names = [name for name, run in self.history.runs.items() if (run.end is not None) == (verb == "retry")]
        if names:
            name = names[which % len(names)]
            size = self.history.graphs[name].size
            self.order(verb, RunCommand(name, self.next(), "asked", tuple(sorted({task % size for task in tasks}))))

    def order(self, verb: str, command: RunCommand) -> None:
        """Tells a command, and keeps it as a record would."""
        self.commands.setdefault(command.run, []).append((verb, command))
        self.tell(verb, command)

    # -- tasks

    @precondition(lambda self: self.ready())
    @rule(choices=st.lists(st.tuples(MANY, st.sampled_from("ssssssseepvfw"), MANY, MANY), min_size=1, max_size=4))
    def place(self, choices: list[tuple[int, str, int, int]]) -> None:
        ready = self.ready()
        picked = {which % len(ready): rest for which, *rest in choices}
        self.decide(*(self.decision(ready[at], *rest) for at, rest in picked.items()))

    def decision(self, task: ReadyTask, kind: Any, where: Any, what: Any) -> Decision:
        place = task.run, task.task, task.version
        match kind:
            case "s":
                takes = (("slots", 1 + what % 2), ("cpu", 100 * (what % 3)))
                return Start(*place, task.failing, NODES[where % 3], "t", b"{}", takes, CLAIMS[what % len(CLAIMS)])
            case "s" | "e" | "p" if self.is_map(task):
                return Expand(*place, task.failing, what % 4)
            case "e" if not task.attempts and task.task < self.history.graphs[task.run].size:
                return Expand(*place, task.failing, what % 4)
            case "p":
                return Park(*place, task.failing, "approval", b"wait")
            case "f":
                return Settle(*place, TaskState.FAILED, "expression")
            case "w":
                return Settle(*place, TaskState.SKIPPED, ("when", "upstream")[what % 2])
        return Settle(*place, TaskState.SUCCEEDED)

    def is_map(self, task: ReadyTask) -> bool:
        return task.task in self.history.runs[task.run].children

    def decide(self, *items: Decision) -> None:
        for item, answer in zip(items, self.tell("place", *items), strict=True):
            if answer in (PAUSED, WAITING):
                self.aside.add((item.run, item.task))
            elif answer == OK and isinstance(item, Start):
                lease = self.history.runs[item.run].leases.get(item.task)
                if lease is not None:  # else an attempt of an earlier engine was one loss too many
                    held = tuple(claim for claim in item.claims if isinstance(claim, Claim))
                    self.starts[lease.token] = msgspec.structs.replace(item, claims=held)
                    for rate in item.claims:
                        if isinstance(rate, Rate):
                            self.spend(rate)

    def spend(self, rate: Rate) -> None:
        """A grant was given: then there was room."""
        self.spent[rate.key] = max(self.spent[rate.key], self.now_ms * 1_000) + rate.units
        assert self.spent[rate.key] - self.now_ms * 1_000 <= rate.cap, f"too many, too fast: {rate}"

    @precondition(lambda self: self.leases())
    @rule(choices=st.lists(st.tuples(MANY, st.sampled_from(OUTCOMES)), min_size=1, max_size=3))
    def end(self, choices: list[tuple[int, str]]) -> None:
        for which, how in choices:
            if leases := self.leases():
                self.report(*leases[which % len(leases)], how)

    def report(self, run: str, task: int, lease: Lease, how: str) -> None:
        self.reports.append((len(self.history.events), run, task, lease, how))
        verb, item = self.outcome((run, task, lease.token), how)
        assert self.tell(verb, item) == [OK]

    def outcome(self, place: tuple[str, int, Token], how: str) -> tuple[str, Any]:
        match how:
            case "done":
                return "complete", Done(*place, b"1", 5)
            case "snoozed":
                return "snooze", Snooze(*place, 500)
            case "parked":
                return "park", Parked(*place, "event")
            case "lost":
                return "fail", Failure(*place, lost=True)
        retry_in_ms = {"again": 0, "later": 700}.get(how, -1)
        return "fail", Failure(*place, how, retry_in_ms=retry_in_ms, cancelled=how == "cancelled")

    @precondition(lambda self: self.parked())
    @rule(
        which=MANY,
        state=st.sampled_from((TaskState.SUCCEEDED, TaskState.FAILED, TaskState.FAILED, TaskState.CANCELLED, TaskState.READY)),
        retry_in_ms=st.sampled_from((-1, 0, 700)),
        attempt=st.integers(0, 2),
    )
    def resolve(self, which: int, state: TaskState, retry_in_ms: int, attempt: int) -> None:
        parked = self.parked()
        place = parked[which % len(parked)]
        self.tell("resolve", Resolve(*place, f"by-{self.next()}", state, retry_in_ms=retry_in_ms, attempt=attempt))

    # -- locks inside tasks

    @precondition(lambda self: self.leases())
    @rule(which=MANY, claim=st.sampled_from(CLAIMS[2:4]), wait=st.booleans(), hold_ms=st.sampled_from((3_000, MINUTE_MS)))
    def lock(self, which: int, claim: tuple[Claim, ...], wait: bool, hold_ms: int) -> None:
        leases = self.leases()
        run, task, lease = leases[which % len(leases)]
        ((key, units, cap),) = claim
        new = (lease.token, key) not in self.locks and all(claim.key != key for claim in self.starts[lease.token].claims)
        if self.tell("claim", Ask(run, task, lease.token, key, units, cap, hold_ms, wait)) == [OK] and new:
            self.locks[lease.token, key] = units, self.now_ms + hold_ms

    @precondition(lambda self: self.locks)
    @rule(which=MANY)
    def unlock(self, which: int) -> None:
        held = list(self.locks)
        self.tell("release", held[which % len(held)])
        del self.locks[held[which % len(held)]]

    # -- nodes

    @rule(name=st.sampled_from(NODES), newer=st.integers(0, 1), slots=st.integers(1, 3), beats=st.booleans())
    def join(self, name: str, newer: int, slots: int, beats: bool) -> None:
        self.incarnations[name] += newer
        self.tell("register", Register(NodeInfo(name, self.incarnations[name], slots=slots, cpu_milli=300), beats))

    @rule(name=st.sampled_from(NODES), how=st.sampled_from(("retire", "lose", "drain", "undrain", "take")))
    def manage(self, name: str, how: str) -> None:
        match how:
            case "retire":
                self.tell("retire", (name, self.incarnations[name]))
            case "lose":
                self.ask("retire", [(name, self.incarnations[name])], True)
                self.read()
            case "drain" | "undrain":
                self.ask("drain", [name], how == "drain")
                self.read()
            case _ if name in self.history.nodes:
                self.ask("take", name, self.incarnations[name], 0, 100)

    @rule(name=st.sampled_from(NODES), forgets=st.sampled_from((False, False, True)))
    def beat(self, name: str, forgets: bool) -> None:
        leases = tuple(lease.token for _, _, lease in self.leases() if lease.node == name)
        self.tell("beat", Beat(name, self.incarnations[name], leases[forgets:], 1_000 if forgets else 0))

    # -- time

    @rule(
        ms=st.sampled_from((0, 1, 500, 2_000, 6_000, 16_000, 61_000)), verb=st.sampled_from(("", "promote", "promote", "reap"))
    )
    def tick(self, ms: int, verb: str) -> None:
        self.now_ms += ms
        if verb:
            self.ask(verb, *((SILENT_MS, MAX_LOST) if verb == "reap" else ()))
            self.read()
        if verb == "reap":
            self.locks = {place: held for place, held in self.locks.items() if held[1] > self.now_ms}

    @precondition(lambda self: self.leases() or self.ready())
    @rule()
    def hurry(self) -> None:
        """Brings runs nearer to their end, so that there is something to retry."""
        self.drive_on()

    @rule(back=st.integers(0, 3), server=st.sampled_from("xy"))
    def keep(self, back: int, server: str) -> None:
        self.ask("trim", max(len(self.history.events) - back, 0))
        self.ask("lead", server, 3_000)

    @precondition(lambda self: self.told)
    @rule(which=MANY)
    def repeat_late(self, which: int) -> None:
        """What was said long ago changes nothing now. Not so locks and nodes: they may come back under the same name."""
        verb, item = self.told[-1 - which % min(len(self.told), 40)]
        if verb not in ("claim", "release", "register", "retire", "beat"):
            for engine in self.engines[1:]:
                engine(self.now_ms, verb, [item])
                assert not engine(self.now_ms, "events", len(self.history.events), 1), f"late {verb} {item}"

    # -- what always holds

    @invariant()
    def nodes_have_what_leases_leave(self) -> None:
        for node in self.ask("nodes"):
            taken: Counter[str] = Counter()
            leases = [lease for _, _, lease in self.leases() if lease.node == node.info.id]
            for lease in leases:
                taken.update(dict(self.starts[lease.token].takes))
            has = {"slots": node.info.slots, "cpu": node.info.cpu_milli, "memory": 0, "vram": 0}
            assert node.free == {key: units - taken[key] for key, units in has.items()}
            assert min(node.free.values()) >= 0
            assert node.leases == len(leases)

    @invariant()
    def claims_are_within_their_caps(self) -> None:
        tokens = {lease.token for _, _, lease in self.leases()}
        self.locks = {place: held for place, held in self.locks.items() if place[0] in tokens}
        used: Counter[str] = Counter()
        for token in tokens:
            used.update({claim.key: claim.units for claim in self.starts[token].claims})
        for (_, key), (units, _) in self.locks.items():
            used[key] += units
        assert all(units <= CAPS[key] for key, units in used.items()), used

    @invariant()
    def what_is_ready_is_offered(self) -> None:
        offered = {(task.run, task.task): task for task in self.ready()}
        ready = {(name, task) for name, run in self.runs() for task, state in enumerate(run.states) if state == TaskState.READY}
        self.aside = (self.aside & ready) - offered.keys()
        assert offered.keys() == ready - self.aside
        for (name, index), task in offered.items():
            run = self.history.runs[name]
            needs = run.needs[task.parent if task.parent >= 0 else index]
            assert task.unmet == sum(not run.met(need) for need in needs)
            assert task.attempts == run.attempts[index]

    @invariant()
    def a_namespace_holds_what_its_leases_hold(self) -> None:
        slots = sum(dict(self.starts[lease.token].takes).get("slots", 0) for _, _, lease in self.leases())
        assert all(group.running == slots for group in self.ask("ready", 1)), f"{slots} slots are held"

    @invariant()
    def what_may_start_is_let_out(self) -> None:
        for name, run in self.runs():
            if run.cancelling:
                continue
            out = {
                child
                for parent, siblings in run.children.items()
                if run.states[parent] == TaskState.PARKED
                for child in siblings
            }
            for task, state in enumerate(run.states):
                if state == TaskState.WAITING and (task < len(run.needs) or task in out):
                    assert not run.may_start(task), f"{name} forgot task {task}: {run.states}"

    @invariant()
    def states_are_what_events_told(self) -> None:
        for name, run in self.runs():
            live = self.ask("tasks", name, range(len(run.states)))
            assert [task.state for task in live] == run.states

    @invariant()
    def who_waits_for_a_claim_is_told(self) -> None:
        for name, run in self.runs():
            lines = {line.task: line for line in self.ask("lines", name, range(len(run.states))) if not line.inside}
            asleep = {task for place, task in self.aside if place == name}
            assert lines.keys() <= asleep, f"{name}: {lines}, {asleep}"
            assert all(line.used + line.ahead > 0 or line.withheld or line.key == "rate" for line in lines.values()), lines

    # -- the end

    def teardown(self) -> None:
        """Drives everything on: nothing may be stuck, and in the end no claim may be held."""
        if not hasattr(self, "engines"):
            return
        self.incarnations["c"] += 1
        self.tell("register", Register(NodeInfo("c", self.incarnations["c"], slots=1_000), False))
        for _ in range(ROUNDS):
            self.drive_on()
            if not any(True for _ in self.runs()):
                break
        assert not {name: [state.label for state in run.states] for name, run in self.runs()}, "stuck"
        self.submit_one("probe", shape())
        (task,) = self.ready()
        everything = tuple(Claim(key, cap, cap) for key, cap in CAPS.items())
        assert self.tell("place", Start("probe", 0, task.version, False, "c", "t", b"{}", (), everything)) == [OK]

    def drive_on(self) -> None:
        """One round: whatever waits for someone gets it."""
        for verb in ("promote", "reap"):
            self.tick(8_000, verb)
        for name, _ in list(self.runs()):
            self.order("resume", RunCommand(name, self.next()))
        parked = [Resolve(*place, f"by-{self.next()}", TaskState.SUCCEEDED) for place in self.parked()]
        if parked:
            self.tell("resolve", *parked)
        ready = [(self.is_map(t), (t.run, t.task, t.version, t.failing)) for t in self.ready()]
        if ready:
            self.decide(*(Expand(*place, 0) if is_map else Start(*place, "c", "t", b"{}") for is_map, place in ready))
        for run, task, lease in self.leases():
            self.report(run, task, lease, "done")
