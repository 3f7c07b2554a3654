"""Random workflows with everything that recovery must bring back."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from shlex import quote
from typing import Any, Final

from skep.model.authoring import build_workflow
from skep.model.spec import WorkflowSpec

WORK: Final = str(Path(__file__).with_name("work.py"))
APP: Final = "skep.testing.chaos.work"
"""The same as nodes elsewhere know it."""
KEYS: Final = ("red", "green")
"""Of locks."""
MORE_KEYS: Final = tuple(f"key-{number}" for number in range(12))
"""Where some hold one for seconds, and a lost node may keep it for 15 s: so that nobody waits for half a minute."""

Task = dict[str, Any]


class Graphs:
    """Of one seed."""

    def __init__(self, chance: random.Random, ledger: Path, *, long: bool = False, work: str = WORK) -> None:
        """`ledger`: where tasks note what they do. `long`: some attempts take seconds. `work`: what nodes call its module."""
        self._chance = chance
        self._ledger = str(ledger)
        self._work = work
        self._keys = MORE_KEYS if long else KEYS
        self._kinds: dict[Callable[[str], Task], int] = {
            self._touch: 4,
            self._shell: 3,
            self._each: 3,
            self._flaky: 2,
            self._count: 2,
            self._snooze: 2,
            self._hold: 2,
            self._locked: 2,
            self._hang: 1,
            self._ask: 2,
            self._wait: 2,
            self._child: 2,
        } | ({self._long: 2, self._long_locked: 1} if long else {})

    def make(self) -> WorkflowSpec:
        """Its input `key` is that of its events."""
        chance = self._chance
        tasks: dict[str, Task] = {}
        for at in range(chance.randint(2, 8)):
            name = f"t{at}"
            (kind,) = chance.choices(tuple(self._kinds), tuple(self._kinds.values()))
            task = kind(name)
            task["needs"] = chance.sample(tuple(tasks), min(at, chance.randint(0, 2)))
            if chance.random() < 0.25:
                task.setdefault("on_failure", chance.choice(("continue", "continue", "cancel", "fail")))
            if chance.random() < 0.1:
                task["when"] = "always()"
            tasks[name] = task
        made: dict[str, Any] = {"name": "random", "inputs": {"key": ""}, "tasks": tasks}
        if chance.random() < 0.1:
            made["timeout"] = "3s"
        return build_workflow(made)

    def _python(self, function: str, name: str, **arguments: Any) -> Task:
        return {"python": f"{self._work}:{function}", "with": {"ledger": self._ledger, "name": name, **arguments}}

    def _touch(self, name: str) -> Task:
        return self._python("touch", name, ms=self._chance.randint(1, 80))

    def _shell(self, name: str) -> Task:
        line = f"{name} $SKEP_ATTEMPT $SKEP_TOKEN $SKEP_RUN 0 >> {quote(self._ledger)}"
        output = '{"attempt":%s,"token":"%s"}'
        tell = f"printf '{output}' $SKEP_ATTEMPT $SKEP_TOKEN > \"$SKEP_OUTPUT\""
        return {"run": f"echo start {line}; sleep 0.0{self._chance.randint(1, 9)}; echo end {line}; {tell}"}

    def _each(self, name: str) -> Task:
        items = [{"at": at, "ms": self._chance.randint(1, 40)} for at in range(self._chance.randint(0, 12))]
        made = self._python("touch", f"{name}[${{{{ item.at }}}}]", ms="${{ item.ms }}")
        return {**made, "map": items, "max_parallel": self._chance.choice((0, 0, 2))}

    def _flaky(self, name: str) -> Task:
        policy = {"limit": 3, "factor": 1, "delay": f"{self._chance.randint(1, 300)}ms"}
        return {**self._python("flaky", name, times=self._chance.randint(1, 4)), "retries": policy}

    def _count(self, name: str) -> Task:
        return self._python("count", name, steps=self._chance.randint(5, 40))

    def _snooze(self, name: str) -> Task:
        return self._python("snooze", name, times=self._chance.randint(1, 4))

    def _hold(self, name: str) -> Task:
        return self._python("hold", name, key=self._chance.choice(self._keys), ms=self._chance.randint(5, 100))

    def _locked(self, name: str) -> Task:
        key = self._chance.choice(self._keys)
        return {**self._python("locked", name, key=key, ms=self._chance.randint(5, 100)), "locks": [key]}

    def _long(self, name: str) -> Task:
        return self._python("touch", name, ms=self._chance.randint(2_000, 9_000))

    def _long_locked(self, name: str) -> Task:
        key = self._chance.choice(self._keys)
        return {**self._python("locked", name, key=key, ms=self._chance.randint(1_000, 3_000)), "locks": [key]}

    def _hang(self, name: str) -> Task:
        limit = self._chance.choice(("timeout", "deadline"))
        return {**self._python("hang", name), limit: f"{self._chance.randint(300, 1500)}ms", "on_failure": "continue"}

    def _ask(self, name: str) -> Task:
        return {"approval": {"message": f"{name}?", "deadline": "4s", "default": "approve"}}

    def _wait(self, name: str) -> Task:
        return {"wait_for": {"event": "go", "key": "${{ inputs.key }}"}, "timeout": "4s", "on_failure": "continue"}

    def _child(self, name: str) -> Task:
        tasks = {"a": self._touch("a"), "b": {**self._snooze("b"), "needs": ["a"]}}
        return {"uses": {"workflow": {"tasks": tasks}}}
