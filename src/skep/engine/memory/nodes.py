"""The verbs about nodes, locks, time and the stream: register to trim."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from skep.engine.memory.ends import Ends
from skep.engine.memory.live import Asked, Lease, LiveNodeState
from skep.engine.memory.state import DELAYED, FAILED, PARKED, READY, RUNNING, SUCCEEDED
from skep.engine.protocol import (
    NOT_FOUND,
    OK,
    REFUSED,
    SUPERSEDED,
    WAITING,
    WRONG_STATE,
    Answer,
    Ask,
    Beat,
    EngineStats,
    InboxEntry,
    Promoted,
    Register,
)
from skep.errors import NotFoundError
from skep.model.event import Event
from skep.model.node import LiveNode, LockGrant
from skep.model.run import Claim, Token
from skep.model.state import TaskState


class NodeVerbs(Ends):
    """Register to trim."""

    def register(self, now_ms: int, items: Sequence[Register]) -> list[Answer]:
        """Nodes join."""
        self.begin(now_ms)
        answers = [self._register(item) for item in items]
        self.flush()
        return answers

    def _register(self, item: Register) -> Answer:
        old = self.nodes.get(item.info.id)
        if old is not None:
            if old.info.incarnation == item.info.incarnation:
                return OK
            if old.info.incarnation > item.info.incarnation:
                return REFUSED
            self._leave(old, "lost")
        self.nodes[item.info.id] = LiveNodeState(item.info, item.beats, self.now_ms, item.coming)
        self.emit("registered", node=item.info.id, count=item.info.incarnation)
        self.stirred.add("ready")
        return OK

    def _leave(self, node: LiveNodeState, reason: str) -> None:
        self.nodes.pop(node.info.id, None)
        self.emit("lost" if reason == "lost" else "retired", node=node.info.id, count=node.info.incarnation)
        for n in sorted(node.leases):
            self.return_lease(node.leases[n], reason)

    def beat(self, now_ms: int, items: Sequence[Beat]) -> list[Answer]:
        """Signs of life; a lease that the node should have and does not list returns to ready."""
        self.begin(now_ms)
        answers = [self._beat(item) for item in items]
        self.flush()
        return answers

    def _beat(self, item: Beat) -> Answer:
        node = self.nodes.get(item.node)
        if node is None or node.info.incarnation != item.incarnation:
            return NOT_FOUND
        node.beat_ms = self.now_ms
        node.server = item.server
        node.shown = None
        listed = {token[1] for token in item.leases if token[0] == self.epoch}
        unseen = {e.entry.token.n for e in node.inbox if e.number > item.seen and e.entry.token.epoch == self.epoch}
        for n in sorted(node.leases.keys() - listed - unseen):
            if not node.leases[n].ended:
                self.return_lease(node.leases[n], "unlisted")
        return OK

    def drain(self, now_ms: int, nodes: Sequence[str], on: bool = True) -> list[Answer]:
        """Stops grants to nodes, or allows them again."""
        self.begin(now_ms)
        answers: list[Answer] = []
        for name in nodes:
            node = self.nodes.get(name)
            if node is None:
                answers.append(NOT_FOUND)
                continue
            if node.draining != on:
                node.draining = on
                node.shown = None
                self.emit("draining" if on else "registered", node=name, count=node.info.incarnation)
                self.stirred.add("ready")
            answers.append(OK)
        return answers

    def retire(self, now_ms: int, nodes: Sequence[tuple[str, int]], lost: bool = False) -> list[Answer]:
        """Nodes leave, in good order or not."""
        self.begin(now_ms)
        answers: list[Answer] = []
        for name, incarnation in nodes:
            node = self.nodes.get(name)
            if node is not None and node.info.incarnation < incarnation:
                answers.append(NOT_FOUND)
                continue
            if node is not None and node.info.incarnation == incarnation:
                self._leave(node, "lost" if lost else "retired")
            answers.append(OK)  # also when it has left before
        self.flush()
        return answers

    def list_nodes(self) -> list[LiveNode]:
        return [node.as_live() for node in self.nodes.values()]

    def look_at_nodes(self) -> list[LiveNode]:
        """As `list_nodes`, for who only looks: a node of which nothing has changed is the same object as the last time."""
        found: list[LiveNode] = []
        for node in self.nodes.values():
            shown = node.shown
            if shown is None:
                shown = node.shown = node.as_live()
            found.append(shown)
        return found

    def stats(self) -> EngineStats:
        """Counts over all unfinished runs."""
        states = [0] * len(TaskState)
        runs, oldest_ms = 0, 0
        for run in self.runs.values():
            if run.state.ended or not run.opened:
                continue
            runs += 1
            for state in TaskState:
                states[state] += run.states.count(state)
            if READY in run.states:
                since_ms = min(run.ready_ms(task) for task, state in enumerate(run.states) if state == READY)
                oldest_ms = min(oldest_ms or since_ms, since_ms)
        return EngineStats(tuple(states), runs, self.live_tasks, oldest_ms)

    def take(self, node: str, incarnation: int, after: int, limit: int) -> list[InboxEntry]:
        """The node's inbox above `after`; what stands before is forgotten."""
        live = self.nodes.get(node)
        if live is None or live.info.incarnation != incarnation:
            raise NotFoundError(f"node {node} (incarnation {incarnation}) is not registered")
        if live.coming:
            live.coming = False
            live.shown = None
            self.stirred.add("ready")
        inbox = live.inbox
        while inbox and inbox[0].number <= after:
            inbox.popleft()
        return [inbox[i] for i in range(min(limit, len(inbox)))]

    # -- locks inside tasks

    def claim(self, now_ms: int, items: Sequence[Ask]) -> list[Answer]:
        """Takes locks for running tasks, or puts them in the lists."""
        self.begin(now_ms)
        return [self._claim(item) for item in items]

    def _claim(self, item: Ask) -> Answer:
        run = self.runs.get(item.run)
        lease = self.lease_of(run, item.task, item.token)
        if lease is None:
            return NOT_FOUND if run is None else SUPERSEDED
        held = self.claims.held(item.key, lease.n)
        if held:
            return OK if held >= min(item.units, item.cap) else WRONG_STATE  # two that grow a shared lock would wait for ever
        asks = lease.asks = lease.asks if lease.asks is not None else {}
        if item.key in asks:
            return WAITING
        claim = Claim(item.key, item.units, item.cap)
        if self.claims.blocked((claim,), 0) is None:
            self.hold_ask(lease, claim, item.hold_ms)
            return OK
        if item.wait:
            number = self.claims.next_number()
            asks[item.key] = Asked(number)
            self.claims.wait(claim, number, lambda: self._grant_ask(lease, claim, number, item.hold_ms))
        return WAITING

    def _grant_ask(self, lease: Lease, claim: Claim, number: int, hold_ms: int) -> None:
        self.claims.served(claim.key, number)
        self.hold_ask(lease, claim, hold_ms)
        lease.node.give(LockGrant(Token(self.epoch, lease.n), claim.key))
        self.stirred.add(f"node:{lease.node.info.id}")

    def release(self, now_ms: int, items: Sequence[tuple[Token, str]]) -> list[Answer]:
        """Gives locks back, or gives up waiting for them."""
        self.begin(now_ms)
        answers: list[Answer] = []
        for token, key in items:
            lease = self.leases.get(token[1]) if token[0] == self.epoch else None
            if lease is None:
                answers.append(SUPERSEDED)
                continue
            self.drop_ask(lease, key)
            answers.append(OK)
        return answers

    # -- time

    def promote(self, now_ms: int) -> Promoted:
        """Makes due what is delayed and advances cursors, within the budget of one call."""
        self.begin(now_ms)
        moved = 0
        delays = self.delays
        while delays and delays[0][0] <= self.now_ms and self.budget > 0:
            due_ms, _, kind, name, task, version = heapq.heappop(delays)
            if kind == "rate":
                woken = self.claims.look_again(name, due_ms, self.budget)
                self.budget -= woken
                moved += woken
                continue
            run = self.runs.get(name)
            if run is not None and run.states[task] == DELAYED and run.version[task] == version:
                self.make_ready(run, task)
                self.budget -= 1
                moved += 1
        for run in list(self.sweeping.values()):
            if self.budget <= 0:
                break
            before = self.budget
            self.advance(run)
            moved += before - self.budget
        self.flush()
        more = bool(self.sweeping) or bool(delays and delays[0][0] <= self.now_ms)
        return Promoted(moved, more, delays[0][0] if delays else 0)

    def reap(self, now_ms: int, silent_ms: int = 10_000, max_lost: int = 3) -> Promoted:
        """Ends what is over: silent nodes, deadlines, run timeouts, locks held too long."""
        self.begin(now_ms)
        self.max_lost = max_lost
        moved = 0
        for node in list(self.nodes.values()):
            if node.beats and self.now_ms - node.beat_ms > silent_ms:
                self._leave(node, "lost")
                moved += 1
        limits = self.limits
        while limits and limits[0][0] <= self.now_ms and self.budget > 0:
            due_ms, _, kind, name, task, n = heapq.heappop(limits)
            moved += self._over(due_ms, kind, name, task, n)
            self.budget -= 1
        self.flush()
        more = bool(limits and limits[0][0] <= self.now_ms)
        return Promoted(moved, more, limits[0][0] if limits else 0)

    def withhold(self, now_ms: int, ms: int) -> None:
        """Gives no claim for so long; 0: gives again."""
        self.begin(now_ms)
        until_ms = self.now_ms + ms
        if not ms and self.withheld_ms > self.now_ms:
            self.withheld_ms = self.now_ms
            self.claims.give_again()
        elif ms and until_ms > self.withheld_ms:
            self.withheld_ms = until_ms
            self.claims.withhold()
            self.push(self.limits, until_ms, "withheld", "")

    def _over(self, due_ms: int, kind: str, name: str, task: int, n: int) -> bool:
        """One limit has been reached. True when it still meant something."""
        if kind == "claim":
            self.claims.free(name, n)
            return True
        if kind == "withheld":
            if due_ms < self.withheld_ms:
                return False  # it was made longer
            self.claims.give_again()
            return True
        if kind == "lock":
            lease = self.leases.get(n)
            if lease is None or not lease.asks or lease.asks.get(name) != Asked(0, due_ms):
                return False  # given back, or taken again since
            self.drop_ask(lease, name)
            return True
        run = self.runs.get(name)
        if run is None or run.state.ended:
            return False
        if kind == "timeout":
            self.begin_cancel(run, "timeout")
            return True
        state = run.states[task]
        if state >= SUCCEEDED or (state == PARKED and task in run.families):
            return False  # the children of a map have the same deadline, and end it
        if state == RUNNING:
            self.stop(self.leases[run.tokens[task]], "deadline")
            return True
        if state == READY:
            self.flush()  # it may have become ready in this very call
        attempt = run.attempts[task] if run.left_attempt(task) else 0
        self.emit("failed", run.id, task, attempt=attempt, reason="deadline")
        self.end_task(run, task, FAILED)
        return True

    # -- the stream

    def lead(self, now_ms: int, server: str, hold_ms: int) -> bool:
        """The leader's lease: one server at a time."""
        self.begin(now_ms)
        holder, until_ms = self.leader
        if holder != server and until_ms > self.now_ms:
            return False
        self.leader = (server, self.now_ms + hold_ms)
        return True

    def events(self, after: int, limit: int) -> list[Event]:
        start = max(after - self.trimmed, 0)
        return self.log[start : start + limit]

    def trim(self, mark: int, keep: int = 0) -> None:
        """Moves the mark; forgets events up to `keep` before it, and runs that ended before it some time ago."""
        mark = min(mark, self.n)
        if mark > self.mark:
            self.mark = mark
            self.stirred.add("mark")
        count = self.mark - keep - self.trimmed
        if count > 0:
            del self.log[:count]
            self.trimmed += count
        self.expire(self.mark)
