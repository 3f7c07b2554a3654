"""A workflow made ready to run: names turned into indexes, expressions parsed, the graph checked. Pure.

One plan serves every run of a definition.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from skep.errors import Problem, SpecError
from skep.flow import graph
from skep.flow.expressions import Expression, ExpressionError, Scope, Template, Uses, Value, compile_value, parse_condition
from skep.model.node import Call, Requirement
from skep.model.run import MAX_TASKS, Policy, Shape
from skep.model.spec import NORMAL_PRIORITY, TYPE_PRIORITY, TaskSpec, WorkflowSpec, digest

SLOT_MS = 600_000
"""One step of priority is worth ten minutes of waiting; a rank is at most as much."""

STATE_FUNCTIONS = frozenset({"always", "failed"})
"""What makes a task start although one it needs was not met."""

DEFAULT_CPU_MILLI = {"run": 1_000}
_EMPTY = Scope({}, {})
_encode = msgspec.json.Encoder().encode


class TaskPlan:
    """One task, ready to be decided on. Equal tasks share one."""

    __slots__ = (
        "args",
        "call",
        "constant_call",
        "cwd",
        "env",
        "handles",
        "item_when",
        "locks",
        "map",
        "runs_always",
        "spec",
        "takes",
        "timeout_ms",
        "uses",
        "when",
    )

    def __init__(self, spec: TaskSpec) -> None:
        self.spec = spec
        self.when: Expression | None = None
        self.item_when = False
        """`when` looks at the item: it is decided for each child, not for the parent."""
        self.runs_always = False
        self.map: Expression | Value | None = None
        self.call: Value | None = None
        self.args: Value | None = None
        self.env: Value | None = None
        self.cwd: Value | None = None
        self.locks: tuple[tuple[Value, bool], ...] = ()
        self.handles: tuple[str, ...] = ()
        """Tasks whose failure this one takes care of; it runs only after one of them failed."""
        self.constant_call: bytes | None = None
        """The encoded call when nothing in it depends on the run."""
        self.takes: tuple[tuple[str, int], ...] = ()
        self.timeout_ms = spec.timeout_ms
        self.uses = Uses()

    @property
    def simple(self) -> bool:
        """Whether the decision is always Start with the constant call."""
        return self.constant_call is not None and self.when is None and self.map is None and not self.locks and not self.handles


class Plan:
    """A compiled workflow."""

    __slots__ = ("digest", "encoded", "index", "names", "needs", "output", "read", "shape", "spec", "tasks")

    def __init__(self, spec: WorkflowSpec) -> None:
        self.spec = spec
        self.encoded = spec.encode()
        self.digest = digest(self.encoded)
        self.names = [task.name for task in spec.tasks]
        self.index = {name: at for at, name in enumerate(self.names)}
        self.tasks: list[TaskPlan] = []
        self.needs: list[tuple[int, ...]] = []
        self.read: frozenset[int] = frozenset()
        """Tasks whose output some expression reads."""
        self.output: Value | None = None
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
    plan = Plan(spec)
    problems: list[Problem] = []
    if len(plan.names) > MAX_TASKS:
        raise SpecError.at(
            "tasks", f"{len(plan.names):,} tasks are more than the {MAX_TASKS:,} that one run may have; split the run"
        )
    if len(plan.index) < len(plan.names):
        twice = sorted({name for name in plan.names if plan.names.count(name) > 1}) if len(plan.names) < 2_000 else []
        problems.append(Problem("tasks", f"names are used twice: {', '.join(twice) or 'several'}"))
    interned: dict[tuple[Any, ...], TaskPlan] = {}
    for task in spec.tasks:
        plan.tasks.append(_task(task, spec, interned, problems))
    _handlers(plan, problems)
    _needs(plan, problems)
    if spec.output is not None:
        plan.output = _value(spec.output, "output", problems)
        _check_names(plan, plan.output, "output", problems)
    if problems:
        raise SpecError(problems)
    _shape(plan)
    return plan


def _task(
    spec: TaskSpec, workflow: WorkflowSpec, interned: dict[tuple[Any, ...], TaskPlan], problems: list[Problem]
) -> TaskPlan:
    plain = (
        not (spec.args or spec.env or spec.labels or spec.locks)
        and spec.when is None
        and spec.map is None
        and "${{" not in str(spec.call)
    )
    key = (
        *(spec.executor, spec.call, spec.cwd, spec.requires, spec.resources),
        *(spec.timeout_ms, spec.retry, spec.isolation, spec.on_failure, spec.type),
    )
    if plain and (known := interned.get(key)) is not None:
        return known
    plan = TaskPlan(spec)
    path = f"tasks.{spec.name}"
    plan.call = _value(list(spec.call) if isinstance(spec.call, tuple) else spec.call, f"{path}.{spec.executor}", problems)
    plan.args = _value(spec.args, f"{path}.with", problems) if spec.args else None
    plan.env = _value(spec.env, f"{path}.env", problems) if spec.env else None
    plan.cwd = _value(spec.cwd, f"{path}.cwd", problems) if spec.cwd else None
    if plan.call is not None and isinstance(plan.call.body, Template) and spec.executor == "run":
        _guard(plan.call.body.check_shell, f"{path}.run", problems)
    if spec.executor == "python" and plan.call is not None and not plan.call.constant:
        problems.append(Problem(f"{path}.python", "expected a fixed module:function; what to run is never made from data"))
    if spec.when is not None:
        plan.when = _condition(spec.when, f"{path}.when", problems)
        if plan.when is not None:
            plan.runs_always = bool(plan.when.calls & STATE_FUNCTIONS)
            plan.item_when = plan.when.uses_item
    if spec.map is not None:
        plan.map = (
            _condition(spec.map, f"{path}.map", problems)
            if isinstance(spec.map, str)
            else _value(list(spec.map), f"{path}.map", problems)
        )
    plan.locks = tuple((value, lock.shared) for lock in spec.locks if (value := _value(lock.name, f"{path}.locks", problems)))
    parts = [plan.call, plan.args, plan.env, plan.cwd, *(value for value, _ in plan.locks)]
    plan.uses = _uses([*parts, plan.when, plan.map])
    if plan.map is None and plan.uses.uses_item:
        problems.append(Problem(path, "`item` and `index` exist only in a task with `map`"))
    if isinstance(plan.map, Uses) and plan.map.uses_item:
        problems.append(Problem(f"{path}.map", "the list of a map cannot look at `item`"))
    if spec.max_parallel and plan.map is None:
        problems.append(Problem(f"{path}.max_parallel", "is only for a task with `map`"))
    plan.takes = requirement(spec).takes()
    if all(part is None or part.constant for part in parts) and not plan.uses.uses_secrets:
        plan.constant_call = render_call(plan, _EMPTY)
    if plain:
        interned[key] = plan
    return plan


def render_call(plan: TaskPlan, scope: Scope) -> bytes:
    """The task's call with every expression but the secrets filled in. Raises ExpressionError."""
    spec = plan.spec
    secrets = plan.uses.uses_secrets
    quote = shlex.quote if spec.executor == "run" and isinstance(spec.call, str) else None
    assert plan.call is not None
    call = plan.call.render(scope, quote, keep_secrets=secrets)
    if isinstance(call, list):
        call = tuple(text if isinstance(text, str) else _encode(text).decode() for text in call)
    env = plan.env.render(scope, None, keep_secrets=secrets) if plan.env else None
    if env:
        env = {name: value if isinstance(value, str) else _encode(value).decode() for name, value in env.items()}
    return _encode(
        Call(
            executor=spec.executor,
            call=call,
            args=plan.args.render(scope, None, keep_secrets=secrets) if plan.args else None,
            env=env,
            cwd=plan.cwd.render(scope, None, keep_secrets=secrets) if plan.cwd else None,
            isolation=spec.isolation,
            needs_secrets=secrets,
        )
    )


def requirement(spec: TaskSpec) -> Requirement:
    """What a node must have and give for an attempt of the task."""
    resources = spec.resources
    cpu = resources.cpu_milli if resources else None
    if cpu is None:
        cpu = DEFAULT_CPU_MILLI.get(spec.executor, 1_000 if spec.isolation == "process" else 0)
    memory, vram = (resources.memory, resources.vram) if resources else (0, 0)
    return Requirement(spec.executor, tuple(sorted(spec.requires)), cpu, memory, vram)


def priority_of(task: TaskSpec, run_priority: int) -> int:
    """1 to 10: the task's own, else the run's, else by type."""
    return task.priority or run_priority or TYPE_PRIORITY.get(task.type, NORMAL_PRIORITY)


def _handlers(plan: Plan, problems: list[Problem]) -> None:
    """Ties `on_failure: {run: h}` to h: an edge, and the condition that it runs only after the failure."""
    handled: dict[str, list[str]] = {}
    for task in plan.spec.tasks:
        name = task.handler
        if name is None:
            continue
        if name not in plan.index or name == task.name:
            problems.append(Problem(f"tasks.{task.name}.on_failure.run", f"expected the name of another task, got '{name}'"))
        else:
            handled.setdefault(name, []).append(task.name)
    for name, sources in handled.items():
        at = plan.index[name]
        own = TaskPlan(plan.tasks[at].spec)  # never a shared one
        for slot in TaskPlan.__slots__:
            setattr(own, slot, getattr(plan.tasks[at], slot))
        own.handles = tuple(sources)
        own.runs_always = True
        plan.tasks[at] = own


def _needs(plan: Plan, problems: list[Problem]) -> None:
    read: set[int] = set()
    index = plan.index
    for spec, task in zip(plan.spec.tasks, plan.tasks, strict=True):
        if not spec.needs and not task.uses.tasks and not task.handles:
            plan.needs.append(())
            if task.uses.inputs:
                _check_inputs(plan, task.uses, f"tasks.{spec.name}", problems)
            continue
        named = dict.fromkeys((*spec.needs, *sorted(task.uses.tasks), *task.handles))
        unknown = [name for name in named if name not in index]
        for name in unknown:
            where = "needs" if name in spec.needs else "expressions"
            problems.append(Problem(f"tasks.{spec.name}.{where}", f"there is no task '{name}'{_nearest(name, plan.names)}"))
        plan.needs.append(tuple(index[name] for name in named if name in index))
        read.update(index[name] for name in task.uses.tasks if name in index)
        _check_inputs(plan, task.uses, f"tasks.{spec.name}", problems)
    plan.read = frozenset(read)


def _check_names(plan: Plan, uses: Uses | None, path: str, problems: list[Problem]) -> None:
    if uses is None:
        return
    for name in sorted(uses.tasks - plan.index.keys()):
        problems.append(Problem(path, f"there is no task '{name}'{_nearest(name, plan.names)}"))
    if uses.uses_item or uses.uses_secrets:
        problems.append(Problem(path, "only inputs, tasks and run may be used here"))
    _check_inputs(plan, uses, path, problems)


def _check_inputs(plan: Plan, uses: Uses, path: str, problems: list[Problem]) -> None:
    known = {*(plan.spec.inputs or ()), *plan.spec.required}
    for name in sorted(uses.inputs - known):
        problems.append(Problem(path, f"there is no input '{name}'{_nearest(name, sorted(known))}"))


def _shape(plan: Plan) -> None:
    spec = plan.spec
    needs = plan.needs
    successors = graph.successors_of(needs)
    ordered = graph.order(needs, successors)
    if len(ordered) < len(needs):
        loop = " → ".join(plan.names[task] for task in graph.cycle(needs, ordered))
        raise SpecError.at("tasks", f"tasks need each other in a cycle: {loop}")
    durations = [task.estimated_ms for task in spec.tasks]
    ranks = graph.longest_after_ms(successors, ordered, durations) if any(durations) else [0] * len(needs)
    classes: dict[Requirement, int] = {}
    policies = {"fail": Policy.FAIL, "cancel": Policy.CANCEL, "continue": Policy.CONTINUE}
    own_class: dict[int, int] = {}  # by identity of the shared task plan
    class_of: list[int] = []
    for task, compiled in zip(spec.tasks, plan.tasks, strict=True):
        found = own_class.get(id(compiled))
        if found is None:
            found = own_class[id(compiled)] = classes.setdefault(requirement(task), len(classes))
        class_of.append(found)
    plan.shape = Shape(
        pending=[len(row) for row in needs],
        successors=successors,
        order_ms=[
            priority_of(task, spec.priority) * SLOT_MS + min(rank, SLOT_MS)
            for task, rank in zip(spec.tasks, ranks, strict=True)
        ],
        classes=class_of,
        class_names=[_encode(wanted).decode() for wanted in classes],
        policies=[int(policies.get(task.on_failure, Policy.HANDLE)) for task in spec.tasks],
        windows=[task.max_parallel for task in spec.tasks],
        deadlines_ms=[task.deadline_ms for task in spec.tasks],
        roots=[task for task, row in enumerate(needs) if not row],
    )


def check_inputs(spec: WorkflowSpec, given: dict[str, Any]) -> dict[str, Any]:
    """The run's inputs: what was given over the defaults. Raises SpecError for unknown and missing ones."""
    defaults = spec.inputs or {}
    known = [*defaults, *spec.required]
    problems = [
        Problem(
            f"inputs.{name}", f"there is no such input{_nearest(name, known)}; this workflow has {', '.join(known) or 'none'}"
        )
        for name in given
        if name not in known
    ]
    problems += [Problem(f"inputs.{name}", "is required: give it a value") for name in spec.required if name not in given]
    if problems:
        raise SpecError(problems)
    return {**defaults, **given}


def describe(wanted: Requirement) -> str:
    """A requirement in words."""
    parts = [*wanted.requires]
    if wanted.cpu_milli:
        parts.append(f"{wanted.cpu_milli / 1000:g} cpu")
    return ", ".join(parts) or "nothing special"


# -- small helpers


def _uses(parts: Sequence[Uses | None]) -> Uses:
    present = [part for part in parts if part is not None]
    if not any(part.tasks or part.inputs or part.secrets or part.calls or part.uses_item for part in present):
        return _NOTHING
    return Uses(
        tasks=frozenset().union(*(part.tasks for part in present)),
        inputs=frozenset().union(*(part.inputs for part in present)),
        secrets=frozenset().union(*(part.secrets for part in present)),
        calls=frozenset().union(*(part.calls for part in present)),
        uses_item=any(part.uses_item for part in present),
    )


_NOTHING = Uses()


def _guard(check: Any, path: str, problems: list[Problem]) -> None:
    try:
        check()
    except ExpressionError as error:
        problems.append(Problem(path, str(error)))


def _value(value: Any, path: str, problems: list[Problem]) -> Value | None:
    try:
        return compile_value(value)
    except ExpressionError as error:
        problems.append(Problem(path, str(error)))
        return None


def _condition(text: str, path: str, problems: list[Problem]) -> Expression | None:
    try:
        found = parse_condition(text)
    except ExpressionError as error:
        problems.append(Problem(path, str(error)))
        return None
    if found.uses_secrets:
        problems.append(Problem(path, "secrets are only for `with`, `run` and `env`: they are known to the node alone"))
    return found


def _nearest(name: str, known: Sequence[str]) -> str:
    """`; did you mean 'x'?` for a name one or two letters off."""
    for other in known[:2_000]:
        if other.lower() == name.lower() or _distance_at_most_two(name, other):
            return f"; did you mean '{other}'?"
    return ""


def _distance_at_most_two(a: str, b: str) -> bool:
    if abs(len(a) - len(b)) > 2 or min(len(a), len(b)) < 3:
        return False
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1] <= 2
