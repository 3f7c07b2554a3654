"""`@workflow` makes a function a workflow: its body runs once, to say which tasks there are."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Generic, Literal, ParamSpec, TypedDict, Unpack, overload

import msgspec

from skep.errors import SkepError, SpecError
from skep.flow.plan import compile_plan
from skep.model.authoring import build_workflow, spec_to_data
from skep.model.spec import WorkflowSpec
from skep.sdk.draft import Draft, current, draft
from skep.sdk.embedded import run_workflow
from skep.sdk.ref import input_ref, template_data, value_data
from skep.sdk.task import Duration, ParkedOptions, map_data, with_item

P = ParamSpec("P")


class WorkflowOptions(TypedDict, total=False):
    """What `@workflow` takes, with the words of YAML."""

    name: str
    description: str
    timeout: Duration
    priority: int | str
    labels: Mapping[str, Any]
    namespace: str
    defaults: Mapping[str, Any]
    unique: str
    conflicts: Literal["error", "warn", "allow"]


class WorkflowFunction(Generic[P]):
    """A function that is a workflow. Its parameters are the inputs, what it returns is the output.

    Inside of another `@workflow` function a call adds a task that runs it as a child.
    """

    def __init__(self, function: Callable[P, Any], options: Mapping[str, Any]) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.signature = inspect.signature(function)
        self._options = options

    def __repr__(self) -> str:
        return f"<workflow {self.function.__module__}:{self.function.__qualname__}>"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Adds a child run to the workflow being built and gives its output. Elsewhere a workflow is run with `.run(…)`."""
        return self.options()(*args, **kwargs)

    def map(self, items: Any, /, **fixed: Any) -> Any:
        """Adds a child run for each item of a list, or of a Ref or expression that gives one; gives the list of their outputs.

        The item goes to the first input that must have a value and is not in `fixed`.
        """
        return self.options().map(items, **fixed)

    def options(self, **options: Unpack[ParkedOptions]) -> ChildRun[P]:
        """What to call in place of the workflow, for a child run with `name`, `needs`, `when`, `timeout` and the like."""
        return ChildRun(self, options)

    @functools.cached_property
    def spec(self) -> WorkflowSpec:
        """The workflow, built and checked once. Raises SpecError, and whatever the body raises."""
        source = f"{self.function.__module__}:{self.function.__qualname__}"
        try:
            spec = build_workflow(self._data())
            compile_plan(spec)
        except SpecError as error:
            raise SpecError(error.problems, error.source or source) from None
        return spec

    def run(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Runs it here and now, with these inputs, and gives its output. Raises RunFailedError."""
        return run_workflow(self.spec, msgspec.to_builtins(self.signature.bind(*args, **kwargs).arguments, str_keys=True))

    def _data(self) -> dict[str, Any]:
        """The workflow in authoring form."""
        inputs: dict[str, Any] = {}
        required: list[str] = []
        for name, parameter in self.signature.parameters.items():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
                raise SpecError.at(f"inputs.{name}", "expected plain parameters: each one is an input with its name")
            if parameter.default is parameter.empty:
                required.append(name)
            else:
                inputs[name] = msgspec.to_builtins(parameter.default, str_keys=True)
        if inspect.iscoroutinefunction(self.function) or inspect.isgeneratorfunction(self.function):
            raise SpecError.at("", "expected a plain function: its body runs once, to say which tasks there are")
        body: Callable[..., Any] = self.function
        outer = current.get()
        if outer is not None and outer.is_inside(self):
            raise SpecError.at("", f"{self.function.__name__} uses itself, so it would never end")
        draft = Draft(self, outer)
        token = current.set(draft)
        try:
            output = body(**{name: input_ref(name) for name in self.signature.parameters})
        finally:
            current.reset(token)
        return {
            "name": self.function.__name__,
            "description": inspect.getdoc(self.function) or "",
            "inputs": inputs,
            "required": required,
            "tasks": draft.tasks,
            "output": value_data(output),
            **template_data(self._options),
        }


class ChildRun(Generic[P]):
    """A workflow as a task of another one."""

    def __init__(self, workflow: WorkflowFunction[P], options: ParkedOptions) -> None:
        self._workflow = workflow
        self._options = options

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """A Ref to the output of the child run."""
        return self._add(self._workflow.signature.bind(*args, **kwargs).arguments, {})

    def map(self, items: Any, /, **fixed: Any) -> Any:
        """A Ref to the list of the outputs."""
        signature = self._workflow.signature
        return self._add(signature.bind(**with_item(signature, fixed)).arguments, {"map": map_data(items)})

    def _add(self, inputs: Mapping[str, Any], data: Mapping[str, Any]) -> Any:
        name = self._workflow.function.__name__
        if current.get() is None:
            raise SkepError(f"run it with {name}.run(…); a call is for the body of another @workflow function")
        does = {"uses": {"workflow": spec_to_data(self._workflow.spec)}, **({"with": value_data(inputs)} if inputs else {})}
        return draft(f"{name}()").add(name, {**does, **data}, self._options)


@overload
def workflow(function: Callable[P, Any], /) -> WorkflowFunction[P]: ...
@overload
def workflow(**options: Unpack[WorkflowOptions]) -> Callable[[Callable[P, Any]], WorkflowFunction[P]]: ...
def workflow(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Makes a function a workflow: `@workflow`, or `@workflow(name="release", timeout="10m", priority="high")`."""
    return WorkflowFunction(function, options) if function is not None else lambda function: WorkflowFunction(function, options)
