"""What shall become of a ready task: start, skip, expand, park or fail. Pure: states and outputs are handed in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from skep.flow.bounds import claims_of
from skep.flow.evaluation import ExpressionError, Scope
from skep.flow.expressions import Expression
from skep.flow.functions import kind_of, to_text
from skep.flow.plan import Plan
from skep.flow.task import TaskPlan
from skep.flow.templates import Value
from skep.model.node import ErrorInfo
from skep.model.run import Claim, Rate, ReadyTask
from skep.model.state import TaskState
from skep.model.wait import Wait


class Start(NamedTuple):
    """Run it: the encoded call, what it claims of the fleet, and its key for one node, where that held expressions."""

    call: bytes
    claims: tuple[Claim | Rate, ...] = ()
    affinity: str = ""


class Skip(NamedTuple):
    """Do not run it: `when` was false (then it counts as met), `upstream` was not met, or the `run_failed`."""

    reason: str


class Expand(NamedTuple):
    """Make one child for each of `items`."""

    items: list[Any]


class Park(NamedTuple):
    """It waits for somebody else: no node is needed."""

    wait: Wait


class Fail(NamedTuple):
    """It cannot be started: an expression did not work out."""

    error: ErrorInfo


Decision = Start | Skip | Expand | Park | Fail


class Upstream(NamedTuple):
    """One task that an expression may look at, as it ended."""

    state: TaskState
    output: Any = None
    error: Mapping[str, str] | None = None
    """`type` and `message`, when it failed."""


class Facts(NamedTuple):
    """What a decision may look at beside the task: the run and the upstream tasks that its expressions name, by index."""

    plan: Plan
    run: Mapping[str, Any]
    """`id`, `workflow`, `namespace`."""
    inputs: Mapping[str, Any]
    upstream: Mapping[int, Upstream]


def decide(facts: Facts, ready: ReadyTask, items: Sequence[Any] | None = None) -> Decision:
    """The decision for one task. `items`: for a map child, the list of its parent."""
    child = ready.child >= 0
    task = facts.plan.tasks[ready.parent if child else ready.task]
    if ready.failing and not ready.attempts and not task.runs_always:
        return Skip("run_failed")
    if not child and ready.unmet and not task.runs_always:
        return Skip("upstream")
    if not child and task.handles and not _must_handle(facts, task):
        return Skip("when")
    scope = _scope(facts, ready, items)
    try:
        if task.when is not None and child == task.item_when and not task.when.evaluate(scope):
            return Skip("when")
        if task.map is not None and not child:
            return _expand(task.map, scope)
        if task.parks:
            return Park(task.render_wait(scope))
        call = task.constant_call if task.constant_call is not None else task.render(scope)
        affinity = to_text(task.affinity.render(scope)) if task.affinity is not None else ""
        return Start(call, claims_of(task.locks, str(facts.run["namespace"]), scope), affinity)
    except ExpressionError as error:
        return Fail(ErrorInfo("Expression", str(error)))


def items_of(facts: Facts, ready: ReadyTask) -> list[Any]:
    """The list that the parent of a map child was expanded over. Raises ExpressionError."""
    plan = facts.plan.tasks[ready.parent]
    assert plan.map is not None
    decision = _expand(plan.map, _scope(facts, ready._replace(child=-1), None))
    return decision.items if isinstance(decision, Expand) else []


def _must_handle(facts: Facts, task: TaskPlan) -> bool:
    index = facts.plan.index
    return any(facts.upstream[index[name]].state == TaskState.FAILED for name in task.handles)


def _expand(wanted: Expression | Value, scope: Scope) -> Expand | Fail:
    value = wanted.evaluate(scope) if isinstance(wanted, Expression) else wanted.render(scope)
    if isinstance(value, list | tuple):
        return Expand(list(value))
    return Fail(ErrorInfo("Map", f"`map` must give a list, got {kind_of(value)}: {str(value)[:100]}"))


class _Tasks(Mapping[str, Any]):
    """`tasks` in an expression: only what is named is looked up."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts

    def __getitem__(self, name: str) -> Any:
        seen = self._facts.upstream[self._facts.plan.index[name]]
        return {"output": seen.output, "state": seen.state.label, "error": seen.error}

    def __iter__(self) -> Iterator[str]:
        index = self._facts.plan.index
        return (name for name in index if index[name] in self._facts.upstream)

    def __len__(self) -> int:
        return len(self._facts.upstream)


def _scope(facts: Facts, ready: ReadyTask, items: Sequence[Any] | None) -> Scope:
    def state(name: str) -> TaskState:
        return facts.upstream[facts.plan.index[name]].state

    names: dict[str, Any] = {"inputs": facts.inputs, "tasks": _Tasks(facts), "run": facts.run}
    if items is not None:
        names["item"], names["index"] = items[ready.child], ready.child
    functions: dict[str, Callable[..., Any]] = {
        "always": lambda: True,
        "failed": lambda name=None: ready.unmet > 0 if name is None else state(name) == TaskState.FAILED,
        "succeeded": lambda name=None: ready.unmet == 0 if name is None else state(name) == TaskState.SUCCEEDED,
        "skipped": lambda name: state(name) == TaskState.SKIPPED,
    }
    return Scope(names, functions)


def run_output(facts: Facts) -> Any:
    """What the run gives back: its `output`, else the outputs of the tasks that nothing needs, by name.

    Raises ExpressionError when `output` does not work out.
    """
    plan = facts.plan
    if plan.output is not None:
        return plan.output.render(_scope(facts, ReadyTask("", -1, 0, False, 0, 0, 0), None))
    return {
        plan.names[task]: facts.upstream[task].output
        for task, successors in enumerate(plan.shape.successors)
        if not successors and task in facts.upstream and facts.upstream[task].state == TaskState.SUCCEEDED
    }
