"""The events of a run, told again one by one: who held each task, how each ended, and what should not have been."""

from __future__ import annotations

from collections import defaultdict

from skep.model.event import Event
from skep.model.run import Token
from skep.testing.chaos.story import CLOSES, ENDS, Story

NOBODY = Token(0, 0)


class Trace:
    """Of one run. A lease has several tokens when servers were opened anew while it lasted: each adoption gives it another, and
    the task knows the first."""

    def __init__(self, story: Story) -> None:
        self.run = story.run
        self.names = {task.index: task.name for task in story.tasks}
        self.holder: dict[int, Token] = {}
        """Of tasks that run: the token of the lease now."""
        self.first: dict[Token, Token] = {}
        """Of an adopted lease: the token that the task saw."""
        self.outcome: dict[int, tuple[str, Token, Token]] = {}
        """Of tasks that ended: how, the token of the attempt (or NOBODY), and the place of the event."""
        self.counted: defaultdict[int, set[Token]] = defaultdict(set)
        """Tokens, as tasks saw them, of attempts whose end is recorded."""
        self.granted_ms: list[int] = []
        self.faults: list[str] = []
        self._over = False
        for told in story.events:
            self._tell(told.at, told.event)

    def _wrong(self, what: str, event: Event) -> None:
        self.faults.append(f"run {self.run}: {what}: {self.name(event.task)} {event.kind} of attempt {event.attempt}")

    def name(self, task: int) -> str:
        return self.names.get(task, f"task {task}")

    def _tell(self, at: Token, event: Event) -> None:
        kind, task = event.kind, event.task
        if kind == "ended":
            if self._over:
                self._wrong("it ended twice", event)
            self._over = True
            return
        if kind in ("granted", "adopted", *CLOSES) and self._over:
            self._wrong("something happened after its end", event)
        if kind in ("granted", "adopted"):
            if task in self.outcome:
                self._wrong("a task goes on after its outcome", event)
            self.holder[task] = at
            if kind == "adopted":
                before = Token(event.token_epoch, event.token)
                self.first[at] = self.first.get(before, before)
            else:
                self.granted_ms.append(event.at_ms)
        elif kind in CLOSES:
            for each in event.tasks or (task,):
                self._close(at, event, each)

    def _close(self, at: Token, event: Event, task: int) -> None:
        token = Token(event.token_epoch, event.token) if event.token else NOBODY
        holder = self.holder.pop(task, NOBODY)
        if token != NOBODY:
            if token != holder:
                self._wrong(f"an outcome under token {token} while {holder} held the task", event)
            if event.kind != "returned":
                self.counted[task].add(self.first.get(token, token))
        if event.kind in ENDS:
            if task in self.outcome:
                self._wrong("another outcome", event)
            self.outcome[task] = event.kind, self.first.get(token, token), at
