"""Somebody who works with a server that is killed all the time, and remembers what was promised."""

from __future__ import annotations

import random
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from skep.client import Client, UnreachableError
from skep.errors import SkepError
from skep.ids import new_id
from skep.testing.chaos.graphs import Graphs


class Decision(NamedTuple):
    task: str
    attempt: int
    approve: bool
    by: str


class Person:
    """A thread that submits, steers and decides. What it has in its lists was acknowledged, but for retries."""

    def __init__(self, home: Path, graphs: Graphs, chance: random.Random, name: str, runs: int) -> None:
        """`runs`: at most so many are submitted."""
        self._client = Client(home)
        self._graphs, self._chance, self._name = graphs, chance, name
        self._runs = runs
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name=name)
        self.accepted: list[str] = []
        self.retried: set[str] = set()
        """Runs of which a retry was acknowledged, or got no answer, and may have been taken before the server was killed."""
        self.cancelled: dict[str, int] = {}
        """Runs that were said to be cancelled, to when (of CLOCK_MONOTONIC)."""
        self.decided: dict[str, list[Decision]] = defaultdict(list)
        self.faults: list[BaseException] = []
        """What should not have happened."""

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns when what is under way has its answer."""
        self._stop.set()
        self._thread.join()
        self._client.close()

    def _work(self) -> None:
        chance = self._chance
        while not self._stop.is_set():
            try:
                if len(self.accepted) < self._runs and chance.random() < 0.5:
                    self._submit()
                else:
                    chance.choice((self._command, self._command, self._decide, self._send, self._look))()
            except UnreachableError:
                time.sleep(0.02)
            except SkepError:
                pass  # it was refused, as it may be: the run has ended, somebody else has decided
            except BaseException as error:  # noqa: BLE001  for the test to raise
                self.faults.append(error)
                return

    def _submit(self) -> None:
        """Until it has an answer: the same id makes it one run."""
        spec, run = self._graphs.make(), new_id(time.time_ns() // 1_000_000)
        while not self._stop.is_set():
            try:
                self.accepted.append(self._client.runs.submit(spec, {"key": run}, run_id=run).id)
                return
            except UnreachableError:
                time.sleep(0.02)

    def _some(self) -> str:
        """A run of its own, mostly one of the last."""
        if not self.accepted:
            return "none"
        return self._chance.choice(self.accepted[-10:] if self._chance.random() < 0.8 else self.accepted)

    def _command(self) -> None:
        run, verb = self._some(), self._chance.choice(("pause", "resume", "resume", "cancel", "retry"))
        tried = {run} if verb == "retry" else set[str]()
        try:
            getattr(self._client.runs, verb)(run)
        except UnreachableError:
            self.retried |= tried
            raise
        self.retried |= tried

    def _decide(self) -> None:
        for wait in self._client.tasks.waits(kind="approval", run=self._some()):
            approve = self._chance.random() < 0.7
            by = f"{self._name}-{self._chance.randrange(1_000_000)}"
            (self._client.tasks.approve if approve else self._client.tasks.reject)(wait.run, wait.task, by=by)
            self.decided[wait.run].append(Decision(wait.task, wait.attempt, approve, by))

    def _send(self) -> None:
        run = self._some()
        self._client.events.send("go", run, {"sent": True}, id=f"go-{run}")

    def _look(self) -> None:
        run = self._some()
        if self._client.runs.get(run).state == "cancelled":
            self.cancelled.setdefault(run, time.monotonic_ns())
