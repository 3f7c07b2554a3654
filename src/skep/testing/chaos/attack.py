"""The attack: a fleet, a load, faults by plan; then calm, and the question what is left of it all."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from skep.errors import SkepError
from skep.testing.chaos import check, effects, failover, faults, ledger, story
from skep.testing.chaos.faults import Attack
from skep.testing.chaos.fleet import Fleet
from skep.testing.chaos.graphs import Graphs
from skep.testing.chaos.load import Door, NoAnswerError, Steward, Submitter
from skep.testing.chaos.plan import Fault, plan
from skep.testing.chaos.score import Scorecard

SUBMITTERS: Final = 2
STUCK_S: Final = 30.0
"""Beyond the last fault, and beyond the last sign of life of a run."""
SETTLE_S: Final = 180.0
"""For all of it, at the most."""
CALM_S: Final = 60.0
"""For the fleet to be whole again."""
KEEP_S: Final = 0.2
LEAVE_S: Final = 5.0
"""For a call that is under way at the very end."""


class Options(NamedTuple):
    seconds: float = 60.0
    seed: int = 1
    faults: Sequence[str] = ()
    """Names; empty: all that can be."""
    rate: float = 3.0
    """Runs that are submitted in a second."""


class Progress(NamedTuple):
    """How it stands, for whoever watches."""

    left_s: float
    doing: str
    accepted: int
    finished: int
    hit: int
    calm: bool
    """Nothing is broken now."""


Watch = Callable[[Progress], None]


class Assault:
    """One attack on one fleet."""

    def __init__(self, fleet: Fleet, options: Options, watch: Watch) -> None:
        self._fleet, self._options, self._watch = fleet, options, watch
        self._effects = fleet.folder / "effects"
        self._ledger = ledger.Ledger(fleet.folder / "ledger")
        self._accepted: list[str] = []
        seed = options.seed
        graphs = [Graphs(random.Random(f"{seed}-{at}"), self._effects, long=True, work=fleet.work) for at in range(SUBMITTERS)]
        rate = options.rate / SUBMITTERS
        clients = fleet.clients
        self._people: list[Submitter] = [
            Submitter(f"client-{at + 1}", clients, at, made, self._ledger, self._accepted, rate)
            for at, made in enumerate(graphs)
        ]
        self._steward = Steward(clients, random.Random(f"{seed}-steward"), self._ledger, self._accepted)
        self._now: dict[int, str] = {}
        """Faults that last, by their number in the plan."""
        self._hit = 0
        self._turn = threading.Lock()
        self._broken_off = threading.Event()
        self._trouble: list[BaseException] = []
        self._stories: dict[str, story.Story | None] = {}

    def run(self) -> Scorecard:
        """Raises SkepError when the attack itself fails: nothing is known then."""
        attacks, left_out = faults.possible(self._fleet, self._options.faults)
        counts = {"node": len(self._fleet.nodes), "server": len(self._fleet.servers), "redis": 1, "postgres": 1, "fleet": 1}
        planned = plan(self._options.seed, self._options.seconds, [attack.kind for attack in attacks], counts)
        self._steward.start()
        for submitter in self._people:
            submitter.start()
        try:
            self._hit_all(planned, {attack.kind.name: attack for attack in attacks})
            stuck = self._settle()
            found = self._judge(stuck)
        finally:
            self._broken_off.set()
            for person in (*self._people, self._steward):
                person.leave(LEAVE_S)
            self._ledger.close()
        times: dict[str, list[float]] = {}
        if self._fleet.one_machine:
            times = failover.measure(self._ledger.entries, effects.read(self._effects), self._stories)
        else:
            left_out |= {"shared locks, failover times": "its machines do not tell the same time"}
        return Scorecard.of(
            found,
            fleet=self._fleet.describe(),
            faults=[entry for entry in self._ledger.entries if entry.what == "fault"],
            failover=times,
            left_out=left_out,
            seed=self._options.seed,
            ended=self._fleet.ended(),
            unanswered=sum((person.door.unanswered for person in (*self._people, self._steward)), Counter()),
        )

    # -- the faults

    def _hit_all(self, planned: Sequence[Fault], attacks: Mapping[str, Attack]) -> None:
        began = time.monotonic()
        threads = [
            threading.Thread(target=self._hit_one, args=(number, fault, attacks[fault.kind], began), daemon=True)
            for number, fault in enumerate(planned)
        ]
        for thread in threads:
            thread.start()
        end = began + self._options.seconds
        try:
            while time.monotonic() < end or any(thread.is_alive() for thread in threads):
                self._look_after(max(end - time.monotonic(), 0))
        finally:
            self._broken_off.set()
            for thread in threads:
                thread.join(CALM_S)
        self._ledger.write("calm")

    def _hit_one(self, number: int, fault: Fault, attack: Attack, began: float) -> None:
        if self._broken_off.wait(began + fault.at_s - time.monotonic()):
            return
        subject = f"{attack.kind.on}-{fault.subject + 1}"
        try:
            self._ledger.write("fault", kind=fault.kind, subject=subject)
            with self._turn:
                self._now[number] = f"{attack.text} ({subject})"
                self._hit += 1
            try:
                attack.act.begin(self._fleet, fault.subject)
                self._broken_off.wait(fault.for_s)
            finally:
                attack.act.end(self._fleet, fault.subject)
        except Exception as error:  # noqa: BLE001  for the thread that attacks to raise
            self._trouble.append(error)
        finally:
            self._ledger.write("healed", kind=fault.kind, subject=subject)
            with self._turn:
                del self._now[number]

    def _look_after(self, left_s: float, quiet: str = "quiet") -> None:
        """Keeps the fleet, and tells how it stands. Raises what went wrong in another thread."""
        self._fleet.keep()
        with self._turn:
            now = list(self._now.values())
        doing, finished = " + ".join(now) or quiet, len(self._steward.ended)
        self._watch(Progress(left_s, doing, len(self._accepted), finished, self._hit, not now))
        wrong = [error for person in (*self._people, self._steward) for error in person.faults] + self._trouble
        if wrong:
            raise SkepError(f"the attack itself failed: {type(wrong[0]).__name__}: {wrong[0]}") from wrong[0]
        self._broken_off.wait(KEEP_S) if not self._broken_off.is_set() else time.sleep(KEEP_S)

    # -- the calm

    def _settle(self) -> list[str]:
        """Waits until all is over. Answers the runs of which nothing was heard for too long."""
        calm = time.monotonic()
        self._steward.quiet = True
        for person in self._people:
            person.stopped.set()
        stuck: dict[str, None] = {}
        while time.monotonic() < calm + SETTLE_S:
            self._look_after(0, "calm: all that was accepted comes to its end")
            still = dict(self._steward.open)
            submitting = [person for person in self._people if person.works]
            if not submitting and not still and len(self._steward.ended) == len(self._accepted):
                break
            now = time.monotonic()
            stuck |= {run: None for run, (since, _) in still.items() if now - max(since, calm) > STUCK_S}
            if stuck.keys() >= still.keys() and not submitting and still:
                break  # nothing else is to come
        return list(stuck)

    def _judge(self, stuck: Sequence[str]) -> check.Findings:
        lines = effects.read(self._effects)
        runs = dict.fromkeys((*self._accepted, *(line.run for line in lines)))
        door = Door(self._fleet.clients, 0)
        self._stories = {run: self._read(door, run) for run in runs}
        door.close()
        return check.check(self._ledger.entries, lines, self._stories, stuck, one_machine=self._fleet.one_machine)

    def _read(self, door: Door, run: str) -> story.Story | None:
        end = time.monotonic() + CALM_S
        while True:
            try:
                return door.ask(lambda client: story.read(client, run))  # type: ignore[return-value]
            except NoAnswerError:
                if time.monotonic() > end:
                    raise
                self._fleet.keep()
                time.sleep(KEEP_S)

    def keep_evidence(self) -> None:
        """What Skep says, beside what was promised and what was done."""
        if self._stories:
            (self._fleet.folder / "stories.json").write_bytes(msgspec.json.encode(self._stories))


def attack(fleet: Fleet, options: Options, watch: Watch) -> Scorecard:
    """Starts the fleet, attacks it, and ends it. The folder of the fleet holds the evidence. Raises SkepError."""
    try:
        fleet.start()
        assault = Assault(fleet, options, watch)
        card = assault.run()
        if card.bad:
            assault.keep_evidence()
            card.evidence = str(fleet.folder)
        return card
    finally:
        fleet.close()
