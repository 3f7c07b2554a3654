"""What to run: a workflow in a file, or a Python one in a module or file, compiled and checked."""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from traceback import StackSummary, TracebackException
from types import ModuleType
from typing import Any, Final, NamedTuple

import msgspec

import skep
from skep.errors import Problem, RefusedError, SkepError, SpecError
from skep.flow.plan import Plan, check_inputs, compile_plan
from skep.hub.placement import check_policies
from skep.model.node import NodeInfo, Requirement
from skep.model.spec import WorkflowSpec
from skep.model.units import format_bytes
from skep.node.functions import clean, load_file
from skep.router.fit import has, unroutable
from skep.sdk.workflow import WorkflowFunction
from skep.sdk.yaml import load_text, read_file, with_lines
from skep.upkeep.place import requirement_of

_NOT_THEIRS: Final = (str(Path(skep.__file__).parent), str(importlib.__file__), str(functools.__file__), "<frozen importlib")
"""Files of the frames around a workflow's code that say nothing to its author."""


SERVER: Final = "it needs a server: `skep up`, then `skep submit`"


class Target(NamedTuple):
    """A workflow that is ready to run."""

    plan: Plan
    source: str
    """The file or module as it was named."""
    text: str
    """The file's text; empty for a Python one."""
    base: Path
    """Where relative paths of its tasks start."""

    def refuse(self, error: SpecError) -> SpecError:
        """The error with lines, where there is a text."""
        return with_lines(error, self.text, self.source) if self.text else SpecError(error.problems, self.source)


def find_target(name: str) -> Target:
    """The workflow that the command line names. Raises SpecError, RefusedError."""
    path = Path(name)
    place, colon, attribute = name.rpartition(":")
    if path.is_dir():
        raise _unknown(name, f"{name} is a directory")
    if path.suffix == ".py":
        return _python(name, name, "")
    if path.is_file() or path.suffix in (".yaml", ".yml", ".json"):
        return _file(path)
    if colon:
        return _python(name, place, attribute)
    raise _unknown(name, f"there is no file {name}")


def _unknown(name: str, trouble: str) -> SpecError:
    return SpecError([Problem("", f"{trouble}; expected a YAML or JSON file, module:workflow or file.py:workflow")])


def _file(path: Path) -> Target:
    text = read_file(path)
    spec = load_text(text, str(path))
    try:
        plan = compile_plan(spec)
    except SpecError as error:
        raise with_lines(error, text, str(path)) from None
    return Target(plan, str(path), text, path.parent.absolute())


def _python(name: str, place: str, attribute: str) -> Target:
    is_file = place.endswith(".py")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = _pick(load_file(place) if is_file else importlib.import_module(place), name, attribute)
        spec = found.spec if isinstance(found, WorkflowFunction) else found
    except SkepError:
        raise
    except Exception as error:  # noqa: BLE001  user code may raise anything at all
        raise RefusedError(f"{name} cannot be loaded: {_told(error)}") from None
    return Target(compile_plan(spec), name, "", Path(place).parent.absolute() if is_file else Path.cwd())


def check_wishes(target: Target) -> None:
    """Raises SpecError when a task names a policy that is not installed here."""
    try:
        check_policies(target.plan, _own_policies)
    except SpecError as error:
        raise target.refuse(error) from None


def _own_policies() -> Collection[str]:
    from skep.wiring.policies import names  # noqa: PLC0415  hardly anybody has any

    return names()


def _told(error: Exception) -> str:
    """The error with its causes, and of the frames only the author's own."""
    told = TracebackException.from_exception(error)
    theirs = [frame for one in _chain(told) for frame in _cut(one)]
    text = clean("".join(told.format() if theirs else told.format_exception_only())).rstrip()
    return f"\n{text}" if "\n" in text else text


def _chain(told: TracebackException | None) -> Iterator[TracebackException]:
    while told is not None:
        yield told
        told = told.__cause__ or (None if told.__suppress_context__ else told.__context__)


def _cut(told: TracebackException) -> StackSummary:
    told.stack = StackSummary.from_list([frame for frame in told.stack if not frame.filename.startswith(_NOT_THEIRS)])
    return told.stack


def _pick(module: ModuleType, name: str, attribute: str) -> WorkflowFunction[Any] | WorkflowSpec:
    workflows = {key: value for key, value in vars(module).items() if isinstance(value, WorkflowFunction | WorkflowSpec)}
    if not attribute and len(workflows) == 1:
        return next(iter(workflows.values()))
    if attribute in workflows:
        return workflows[attribute]
    place = name.removesuffix(f":{attribute}")
    known = ", ".join(f"{place}:{key}" for key in workflows)
    raise SpecError([Problem("", f"name one of its workflows: {known}" if known else "there is no workflow in it")], name)


def check_given(target: Target, inputs: Mapping[str, Any]) -> None:
    """Refuses inputs that the workflow does not have, and a run without those that it needs. Raises SpecError."""
    try:
        check_inputs(target.plan.spec, dict(inputs))
    except SpecError as error:
        raise target.refuse(error) from None


def check_routes(target: Target, nodes: Sequence[NodeInfo]) -> None:
    """Refuses a workflow with a task that none of the nodes can run. Raises SpecError with the path of each."""
    plan = target.plan
    reasons = [_unroutable(requirement_of(name), nodes) for name in plan.shape.class_names]
    if not any(reasons):
        return
    names = plan.names
    problems: list[Problem] = []
    for task, which in enumerate(plan.shape.classes):
        if not plan.tasks[task].parks and (found := reasons[which]):
            problems.append(Problem(f"tasks.{names[task]}.{found[0]}", found[1]))
    if not problems:
        return
    have = "\n".join(f"  node {info.id} has {describe_node(info)}" for info in nodes)
    error = target.refuse(SpecError(problems[:20]))
    refusal = RefusedError(f"{error}\n{have}")
    refusal.problems = error.problems
    raise refusal


def check_alone(target: Target) -> None:
    """Refuses a workflow with tasks that would wait for ever, or in vain, where no server takes answers. Raises SpecError."""
    problems = list(_endless(target.plan.spec, "tasks"))
    if problems:
        raise target.refuse(SpecError(problems[:20]))


def _endless(spec: WorkflowSpec, path: str) -> Iterator[Problem]:
    for task in spec.tasks:
        call = task.call if isinstance(task.call, dict) else {}
        place = f"{path}.{task.name}.{task.executor}"
        if task.executor == "approval" and not call.get("default"):
            yield Problem(place, f"nobody can answer here; {SERVER} (or give it a `deadline` with a `default`)")
        elif task.executor == "wait_for" and not (task.timeout_ms or task.deadline_ms):
            yield Problem(place, f"nobody can send an event here; {SERVER} (or give it a `timeout`)")
        elif inline := call.get("definition"):
            yield from _endless(msgspec.convert(inline, WorkflowSpec), f"{place}.workflow.tasks")


def warn(target: Target) -> None:
    """Says on standard error what is dubious about a workflow."""
    for text in warnings_of(target):
        print(f"skep: warning: {text}", file=sys.stderr)


def warnings_of(target: Target) -> list[str]:
    """What is dubious about it, with lines where there is a text."""
    if not target.plan.warnings:
        return []
    return str(target.refuse(SpecError(target.plan.warnings))).split("\n")


def _unroutable(wanted: Requirement, nodes: Sequence[NodeInfo]) -> tuple[str, str] | None:
    """The field at fault and why, or None when a node can run it."""
    why = unroutable(wanted, nodes)
    if not why:
        return None
    if missing := [word for word in wanted.requires if not any(has(info, word) for info in nodes)]:
        return "requires", f"no node has {', '.join(missing)}"
    return ("requires" if "lacks" in why else "resources"), f"no node can run it: {why}"


def describe_node(info: NodeInfo) -> str:
    """What a node has, in words: `cpu, ssd; 2 cpu, 8GB memory, 100 slots`."""
    labels = [f"{key}={value}" if value else key for key, value in info.labels.items()]
    sizes = [f"{info.cpu_milli / 1000:g} cpu", *([f"{format_bytes(info.memory)} memory"] if info.memory else [])]
    sizes += [f"{format_bytes(info.vram)} vram"] if info.vram else []
    return f"{', '.join([*info.capabilities, *labels])}; {', '.join(sizes)}, {info.slots} slots"
