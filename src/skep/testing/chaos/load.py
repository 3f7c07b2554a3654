"""The load: people who submit, decide, cancel and look, all the time, and write into the ledger what they are told.

Whoever submits makes the id, and says it again until there is an answer: whatever it was, there is one run.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from skep.client import Client
from skep.errors import ConflictError, NotFoundError, RefusedError, SkepError, SpecError, WrongStateError
from skep.ids import new_id
from skep.model.views import RunSummary
from skep.testing.chaos.check import outcomes
from skep.testing.chaos.graphs import Graphs
from skep.testing.chaos.ledger import Ledger
from skep.testing.chaos.story import seen

Clients = Callable[[], list[Client]]

PAUSE_S: Final = 0.05
"""After a call that got no answer."""
LOOK_S: Final = 0.02
"""Between two looks at runs."""
MOST_SAID: Final = 80
"""Characters of an error that has no kind of its own."""
CANCELS: Final = 0.04
"""Of all runs."""


REFUSALS: Final = (NotFoundError, WrongStateError, ConflictError, RefusedError, SpecError)
"""Answers. Any other error says nothing of what became of the call."""


class NoAnswerError(SkepError):
    """The call is to be made again."""


class Door:
    """One of the servers, until it does not answer; then the next one. For one thread."""

    def __init__(self, clients: Clients, first: int) -> None:
        self._clients = clients()
        self._at = first
        self.unanswered: Counter[str] = Counter()
        """Kinds of errors that were told in place of an answer."""

    def ask(self, what: Callable[[Client], object]) -> object:
        """Raises NoAnswerError: then the next call goes to another server; and what the server refuses with."""
        client = self._clients[self._at % len(self._clients)]
        try:
            return what(client)
        except REFUSALS:
            raise
        except SkepError as error:
            known = type(error) is not SkepError
            self.unanswered[type(error).__name__ if known else f"SkepError: {str(error)[:MOST_SAID]}"] += 1
            client.close()
            self._at += 1
            raise NoAnswerError(str(error)) from error

    def close(self) -> None:
        for client in self._clients:
            client.close()


class Person:
    """A thread. What goes wrong in it that is no answer of a server ends up in `faults`."""

    def __init__(self, name: str, clients: Clients, first: int) -> None:
        self.door = Door(clients, first)
        self.faults: list[BaseException] = []
        self.stopped = threading.Event()
        """What is under way shall be the last."""
        self.gone = threading.Event()
        """What is under way shall be given up."""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def works(self) -> bool:
        return self._thread.is_alive()

    def leave(self, limit_s: float) -> None:
        self.stopped.set()
        self.gone.set()
        self._thread.join(limit_s)

    def _run(self) -> None:
        try:
            while not self.stopped.is_set():
                try:
                    self.step()
                except NoAnswerError:
                    time.sleep(PAUSE_S)
        except BaseException as error:  # noqa: BLE001  for whoever attacks to raise
            self.faults.append(error)
        finally:
            self.door.close()

    def step(self) -> None:
        raise NotImplementedError


class Submitter(Person):
    def __init__(
        self, name: str, clients: Clients, first: int, graphs: Graphs, ledger: Ledger, accepted: list[str], rate: float
    ) -> None:
        """`rate`: runs a second, as long as they are taken."""
        super().__init__(name, clients, first)
        self._graphs, self._ledger, self._accepted, self._every_s = graphs, ledger, accepted, 1 / rate
        self._next_s = time.monotonic()

    def step(self) -> None:
        wait_s = self._next_s - time.monotonic()
        if wait_s > 0 and self.stopped.wait(wait_s):
            return
        self._next_s = max(self._next_s + self._every_s, time.monotonic() - self._every_s)
        spec, run = self._graphs.make(), new_id(time.time_ns() // 1_000_000)
        while not self.gone.is_set():  # also when it is to stop: what was said once may have been heard
            try:
                self.door.ask(lambda client: client.runs.submit(spec, {"key": run}, run_id=run, base="/"))
            except NoAnswerError:
                time.sleep(PAUSE_S)
                continue
            self._ledger.write("accepted", run=run)
            self._accepted.append(run)
            return


class Steward(Person):
    """Decides what waits for people, sends events, cancels some, and notes each end that it is told."""

    def __init__(self, clients: Clients, chance: random.Random, ledger: Ledger, accepted: list[str]) -> None:
        super().__init__("steward", clients, 0)
        self._chance, self._ledger, self._accepted = chance, ledger, accepted
        self.open: dict[str, tuple[float, object]] = {}
        """Runs that are not over: since when (of CLOCK_MONOTONIC) they stand as they do, and how that is."""
        self.ended: set[str] = set()
        self.latest: dict[str, float] = {}
        """The longest time (of CLOCK_MONOTONIC) until which runs were heard of."""
        self.quiet = False
        """Nothing is cancelled any more."""
        self._met = 0
        self._round: list[str] = []

    def step(self) -> None:
        while self._met < len(self._accepted):
            run = self._accepted[self._met]
            self._met += 1
            self.open[run] = (time.monotonic(), None)
            if not self.quiet and self._chance.random() < CANCELS:
                self._cancel(run)
        if not self._round:
            self._round = list(self.open)
            self._help()
        if self._round:
            self._look(self._round.pop())
        self.stopped.wait(LOOK_S)

    def _cancel(self, run: str) -> None:
        try:
            self.door.ask(lambda client: client.runs.cancel(run))
        except (NotFoundError, WrongStateError):
            return
        self._ledger.write("cancelled", run=run)

    def _look(self, run: str) -> None:
        try:
            summary = self.door.ask(lambda client: client.runs.get(run))
        except NotFoundError:
            return  # the checker says so
        assert isinstance(summary, RunSummary)
        if summary.finished_ms:
            self._note_end(run, summary.state)
            return
        stands = summary.state, summary.counts
        if self.open[run][1] != stands:
            self.open[run] = (time.monotonic(), stands)

    def _note_end(self, run: str, state: str) -> None:
        tasks = self.door.ask(lambda client: seen(client.runs.view(run)))
        assert isinstance(tasks, list)
        self._ledger.write("ended", run=run, state=state, outcomes=outcomes(tasks))
        del self.open[run]
        self.ended.add(run)

    def _help(self) -> None:
        """What waits for a person or an event; some of it is left to its time limit."""
        waits = self.door.ask(lambda client: client.tasks.waits())
        assert isinstance(waits, Sequence)
        for wait in waits:
            if self._chance.random() < 0.3:
                continue
            if wait.kind == "approval":
                self._decide(wait.run, wait.task)
            elif wait.kind == "event":
                key = wait.key
                self.door.ask(lambda client, key=key: client.events.send("go", key, {"sent": True}, id=f"go-{key}"))  # type: ignore[misc]

    def _decide(self, run: str, task: str) -> None:
        approve, by = self._chance.random() < 0.7, f"person-{self._chance.randrange(1_000_000)}"

        def decide(client: Client) -> None:
            (client.tasks.approve if approve else client.tasks.reject)(run, task, by=by)

        try:
            self.door.ask(decide)
        except (NotFoundError, WrongStateError, ConflictError):
            return  # it is over, or somebody else was faster
        self._ledger.write("decided", run=run, task=task, approve=approve, by=by)
