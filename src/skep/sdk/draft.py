"""The workflow that is being built while the body of a `@workflow` function runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Final

from skep.errors import SkepError, SpecError
from skep.model.keys import TASK
from skep.sdk.ref import Ref, task_name, task_ref, template_data

current: Final[ContextVar[Draft | None]] = ContextVar("skep_draft", default=None)


class Draft:
    """Tasks in authoring form, in the order in which they were called for."""

    def __init__(self, owner: object, outer: Draft | None = None) -> None:
        """`owner`: the workflow whose body runs; `outer`: the one that uses it, if one does."""
        self._owner = owner
        self._outer = outer
        self.tasks: dict[str, dict[str, Any]] = {}
        self._uses: Counter[str] = Counter()

    def add(self, base: str, data: Mapping[str, Any], options: Mapping[str, Any]) -> Ref:
        """Adds a task that does `data` and answers its result. Its name is the option `name`, else `base`, `base_2` and so on.

        Options that are None or do not fit the task are left out, as with the `defaults` of a workflow.
        """
        given = {key: value for key, value in options.items() if value is not None}
        fitting = {key: value for key, value in given.items() if key not in TASK.by_key or _fits(key, data, given)}
        name = fitting.pop("name", None)
        if name is None:
            name = self._free(base)
        elif name in self.tasks:
            raise SpecError.at(f"tasks.{name}", "there are two tasks of this name, expected another `name` for one of them")
        self.tasks[name] = {**data, **{key: _option(key, value) for key, value in fitting.items()}}
        return task_ref(name)

    def is_inside(self, owner: object) -> bool:
        """Whether it is built for this workflow, or for one that it uses."""
        return self._owner is owner or (self._outer is not None and self._outer.is_inside(owner))

    def _free(self, base: str) -> str:
        while True:
            self._uses[base] += 1
            name = base if self._uses[base] == 1 else f"{base}_{self._uses[base]}"
            if name not in self.tasks:
                return name


def draft(what: str) -> Draft:
    """The workflow being built. Raises SkepError outside of a `@workflow` function."""
    found = current.get()
    if found is None:
        raise SkepError(f"{what} works only inside of a @workflow function: it adds a task to the workflow being built")
    return found


def _fits(key: str, data: Mapping[str, Any], options: Mapping[str, Any]) -> bool:
    return TASK.by_key[key].fits({**data, **options})


def _option(key: str, value: Any) -> Any:
    if key == "needs":
        return [task_name(one) for one in value] if isinstance(value, list | tuple) else task_name(value)
    if key == "on_failure" and isinstance(value, Mapping):
        return {kind: task_name(handler) for kind, handler in value.items()}
    return template_data(value)
