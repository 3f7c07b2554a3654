"""A workflow made ready to run: names turned into indexes, expressions parsed, the graph checked. Pure.

One plan serves every run of a definition.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Final

import msgspec

from skep.errors import Problem, SpecError
from skep.flow import graph
from skep.flow.check import MAX_PROBLEMS, Check
from skep.flow.conflicts import conflicts, told
from skep.flow.evaluation import ExpressionError, Scope
from skep.flow.functions import to_text
from skep.flow.task import Shared, TaskPlan, compile_task, priority_of
from skep.flow.templates import Value
from skep.model.fields import nearest
from skep.model.node import Requirement
from skep.model.run import MAX_TASKS, Policy, Shape
from skep.model.spec import TaskSpec, WorkflowSpec, digest

SLOT_MS: Final = 600_000
"""One step of priority is worth ten minutes of waiting; a rank is at most as much."""

MAX_KEY: Final = 1_000
"""Bytes of a unique key: it is kept in an index."""

_POLICIES: Final = {"fail": Policy.FAIL, "cancel": Policy.CANCEL, "continue": Policy.CONTINUE}


class Plan:
    """A compiled workflow; lists are by task index."""

    __slots__ = (
        "digest",
        "encoded",
        "index",
        "names",
        "needs",
        "output",
        "read",
        "shape",
        "spec",
        "tasks",
        "unique",
        "warnings",
    )

    def __init__(self, spec: WorkflowSpec) -> None:
        self.spec = spec
        self.encoded = spec.encode()
        self.digest = digest(self.encoded)
        self.names = [task.name for task in spec.tasks]
        self.index = {name: at for at, name in enumerate(self.names)}
        self.tasks: list[TaskPlan] = []
        self.needs: list[tuple[int, ...]] = []
        self.read: frozenset[int] = frozenset()
        """Tasks whose output some expression of another task reads."""
        self.output: Value | None = None
        self.unique: Value | None = None
        self.warnings: list[Problem] = []
        """What may be wrong, and is not refused."""
        self.shape: Shape

    def name(self, task: int, expansions: Iterable[Any] = ()) -> str:
        """The task's name; a map child's is `parent[index]`, found in `expansions` (parent, first, count)."""
        if task < len(self.names):
            return self.names[task]
        for expansion in expansions:
            if expansion.first <= task < expansion.first + expansion.count:
                return f"{self.names[expansion.parent]}[{task - expansion.first}]"
        return f"#{task}"


def compile_plan(spec: WorkflowSpec) -> Plan:
    """Checks everything that the shapes of the fields do not show. Raises SpecError with every problem found."""
    if len(spec.tasks) > MAX_TASKS:
        found = f"{len(spec.tasks):,} tasks are more than the {MAX_TASKS:,} that one run may have"
        raise SpecError.at("tasks", f"{found}; split the run")
    plan = Plan(spec)
    check = Check(plan.index, {**(spec.inputs or {}), **dict.fromkeys(spec.required)})
    if len(plan.index) < len(plan.names):
        twice = [name for name, count in Counter(plan.names).items() if count > 1]
        check.refuse("tasks", f"names are used twice: {', '.join(twice[:10])}")
    handlers = _handlers(plan, check)
    shared: Shared = {}
    plan.tasks = [compile_task(task, check, handlers.get(task.name, ()), shared) for task in spec.tasks]
    plan.needs = [_needs(plan, check, *pair) for pair in zip(spec.tasks, plan.tasks, strict=True)]
    _children(plan, check)
    plan.read = frozenset(plan.index[name] for task in plan.tasks for name in task.uses.tasks if name in plan.index)
    if spec.output is not None:
        plan.output = check.value(spec.output, "output")
    if spec.unique is not None:
        plan.unique = check.value(spec.unique, "unique")
        if plan.unique is not None and plan.unique.tasks:
            check.refuse("unique", "is decided when the run is submitted: it may name inputs, not tasks")
    check.finish()
    plan.shape = _shape(plan)
    plan.warnings += _conflicts(plan)
    return plan


def check_inputs(spec: WorkflowSpec, given: Mapping[str, Any]) -> dict[str, Any]:
    """The run's inputs: what was given over the defaults. Raises SpecError for unknown and missing ones."""
    defaults = spec.inputs or {}
    known = [*defaults, *spec.required]
    problems = [
        Problem(
            f"inputs.{name}", f"there is no such input{nearest(name, known)}; this workflow has {', '.join(known) or 'none'}"
        )
        for name in given
        if name not in known
    ]
    problems += [Problem(f"inputs.{name}", "is required: give it a value") for name in spec.required if name not in given]
    if problems:
        raise SpecError(problems)
    return {**defaults, **given}


def unique_key(plan: Plan, namespace: str, inputs: Mapping[str, Any]) -> str | None:
    """The key with which no other run may go on beside this one; None: any number may. Raises SpecError."""
    if plan.unique is None:
        return None
    run = {"workflow": plan.spec.name, "namespace": namespace}
    try:
        return check_unique(to_text(plan.unique.render(Scope({"inputs": inputs, "run": run}, {}))))
    except ExpressionError as error:
        raise SpecError.at("unique", str(error)) from None


def check_unique(key: str) -> str:
    """A unique key as it may be stored. Raises SpecError."""
    if not 0 < len(key.encode()) <= MAX_KEY:
        raise SpecError.at("unique", f"comes to {len(key.encode()):,} bytes, expected 1 to {MAX_KEY:,}")
    return key


def _children(plan: Plan, check: Check) -> None:
    """Checks the workflows that are written out in tasks, and what they are given."""
    seen: dict[bytes, Plan | SpecError] = {}
    for spec, task in zip(plan.spec.tasks, plan.tasks, strict=True):
        if not task.definition:
            continue
        if task.definition not in seen:
            try:
                seen[task.definition] = compile_plan(WorkflowSpec.decode(task.definition))
            except SpecError as error:
                seen[task.definition] = error
        child = seen[task.definition]
        below = f"tasks.{spec.name}.uses.workflow"
        if isinstance(child, SpecError):
            for path, message, _ in child.problems:
                check.refuse(f"{below}.{path}", message)
            continue
        plan.warnings += [Problem(f"{below}.{path}", message) for path, message, _ in child.warnings]
        if spec.args is None or isinstance(spec.args, dict):
            try:
                check_inputs(child.spec, spec.args or {})
            except SpecError as error:
                for path, message, _ in error.problems:
                    check.refuse(f"tasks.{spec.name}.with.{path.removeprefix('inputs.')}", message)


def _handlers(plan: Plan, check: Check) -> dict[str, tuple[str, ...]]:
    """Each task that `on_failure: {run: …}` names, with the tasks whose failure it takes care of."""
    found: dict[str, tuple[str, ...]] = {}
    for task in plan.spec.tasks:
        name = task.handler
        if name == task.name:
            check.refuse(f"tasks.{task.name}.on_failure.run", "expected the name of another task")
        elif name is not None:
            check.task(name, f"tasks.{task.name}.on_failure.run")
            found[name] = (*found.get(name, ()), task.name)
    return found


def _needs(plan: Plan, check: Check, spec: TaskSpec, task: TaskPlan) -> tuple[int, ...]:
    """What it waits for: the tasks that it names, those that its expressions name, those that it takes care of."""
    named: Iterable[str] = spec.needs
    if task.uses.tasks or task.handles:
        named = dict.fromkeys((*spec.needs, *sorted(task.uses.tasks), *task.handles))
    index = plan.index
    for name in spec.needs:
        if name not in index:
            check.task(name, f"tasks.{spec.name}.needs")
    return tuple([index[name] for name in named if name in index])


def _shape(plan: Plan) -> Shape:
    """The graph for engines. Raises SpecError for a cycle."""
    spec, needs = plan.spec, plan.needs
    successors = graph.successors_of(needs)
    ordered = graph.order(needs, successors)
    if len(ordered) < len(needs):
        loop = " → ".join(plan.names[task] for task in graph.cycle(needs, ordered))
        raise SpecError.at("tasks", f"tasks need each other in a cycle: {loop}")
    classes: dict[Requirement, int] = {}
    class_of = [classes.setdefault(task.wanted, len(classes)) for task in plan.tasks]
    encode = msgspec.json.Encoder().encode
    return Shape(
        pending=[len(row) for row in needs],
        successors=successors,
        order_ms=_order_ms(spec, spec.priority, successors, ordered, [task.estimated_ms for task in spec.tasks]),
        classes=class_of,
        class_names=[encode(wanted).decode() for wanted in classes],
        policies=[int(_POLICIES.get(task.on_failure, Policy.HANDLE)) for task in spec.tasks],
        windows=[task.max_parallel for task in spec.tasks],
        deadlines_ms=[task.deadline_ms for task in spec.tasks],
        roots=[task for task, row in enumerate(needs) if not row],
    )


def _conflicts(plan: Plan) -> list[Problem]:
    """Tasks that may write the same thing at once, where that shall only be told. Raises SpecError where it is an error."""
    spec = plan.spec
    if spec.conflicts == "allow" or not any(task.writes for task in spec.tasks):
        return []
    ordered = graph.order(plan.needs, plan.shape.successors)
    found = list(islice(conflicts(spec.tasks, plan.needs, ordered), MAX_PROBLEMS + 1))
    problems = [Problem(*told(conflict, spec.tasks)) for conflict in found[:MAX_PROBLEMS]]
    if len(found) > MAX_PROBLEMS:
        problems.append(Problem("", "and more conflicts"))
    if problems and spec.conflicts == "error":
        raise SpecError(problems)
    return problems


def order_ms(plan: Plan, durations_ms: Sequence[int], priority: int) -> list[int]:
    """What orders the tasks of a run, by how long each is expected to take. `priority`: of the run; 0: its workflow's."""
    successors = plan.shape.successors
    return _order_ms(plan.spec, priority or plan.spec.priority, successors, graph.order(plan.needs, successors), durations_ms)


def _order_ms(
    spec: WorkflowSpec,
    priority: int,
    successors: Sequence[Sequence[int]],
    ordered: Sequence[int],
    durations_ms: Sequence[int],
) -> list[int]:
    """Priority first, then the longest way to the end: in proportion, so that the longest of all is worth a step at most."""
    ranks = graph.longest_after_ms(successors, ordered, durations_ms) if any(durations_ms) else durations_ms
    longest = max(ranks, default=0)
    if longest > SLOT_MS:
        ranks = [rank * SLOT_MS // longest for rank in ranks]
    return [priority_of(task, priority) * SLOT_MS + rank for task, rank in zip(spec.tasks, ranks, strict=True)]
