"""`@task` makes a function a task, `shell` a command."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Generic, Literal, ParamSpec, TypeAlias, TypedDict, TypeVar, Unpack, cast, overload

from skep.errors import SpecError
from skep.model.authoring import build_task
from skep.node.functions import registry
from skep.sdk.draft import current, draft
from skep.sdk.ref import Ref, item, template_data, value_data

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
Duration: TypeAlias = str | int | float | timedelta
_KINDS: Final = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)


class AnyOptions(TypedDict, total=False):
    """What every task may be given, with the words of YAML; `skep.model.keys.TASK` says what they mean."""

    max_parallel: int
    when: Any
    retries: int | Mapping[str, Any]
    priority: int | str
    type: str
    labels: Mapping[str, Any]
    estimated_duration: Duration
    on_failure: Literal["fail", "cancel", "continue"] | Mapping[str, Any]
    writes: str | Sequence[str]


class TaskOptions(AnyOptions, total=False):
    """What a task may be given that runs on a node."""

    timeout: Duration
    deadline: Duration
    requires: str | Sequence[str]
    resources: Mapping[str, Any]
    placement: Mapping[str, Any]
    locks: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]]
    concurrency: Mapping[str, Any] | Sequence[Mapping[str, Any]]
    rate: Mapping[str, Any] | Sequence[Mapping[str, Any]]


class FunctionOptions(TaskOptions, total=False):
    """What `@task` takes."""

    isolation: Literal["process"]


class CallOptions(FunctionOptions, total=False):
    """What `.options()` takes: also what only one use of a task can know."""

    name: str
    needs: Any


class ShellOptions(TaskOptions, total=False):
    """What `shell()` takes."""

    name: str
    needs: Any
    map: Any
    env: Mapping[str, Any]
    cwd: Any


class HttpOptions(TaskOptions, total=False):
    """What `http()` takes beside the request."""

    name: str
    needs: Any
    map: Any


class AskOptions(AnyOptions, total=False):
    """What `approval()` takes beside the question: it needs no node, and holds nothing."""

    name: str
    needs: Any
    map: Any


class ParkedOptions(AskOptions, total=False):
    """What a task takes that waits for a child run or an event."""

    timeout: Duration
    deadline: Duration


class TaskFunction(Generic[P, R]):
    """A function that is a task. Inside of a `@workflow` function a call adds a task; anywhere else it is a plain call.

    An async function counts as one that gives what it gives when awaited, so that types fit inside of workflows; the function
    itself is `function`.
    """

    __name__: str

    def __init__(self, function: Callable[P, Any], options: Mapping[str, Any]) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.name = function.__name__
        self.reference = _reference(function)
        self.signature = inspect.signature(function)
        self._options = options

    def __repr__(self) -> str:
        return f"<task {self.reference}>"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The result; inside of a workflow, a Ref to it. Raises TypeError when the arguments do not fit the function."""
        if current.get() is None:
            return cast(R, self.function(*args, **kwargs))
        return cast(R, self._add(self._arguments(*args, **kwargs), {}))

    def map(self, items: Any, /, **fixed: Any) -> list[R]:
        """Adds one task for each item of a list, or of a Ref or expression that gives one; gives the list of their results.

        The item goes to the first parameter that must have a value and is not in `fixed`. Values in `fixed` may use
        `skep.item` and `skep.index`; so `f.map(pages, url=skep.item.url)` says for itself where the item goes.
        """
        return cast(list[R], self._add(self._arguments(**with_item(self.signature, fixed)), {"map": map_data(items)}))

    def options(self, **options: Unpack[CallOptions]) -> TaskFunction[P, R]:
        """The same task with other options; those not named stay as they are."""
        changed: TaskFunction[P, R] = TaskFunction(self.function, {**self._options, **options})
        return changed

    def _arguments(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        given: dict[str, Any] = {}
        for name, value in self.signature.bind(*args, **kwargs).arguments.items():
            loose = self.signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD
            given |= value if loose else {name: value}
        return given

    def _add(self, arguments: Mapping[str, Any], data: Mapping[str, Any]) -> Any:
        does = {"python": self.reference, **({"with": value_data(arguments)} if arguments else {}), **data}
        return draft(f"{self.name}.map()").add(self.name, does, self._options)


@overload
def task(function: Callable[P, Coroutine[Any, Any, T]], /) -> TaskFunction[P, T]: ...
@overload
def task(function: Callable[P, R], /) -> TaskFunction[P, R]: ...
@overload
def task(**options: Unpack[FunctionOptions]) -> _Decorator: ...
def task(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Makes a function a task: `@task`, or `@task(retries=2, timeout="5m", requires=["gpu"])`.

    It must be a function of a module or script, so that a node finds it again. Raises SpecError.
    """

    def decorate(function: Callable[..., Any]) -> TaskFunction[..., Any]:
        _check(function)
        made: TaskFunction[..., Any] = TaskFunction(function, options)
        if options:
            build_task(made.name, {"python": made.reference, "map": [], **template_data(options)}, source=made.reference)
        registry[made.reference] = function
        return made

    return decorate if function is None else decorate(function)


class _Decorator:
    """The type of `@task(…)`."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, T]], /) -> TaskFunction[P, T]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> TaskFunction[P, R]: ...
    def __call__(self, function: Any, /) -> Any:
        raise NotImplementedError


def with_item(signature: inspect.Signature, fixed: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of one child of a map: the item goes to the first parameter that must have a value and has none."""
    free = [parameter for name, parameter in signature.parameters.items() if name not in fixed]
    taker = next((one for one in free if one.default is one.empty and one.kind is not one.VAR_KEYWORD), None)
    if taker is None and not fixed and free:
        taker = free[0]
    return {**({taker.name: item} if taker is not None else {}), **fixed}


def map_data(items: Any) -> Any:
    """What stands in `map` for a list, or for a Ref or expression that gives one."""
    return template_data(items) if isinstance(items, str | Ref) else value_data(list(items))


def shell(command: str | Sequence[Any], **options: Unpack[ShellOptions]) -> Any:
    """Adds a command to the workflow being built and gives its output.

    A text is a shell line in which every Ref becomes one quoted word: `shell(f"ruff check {path}")`; a list is a program and
    its arguments, run without a shell. As in YAML, `${{ … }}` in it is an expression.
    """
    words = template_data(command)
    return draft("shell()").add("shell", {"run": words}, cast(Mapping[str, Any], options))


def _check(function: Callable[..., Any]) -> None:
    """Refuses what a node could not find by its name, or not call with arguments by name."""
    name = getattr(function, "__qualname__", type(function).__qualname__)
    if not inspect.isfunction(function):
        problem = "expected a function"
    elif "<lambda>" in name:
        problem = "is a lambda: it has no name under which a node could find it; write a function with def"
    elif "<locals>" in name:
        problem = "is defined inside of a function, where a node cannot find it; move it to the top of its module"
    elif "." in name:
        problem = "is a method, and a node has no object to call it on; write a function at the top of its module"
    elif odd := [one.name for one in inspect.signature(function).parameters.values() if one.kind not in _KINDS]:
        problem = f"takes {', '.join(odd)} by position only; a node calls it with arguments by name"
    else:
        return
    raise SpecError.at(name, problem)


def _reference(function: Callable[..., Any]) -> str:
    """`module:name`, or `/path/to/file.py:name` for a script or a module outside of any package."""
    module = sys.modules.get(function.__module__)
    spec = getattr(module, "__spec__", None)
    importable = spec.name if spec is not None and function.__module__ == "__main__" else function.__module__
    if "." in importable or hasattr(module, "__path__"):
        return f"{importable}:{function.__qualname__}"
    file = Path(function.__code__.co_filename)
    return f"{file.resolve() if file.suffix == '.py' and file.is_file() else importable}:{function.__qualname__}"
