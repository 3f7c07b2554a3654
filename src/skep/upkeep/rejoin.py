"""Rejoin: nodes bring the work of an earlier engine to one that was opened anew (DESIGN §4).

Nothing is started before all runs are loaded and the nodes that are expected have come, or have had their time. Then what they
brought is taken up: first outcomes, in the order of their tokens, so that whatever needed them can go on; then leases, each of
which goes on under a new token if its task can still be at that attempt. All else is superseded.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, Protocol

import msgspec

from skep.engine.protocol import OK, Adopt, Answer, Engine
from skep.errors import SkepError
from skep.model.node import Held, Outcome
from skep.upkeep.load import LoadLoop
from skep.upkeep.place import PlaceLoop

log = logging.getLogger(__name__)

WINDOW_S: Final = 5.0
"""For nodes to come."""
LOOK_S: Final = 0.1
LATE_S: Final = 15.0
"""Nodes have that time once all servers are there that live; so long at most, those are waited for."""
OTHERS_S: Final = 15.0
"""For other servers to take up what nodes brought to them."""
SILENT_MS: Final = 10_000
"""A node that is silent for so long is gone."""
BATCH: Final = 1_000

CLAIMS_MS: Final = 15_000
"""After its last beat a node that does not come may still work under a claim: it ends that by itself at 12 s."""
END_MS: Final = 5_000
"""For an attempt to end that its node is told to stop."""
PAUSE_S: Final = 1.0
"""After the record has failed."""

Ended = tuple[Adopt, Outcome]
Report = Callable[[Sequence[Outcome]], Awaitable[list[Answer]]]


class Turns(Protocol):
    """What the servers that share an engine tell each other about its rejoin."""

    async def are_late(self) -> bool:
        """Whether a server that lives is not there yet, so that no node can come by way of it. Raises RecordError."""
        ...

    async def begin(self) -> None:
        """The leader: whoever is to come has come, or had its time; everyone takes up what he was brought."""
        ...

    async def begun(self) -> None:
        """Waits for that."""
        ...

    async def end(self) -> None:
        """The leader: it is over, and everything is placed that can be."""
        ...


class Rejoin:
    """Of one engine, for as long as it lives: a node that comes later is heard at once."""

    def __init__(
        self,
        engine: Engine,
        load: LoadLoop,
        place: PlaceLoop,
        report: Report,
        expected: Iterable[str],
        *,
        window_s: float = WINDOW_S,
        late_s: float = LATE_S,
        turns: Turns | None = None,
        leads: bool = True,
    ) -> None:
        """`report`: tells the engine how attempts under its own tokens ended. `expected`: ids of nodes. `turns`: where several
        servers share the engine. Holds `place`, if this server `leads`."""
        self._turns = turns
        self._engine = engine
        self._load = load
        self._place = place
        self._report = report
        self._missing = set(expected)
        self._window_s, self._late_s = window_s, late_s
        self._all_there = asyncio.Event()
        self._leases: list[Adopt] = []
        self._claims_s = 0.0
        """When claims are given to others (again), on the clock of the event loop."""
        self._starts: dict[str, int] = {}
        """The last incarnation of each node that came."""
        self._outcomes: list[Ended] = []
        self._turn = asyncio.Lock()
        self._over = asyncio.Event()
        if leads:
            place.waits = True
        self._note("")

    @property
    def over(self) -> bool:
        return self._over.is_set()

    async def run(self) -> None:
        """Waits for loads and nodes, takes up what they brought, and lets `place` go on."""
        try:
            await self._run()
        except Exception:  # whatever it is, nothing would ever start
            log.exception("a fault of Skep's own: what nodes brought may be repeated")
            self._over.set()
        self._place.waits = False
        self._place.wake()

    async def _run(self) -> None:
        if self._turns is not None:  # who is adopted first asks for locks again, which another one holds that is not yet
            await _surely(lambda: self._engine.withhold(CLAIMS_MS))
        await self._roll_call()
        await self._load.caught_up.wait()
        if self._missing:
            # Whoever does not come has heard nobody since before this engine began. Its locks are not known, so none is given.
            log.warning("still without %s: locks are given in a while", ", ".join(sorted(self._missing)))
            await _surely(lambda: self._engine.withhold(CLAIMS_MS))
        self._claims_s = asyncio.get_running_loop().time() + (CLAIMS_MS / 1000 if self._missing else 0)
        if self._turns is not None:
            await _surely(self._turns.begin)
        await self._take_up_all()
        if self._turns is not None:
            await self._others()
            if not self._missing:
                await _surely(lambda: self._engine.withhold(0))
            await _surely(self._turns.end)

    async def follow(self) -> None:
        """In place of `run`, on a server that does not lead: takes up what nodes brought to it when the leader says so."""
        assert self._turns is not None
        await self._turns.begun()
        self._claims_s = asyncio.get_running_loop().time() + CLAIMS_MS / 1000
        await self._take_up_all()

    async def _take_up_all(self) -> None:
        """From here on what a node brings is taken up when it comes."""
        async with self._turn:
            while self._outcomes or self._leases:
                outcomes, leases = tuple(self._outcomes), tuple(self._leases)
                try:
                    await self._take_up(outcomes, leases)
                except SkepError as error:
                    log.warning("what nodes brought could not be taken up, and is tried again: %s", error)
                    await asyncio.sleep(PAUSE_S)
                    continue
                except Exception:  # whatever it is, nothing would ever start
                    log.exception("a fault of Skep's own: what nodes brought is not taken up, and happens again")
                del self._outcomes[: len(outcomes)], self._leases[: len(leases)]
            self._over.set()

    async def _others(self) -> None:
        """Waits a while for all nodes to be let in, wherever they came: what they brought is taken up then."""
        until = asyncio.get_running_loop().time() + OTHERS_S
        coming: list[str] = []
        while asyncio.get_running_loop().time() < until:
            try:
                nodes, now_ms = await self._engine.nodes(), self._engine.now_ms
            except SkepError:
                pass  # it is asked again
            else:
                coming = [node.info.id for node in nodes if node.coming and now_ms - node.beat_ms < SILENT_MS]
                if not coming:
                    return
            await asyncio.sleep(LOOK_S)
        log.warning("what %s brought is not taken up yet by other servers: it may be repeated", ", ".join(sorted(coming)))

    async def _roll_call(self) -> None:
        """Waits for those who are expected. They have their time from when they can come: not before all servers are there."""
        clock = asyncio.get_running_loop().time
        until = clock() + self._window_s
        latest = clock() + self._late_s
        while self._missing and (left_s := until - clock()) > 0:
            try:
                async with asyncio.timeout(min(left_s, LOOK_S)):
                    await self._all_there.wait()
            except TimeoutError:
                await self._look_at_others()
                if self._missing and clock() < latest and await self._are_late():
                    until = clock() + self._window_s

    async def _are_late(self) -> bool:
        try:
            return self._turns is not None and await self._turns.are_late()
        except SkepError as error:
            log.debug("whether all servers are there cannot be seen: %s", error)
            return False

    async def _look_at_others(self) -> None:
        try:
            for node in await self._engine.nodes():
                if not node.coming or self._turns is not None:
                    self._note(node.info.id)
        except SkepError as error:
            log.debug("who has come cannot be seen: %s", error)

    async def present(
        self, node: str, incarnation: int, held: Sequence[Held], outcomes: Sequence[Outcome], *, more: bool = False
    ) -> None:
        """Leases on which a node works, and outcomes, under tokens of an earlier engine. Returns when all of them are applied,
        or superseded; each lease is answered in the node's inbox. `more`: the node has not come before it has shown all."""
        leases = [_lease(node, lease) for lease in held]
        starts = self._starts.setdefault(node, incarnation)
        if incarnation != starts:  # what the one before was at work on has ended with it
            self._starts[node] = incarnation
            self._leases = [lease for lease in self._leases if lease.node != node]
        ended = [(_ended(node, outcome), outcome) for outcome in outcomes]
        if self._over.is_set():
            too_late = asyncio.get_running_loop().time() >= self._claims_s
            gone = [lease for lease in leases if too_late and (lease.claims or lease.locks)]  # others may have them by now
            async with self._turn:
                await self._take_up(ended, [lease for lease in leases if lease not in gone])
                await self._dismiss(gone)
        else:
            self._leases += leases
            self._outcomes += ended
            if not more:
                self._note(node)
            await self._over.wait()

    def _note(self, node: str) -> None:
        self._missing.discard(node)
        if not self._missing:
            self._all_there.set()

    # -- taking up

    async def _take_up(self, ended: Sequence[Ended], held: Sequence[Adopt]) -> None:
        await self._load.ensure({lease.run for lease in held} | {adopt.run for adopt, _ in ended})
        outcomes = sorted(ended, key=lambda item: item[0].token)
        # Those with locks first: whoever waited for one asks again as soon as it is adopted.
        leases = sorted(held, key=lambda item: (not (item.claims or item.locks), item.token))
        while True:
            outcomes = await self._apply(outcomes)
            leases = await self._adopt(leases)
            runs = {lease.run for lease in leases} | {outcome.run for outcome, _ in outcomes}
            # Perhaps what they are of is not there yet: a map that is to unfold again, a task that follows a skipped one.
            if not runs or self._over.is_set() or not await self._place.settle(runs):
                break
        await self._dismiss(leases)

    async def _dismiss(self, leases: Sequence[Adopt]) -> None:
        for first in range(0, len(leases), BATCH):
            some = leases[first : first + BATCH]
            await self._engine.dismiss([(lease.node, lease.token) for lease in some])
            if any(lease.claims or lease.locks for lease in some):
                await self._engine.withhold(END_MS)  # they are about to end, and nobody else knows what they hold

    async def _apply(self, outcomes: list[Ended]) -> list[Ended]:
        """Tells the engine outcomes for as long as one of them makes room for others; answers those that have none."""
        moved = True
        while outcomes and moved:
            refused: list[Ended] = []
            for first in range(0, len(outcomes), BATCH):
                some = outcomes[first : first + BATCH]
                answers = await self._engine.adopt([adopt for adopt, _ in some])
                told: list[Outcome] = []
                for item, (answer, token) in zip(some, answers, strict=True):
                    if answer == OK:
                        told.append(msgspec.structs.replace(item[1], token=token))
                    else:
                        refused.append(item)
                if told:
                    await self._report(told)
                await asyncio.sleep(0)
            moved = len(refused) < len(outcomes)
            outcomes = refused
        return outcomes

    async def _adopt(self, leases: list[Adopt]) -> list[Adopt]:
        refused: list[Adopt] = []
        for first in range(0, len(leases), BATCH):
            some = leases[first : first + BATCH]
            answers = await self._engine.adopt(some)
            refused += [lease for lease, answer in zip(some, answers, strict=True) if answer.answer != OK]
            await asyncio.sleep(0)
        return refused


async def _surely(call: Callable[[], Awaitable[object]]) -> None:
    """As often as it takes."""
    while True:
        try:
            await call()
            return
        except SkepError as error:
            log.debug("tried again: %s", error)
            await asyncio.sleep(PAUSE_S)


def _lease(node: str, lease: Held) -> Adopt:
    grant = lease.grant
    return Adopt(
        run=grant.run,
        task=grant.task,
        attempt=grant.attempt,
        node=node,
        name=grant.name,
        token=grant.token,
        takes=grant.takes,
        claims=grant.claims,
        locks=lease.locks,
        parent=grant.parent,
        child=grant.child,
    )


def _ended(node: str, outcome: Outcome) -> Adopt:
    return Adopt(
        run=outcome.run,
        task=outcome.task,
        attempt=outcome.attempt,
        node=node,
        name="",
        token=outcome.token,
        ended=True,
        parent=outcome.parent,
        child=outcome.child,
    )
