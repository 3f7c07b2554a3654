"""One task made ready to be decided on: its expressions parsed, and its call encoded where nothing in it can change. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, TypeAlias

import msgspec

from skep.flow.bounds import Bound, bounds_of
from skep.flow.check import Check
from skep.flow.evaluation import ExpressionError, Scope
from skep.flow.expressions import Expression, Uses, union
from skep.flow.functions import to_text
from skep.flow.templates import Template, Value
from skep.model import wait
from skep.model.fields import Fault, show_path
from skep.model.forms import parse_form
from skep.model.node import Call, Requirement
from skep.model.spec import NORMAL_PRIORITY, PARKED, TYPE_PRIORITY, PlacementSpec, Resources, TaskSpec
from skep.model.wait import Wait

DEFAULT_CPU_MILLI: Final = {"run": 1_000}
EVEN_UNMET: Final = frozenset({"always", "failed"})
"""Functions with which a `when` lets a task start although one it needs was not met."""

_NOTHING: Final = Uses()
_NO_PARTS: Final[Mapping[str, Value]] = {}
_ANYWHERE: Final = PlacementSpec()
_EMPTY: Final = Scope({}, {})
_encode = msgspec.json.Encoder().encode


class TaskPlan:
    """One task, ready to be decided on. Tasks that differ in nothing that is kept here share one."""

    __slots__ = (
        "affinity",
        "call",
        "constant_call",
        "deadline_ms",
        "definition",
        "handles",
        "item_when",
        "locks",
        "map",
        "map_reads",
        "parks",
        "parts",
        "placement",
        "reads",
        "runs_always",
        "simple",
        "takes",
        "timeout_ms",
        "uses",
        "wanted",
        "when",
    )

    def __init__(self, spec: TaskSpec, handles: tuple[str, ...] = ()) -> None:
        self.wanted, self.takes = _requirement(spec.executor, spec.requires, spec.resources, _busy(spec), app_of(spec))
        """What a node must have for an attempt, and what the attempt takes of it."""
        self.placement = spec.placement or _ANYWHERE
        """What it says about the choice among the nodes that have it."""
        self.affinity: Value | None = None
        """Its key for one node, where that holds expressions."""
        self.parks = spec.executor in PARKED
        """It waits for somebody else: it needs no node, and its decision is `Park` in place of `Start`."""
        self.timeout_ms = spec.timeout_ms
        self.deadline_ms = spec.deadline_ms
        self.constant_call: bytes | None = None
        """The encoded call when nothing in it depends on the run; None also for what parks."""
        self.call: Call | None = None
        """Else the call as it was written, and"""
        self.parts: Mapping[str, Value] = _NO_PARTS
        """the fields of it that hold expressions."""
        self.definition = b""
        """`uses`: the canonical JSON of the workflow that is written out in it."""
        self.when: Expression | None = None
        self.item_when = False
        """`when` looks at the item: it is decided for each child, not for the parent."""
        self.runs_always = bool(handles)
        """It may start although a task that it needs was not met, and in a run that fails."""
        self.map: Expression | Value | None = None
        self.locks: tuple[Bound, ...] = ()
        """Locks, concurrency keys and rates: what only so many tasks of the fleet may have."""
        self.handles = handles
        """Tasks whose failure this one takes care of; it runs only after one of them failed."""
        self.uses = _NOTHING
        self.reads: tuple[str, ...] = handles
        """Tasks at which the decision looks, but for those that only `map` names."""
        self.map_reads: tuple[str, ...] = ()
        """Tasks at which `map` looks."""
        self.simple = False
        """Whether the decision is always Start with the constant call."""

    def render(self, scope: Scope) -> bytes:
        """The call, encoded, with every expression but the secrets filled in. Raises ExpressionError."""
        assert self.call is not None
        secrets = any(value.secrets for value in self.parts.values())
        quote = shlex.quote if self.call.executor == "run" and isinstance(self.call.call, str) else None
        filled: dict[str, Any] = {
            part: value.render(scope, quote if part == "call" else None, keep_secrets=secrets)
            for part, value in self.parts.items()
        }
        if isinstance(words := filled.get("call"), list):
            filled["call"] = [to_text(word) for word in words]
        if "env" in filled:
            filled["env"] = {name: to_text(value) for name, value in filled["env"].items()}
        if "cwd" in filled:
            filled["cwd"] = to_text(filled["cwd"])
        if self.call.executor == "http" and "call" in filled:
            filled["call"] = _request(filled["call"])
        return _encode(msgspec.structs.replace(self.call, **filled, needs_secrets=secrets))

    def render_wait(self, scope: Scope) -> Wait:
        """What it waits for, with every expression filled in. Raises ExpressionError."""
        assert self.call is not None
        assert isinstance(self.call.call, dict)
        call, args = self.call.call, self.call.args
        if "call" in self.parts:
            call = self.parts["call"].render(scope)
        if "args" in self.parts:
            args = self.parts["args"].render(scope)
        if self.call.executor == "approval":
            timeout_ms = call.get("deadline_ms", 0)
            message, default = to_text(call["message"]), call.get("default", "")
            form = _form(call["form"]) if "form" in call else None
            return Wait(kind=wait.APPROVAL, timeout_ms=timeout_ms, message=message, form=form, default=default)
        if self.call.executor == "uses":
            workflow = "" if self.definition else to_text(call["workflow"])
            return Wait(kind=wait.CHILD, timeout_ms=self.timeout_ms, definition=self.definition, workflow=workflow, inputs=args)
        event, key = to_text(call["event"]), to_text(call.get("key", ""))
        return Wait(kind=wait.EVENT, timeout_ms=self.timeout_ms, event=event, key=key)


Shared: TypeAlias = dict[tuple[bytes, int, int, int, PlacementSpec], TaskPlan]
"""Plans of tasks without expressions, by all that tells them apart: call, requirement (its id), timeout, deadline, wishes."""


def compile_task(spec: TaskSpec, check: Check, handles: tuple[str, ...], shared: Shared) -> TaskPlan:
    """The task's plan; what is wrong with it is left with `check`."""
    call = Call(spec.executor, spec.call, spec.args or None, spec.env or None, spec.cwd, spec.isolation)
    for written in spec.writes:
        if "${{" in written:
            check.value(written, f"tasks.{spec.name}.writes", item=spec.map is not None)
    plan = TaskPlan(spec, handles)
    if plan.parks and isinstance(call.call, dict) and "definition" in call.call:
        plan.definition = _encode(call.call["definition"])
        call = msgspec.structs.replace(call, call={})  # its expressions are those of another workflow
    encoded = _encode(call)
    constant = b"${{" not in encoded
    if plan.parks:
        plan.call = call
    elif constant:
        plan.constant_call = encoded
        plain = spec.when is None and spec.map is None and not any(bounds_of(spec)) and not handles
        plan.simple = plain and "${{" not in plan.placement.affinity
        if plan.simple:
            return shared.setdefault((encoded, id(plan.wanted), spec.timeout_ms, spec.deadline_ms, plan.placement), plan)
    path, item = f"tasks.{spec.name}", spec.map is not None
    if not constant:
        plan.call, plan.parts = call, _parts(spec, call, check, path, item)
    if spec.when is not None:
        plan.when = check.condition(spec.when, f"{path}.when", item=item)
    if isinstance(spec.map, str):
        plan.map = check.condition(spec.map, f"{path}.map")
    elif spec.map is not None:
        plan.map = check.value(spec.map, f"{path}.map")
    for key, written, bound in bounds_of(spec):
        name = check.value(written, f"{path}.{key}", item=item)
        plan.locks += (Bound(name, bound),) if name is not None else ()
    if "${{" in plan.placement.affinity:
        plan.affinity = check.value(plan.placement.affinity, f"{path}.placement.affinity", item=item)
    _look(plan)
    if not constant and not plan.parks and all(value.constant for value in plan.parts.values()):
        plan.constant_call = plan.render(_EMPTY)
        plain = spec.when is None and spec.map is None and not plan.locks and not handles
        plan.simple = plain and plan.affinity is None
    return plan


def _parts(spec: TaskSpec, call: Call, check: Check, path: str, item: bool) -> dict[str, Value]:
    """The fields of the call with `${{` in them, compiled."""
    parts: dict[str, Value] = {}
    for part, key in (("call", spec.executor), ("args", "with"), ("env", "env"), ("cwd", "cwd")):
        value = check.value(getattr(call, part), f"{path}.{key}", item=item, secrets=spec.executor not in PARKED)
        if value is not None and not value.plain:
            parts[part] = value
    command = parts.get("call")
    if command is not None and spec.executor == "python" and not command.constant:
        check.refuse(f"{path}.python", "expected a fixed module:function; what to run is never made from data")
    if command is not None and spec.executor == "run" and isinstance(command.body, Template):
        check.shell(command.body, f"{path}.run")
    return parts


def _look(plan: TaskPlan) -> None:
    """Notes what the task's expressions refer to."""
    rest: list[Uses] = [*plan.parts.values(), *(bound.name for bound in plan.locks)]
    if plan.affinity is not None:
        rest.append(plan.affinity)
    if plan.when is not None:
        rest.append(plan.when)
        plan.runs_always = plan.runs_always or bool(plan.when.calls & EVEN_UNMET)
        plan.item_when = plan.when.uses_item
    own = Uses(**union(rest))
    plan.reads = _names(own, plan.handles)
    plan.uses = own
    if plan.map is not None:
        plan.map_reads = _names(plan.map)
        plan.uses = Uses(**union([own, plan.map]))


def _names(uses: Uses, more: Sequence[str] = ()) -> tuple[str, ...]:
    return tuple(sorted(uses.tasks.union(more)))


def _request(request: dict[str, Any]) -> dict[str, Any]:
    """The request with texts where texts belong, whatever the expressions gave."""
    texts: dict[str, Any] = {key: to_text(request[key]) for key in ("url", "method", "body") if key in request}
    if "headers" in request:
        texts["headers"] = {name: to_text(value) for name, value in request["headers"].items()}
    return request | texts


def _form(value: Any) -> dict[str, Any]:
    """The form with its expressions filled in, checked again: any of them may have given something else."""
    try:
        return parse_form(value, filled=True)
    except Fault as fault:
        place = show_path(("approval", "form", *fault.found[0][0]))
        raise ExpressionError(f"what {place} comes to is no part of a form", place) from None


def app_of(spec: TaskSpec) -> str:
    """The module or file of a Python function; empty for other tasks."""
    return spec.call.rpartition(":")[0] if spec.executor == "python" and isinstance(spec.call, str) else ""


def _busy(spec: TaskSpec) -> bool:
    """Whether it takes a core by itself, whatever its executor does."""
    return spec.isolation == "process" or (spec.placement is not None and spec.placement.cpu_intensive)


@lru_cache(maxsize=4_096)
def _requirement(
    executor: str, requires: tuple[str, ...], resources: Resources | None, busy: bool, app: str
) -> tuple[Requirement, tuple[tuple[str, int], ...]]:
    cpu = resources.cpu_milli if resources else None
    if cpu is None:
        cpu = DEFAULT_CPU_MILLI.get(executor, 1_000 if busy else 0)
    memory, vram = (resources.memory, resources.vram) if resources else (0, 0)
    wanted = Requirement(executor, tuple(sorted(requires)), cpu, memory, vram, app)
    return wanted, () if wanted.parks else wanted.takes()


def priority_of(task: TaskSpec, run_priority: int) -> int:
    """1 to 10: the task's own, else the run's, else by type."""
    return task.priority or run_priority or TYPE_PRIORITY.get(task.type, NORMAL_PRIORITY)
