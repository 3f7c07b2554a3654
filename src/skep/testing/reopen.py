"""Random work during which all engines are lost now and then.

The next ones are opened with what a record may have of it, which is any beginning of the events; nodes bring what they hold and
how attempts ended, or never come. What always holds and how it ends is said in `skep.testing.machine`. Beside that, an end that
was recorded stays what it is, and a lease whose node comes is adopted if the record knows all that happened.
"""

from __future__ import annotations

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from skep.engine.protocol import OK, Adopt, Register, RunCommand, Start
from skep.model.node import HeldLock
from skep.model.run import Token
from skep.testing.machine import CLAIMS, NODES, OUTCOMES, EngineMachine
from skep.testing.recorded import RecordedRun, recorded
from skep.testing.shapes import Lease, RunHistory

Ended = tuple[Adopt, str]
"""An attempt as its node presents it, and how it ended."""


class ReopeningMachine(EngineMachine):
    """Define `subjects` to use it."""

    @initialize()
    def begin(self) -> None:
        super().begin()
        self.recorded: dict[str, RecordedRun] = {}
        """What the record had when the engines were opened."""

    @precondition(lambda self: self.history.events)
    @rule(
        back=st.sampled_from((0, 0, 1, 2, 3, 5, 8, 13)),
        chunks=st.integers(1, 3),
        come=st.sampled_from((NODES, NODES, NODES[:1], NODES[1:], ())),
        ends=st.lists(st.sampled_from(OUTCOMES), max_size=3),
    )
    def reopen(self, back: int, chunks: int, come: tuple[str, ...], ends: list[str]) -> None:
        self.start_all()
        for place, how in zip(self.leases(), ends, strict=False):
            self.report(*place, how)
        past = self.history
        count = max(len(past.events) - back, 0)
        held = [self.held(*place) for place in self.leases() if place[2].node in come]
        ended = [
            (self.presented(run, task, lease), how)
            for n, run, task, lease, how in self.reports
            if n >= count and lease.node in come
        ]
        nodes = [node.info for node in self.ask("nodes") if node.info.id in come]
        self.recorded = recorded(past.events[:count], self.recorded)
        self.history = past.reopened(past.epoch + 1, count, self.now_ms)
        self.engines = self.subjects(past.epoch + 1)
        for kept in (self.told, self.aside, self.locks, self.reports, self.spent):
            kept.clear()
        for info in nodes:
            self.tell("register", Register(info))
        for run in self.accepted:
            self.take_up(run, chunks)
        self.bring(ended)
        for lease in held:
            adopted = self.rejoin(lease)
            assert adopted or back or self.history.runs[lease.run].cancelling

    def start_all(self) -> None:
        """There is work under way on all nodes."""
        ready = [task for task in self.ready() if not self.is_map(task)]
        nodes = [node.info.id for node in self.ask("nodes")]
        takes, claims = (("slots", 1),), CLAIMS[-1]
        for task, node in zip(ready, nodes, strict=False):
            self.decide(Start(task.run, task.task, task.version, task.failing, node, "t", b"{}", takes, claims))

    # -- what nodes bring

    def presented(self, run: str, task: int, lease: Lease) -> Adopt:
        families = self.history.runs[run].children.items()
        place = next(((parent, task - first.start) for parent, first in families if task in first), (-1, -1))
        return Adopt(run, task, lease.attempt, lease.node, "t", lease.token, ended=True, parent=place[0], child=place[1])

    def held(self, run: str, task: int, lease: Lease) -> Adopt:
        start = self.starts[lease.token]
        locks = [(key, units, until) for (token, key), (units, until) in self.locks.items() if token == lease.token]
        return msgspec.structs.replace(
            self.presented(run, task, lease),
            ended=False,
            takes=start.takes,
            claims=start.claims,
            locks=tuple(HeldLock(key, units, max(until - self.now_ms, 0)) for key, units, until in locks),
        )

    def bring(self, ended: list[Ended]) -> None:
        for item, how in sorted(ended, key=lambda one: one[0].token):
            ((answer, token),) = self.adopt(item)
            if answer == OK:
                self.report(item.run, item.task, Lease(token, item.node, item.attempt), how)

    def rejoin(self, item: Adopt) -> bool:
        ((answer, token),) = self.adopt(item)
        if answer == OK:
            self.locks |= {(token, lock.key): (lock.units, self.now_ms + lock.left_ms) for lock in item.locks}
        else:
            self.tell("dismiss", (item.node, item.token))
        return bool(answer == OK)

    def adopt(self, item: Adopt) -> list[tuple[str, Token]]:
        answers: list[tuple[str, Token]] = self.tell("adopt", item)  # type: ignore[assignment]
        for answer, token in answers:
            if answer == OK:
                self.starts[token] = Start(item.run, item.task, 0, False, item.node, "t", b"{}", item.takes, item.claims)
        return answers

    # -- runs

    def take_up(self, run: str, chunks: int) -> None:
        """Loads a run as it is recorded, unless it has ended, and tells it all its commands; those it reflects do nothing."""
        known, commands = self.known(run), self.commands.get(run, [])
        if not known.ended or any(verb == "retry" and command.number > known.command for verb, command in commands):
            self.load_again(run, chunks)
            for verb, command in commands:
                self.tell(verb, command)

    def known(self, run: str) -> RecordedRun:
        return self.recorded.setdefault(run, RecordedRun())

    def load_again(self, run: str, chunks: int = 1) -> None:
        for load in self.known(run).loads(self.accepted[run], self.now_ms, chunks):
            assert self.tell("load", load) == [OK]
        assert self.tell("open", run) == [OK]

    def order(self, verb: str, command: RunCommand) -> None:
        """An ended run that the engines do not have is brought back, to be retried."""
        run: RunHistory = self.history.runs[command.run]
        if run.known:
            self.load_again(command.run)
        super().order(verb, command)
