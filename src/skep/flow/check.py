"""Collects what is wrong with a workflow while it is compiled, so that one error names all of it. Pure."""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice
from typing import Any, Final

from skep.errors import Problem, SpecError
from skep.flow.evaluation import ExpressionError
from skep.flow.expressions import Expression, Uses, parse_condition
from skep.flow.templates import Template, Value, compile_value
from skep.model.fields import nearest

MAX_PROBLEMS: Final = 100
"""Problems that one error lists; a mistake in a generated workflow may be in every one of its tasks."""
SIMILAR: Final = 2_000
"""Names among which a similar one is looked for."""


class Check:
    """Reads values with expressions, and knows which tasks and inputs they may name."""

    def __init__(self, tasks: Collection[str], inputs: Collection[str]) -> None:
        self.tasks = tasks
        self.inputs = inputs
        self.problems: list[Problem] = []
        self._unlisted = 0

    def refuse(self, path: str, message: str) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem(path, message))
        else:
            self._unlisted += 1

    def finish(self) -> None:
        """Raises SpecError when something was refused."""
        if self._unlisted:
            self.problems.append(Problem("", f"and {self._unlisted} more problems"))
        if self.problems:
            raise SpecError(self.problems)

    def value(self, value: Any, path: str, *, item: bool = False, secrets: bool = False) -> Value | None:
        """The compiled value; None when it is refused. `item`, `secrets`: whether these may be used in it."""
        try:
            compiled = compile_value(value)
        except ExpressionError as error:
            self.refuse(path, str(error))
            return None
        self.names(compiled, path, item=item, secrets=secrets)
        return compiled

    def condition(self, text: str, path: str, *, item: bool = False) -> Expression | None:
        """The expression of a `when` or `map`; None when it is refused."""
        try:
            compiled = parse_condition(text)
        except ExpressionError as error:
            self.refuse(path, str(error))
            return None
        self.names(compiled, path, item=item)
        return compiled

    def shell(self, script: Template, path: str) -> None:
        """Refuses values where a shell would not take them for one word."""
        try:
            script.check_shell()
        except ExpressionError as error:
            self.refuse(path, str(error))

    def names(self, uses: Uses, path: str, *, item: bool = False, secrets: bool = False) -> None:
        """Refuses names that are not there, or not in this place."""
        for name in sorted(uses.tasks):
            self.task(name, path)
        for name in sorted(uses.inputs):
            if name not in self.inputs:
                self.refuse(path, f"there is no input '{name}'{self._similar(name, self.inputs)}")
        if uses.uses_item and not item:
            self.refuse(path, "`item` and `index` are only for a task with `map`, and not for its list")
        if uses.secrets and not secrets:
            places = "`run`, `env`, `cwd`, `http` and the `with` of a function"
            self.refuse(path, f"secrets are only for {places}: they are known to the node alone")

    def task(self, name: str, path: str) -> None:
        """Refuses the name of a task that is not there."""
        if name not in self.tasks:
            self.refuse(path, f"there is no task '{name}'{self._similar(name, self.tasks)}")

    def _similar(self, name: str, known: Collection[str]) -> str:
        return nearest(name, islice(known, SIMILAR)) if len(self.problems) < MAX_PROBLEMS else ""
