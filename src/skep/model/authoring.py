"""From a workflow as people write it to the `WorkflowSpec` that is run, and back.

The shapes of the fields are checked here, against the tables of `skep.model.keys`; the graph (unknown tasks, cycles,
expressions) by `skep.flow.plan.compile_plan`, which takes what is built here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

import msgspec

from skep.errors import Problem, SpecError
from skep.model.calls import http_retry
from skep.model.fields import Fault, Field, Found, Path, nearest, show, show_path
from skep.model.keys import EXECUTORS, PLANNED, TASK, TASK_NAME, WORKFLOW
from skep.model.spec import RetryPolicy, TaskSpec, WorkflowSpec

LineOf: TypeAlias = Callable[[Path], int | None]
"""The line, from 1, of the key at a path. A task is found by its name, also where tasks are a list."""

MAX_PROBLEMS: Final = 100
"""Problems that one error lists; a mistake in a generated workflow may be in every one of its tasks."""
MAX_NESTING: Final = 8
"""Levels of runs below a run: a child, its child and so on."""

_KNOWN: Final = " or ".join(", ".join(f"`{key}`" for key in EXECUTORS).rsplit(", ", 1))
_PLAIN_TASK: Final = TaskSpec(name="", executor="", call="")
_PLAIN_WORKFLOW: Final = WorkflowSpec(name="", tasks=())
_TASK_DEFAULTS: Final = msgspec.structs.asdict(_PLAIN_TASK)
_WORKFLOW_DEFAULTS: Final = msgspec.structs.asdict(_PLAIN_WORKFLOW)


def build_workflow(data: Mapping[str, Any], line_of: LineOf | None = None, source: str = "") -> WorkflowSpec:
    """The workflow in `data`, JSON-like as YAML and JSON files give it.

    Raises SpecError with every problem found; `line_of` adds their lines and `source` names the document in the text.
    """
    if not isinstance(data, Mapping):
        raise _refusal([((), f"found {show(data)}, expected a mapping with the keys {WORKFLOW.keys}")], line_of, source)
    faults: list[Found] = []
    spec = _workflow(data, faults)
    if spec is None or faults:
        raise _refusal(faults, line_of, source)
    return spec


def _workflow(data: Mapping[str, Any], faults: list[Found], depth: int = 0) -> WorkflowSpec | None:
    """The workflow, `depth` levels below another; None when something is wrong with it, which is then in `faults`."""
    attributes = WORKFLOW.read(data, faults)
    defaults = attributes.pop("defaults", ())
    rows = dict(_rows(attributes.pop("tasks", ()), faults))
    needs = attributes.pop("dependencies", None) or {}
    for name in needs.keys() - rows.keys():
        faults.append((("dependencies", name), f"there is no task '{name}'{nearest(name, rows)}"))
    for name in (attributes.get("inputs") or {}).keys() & attributes.get("required", ()):
        faults.append((("required",), f"'{name}' has a default in `inputs`, expected it in one of the two"))
    pool: dict[Any, Any] = {}
    tasks = [_task(name, row, faults, defaults, needs.get(name, ()), pool) for name, row in rows.items()]
    namespace = attributes.get("namespace", _PLAIN_WORKFLOW.namespace)
    made = [_with_child(task, namespace, faults, depth) for task in tasks if task is not None]
    return None if faults else WorkflowSpec(tasks=tuple(made), **_without(attributes, _WORKFLOW_DEFAULTS))


def build_task(name: str, data: Mapping[str, Any], line_of: LineOf | None = None, source: str = "") -> TaskSpec:
    """One task, as it would be in a workflow. Raises SpecError with every problem found."""
    faults: list[Found] = []
    rows = list(_rows({name: data}, faults))
    task = _task(*rows[0], faults) if rows else None
    if task is not None:
        task = _with_child(task, _PLAIN_WORKFLOW.namespace, faults, 0)
    if task is None or faults:
        raise _refusal(faults, line_of, source)
    return task


def spec_to_data(spec: WorkflowSpec) -> dict[str, Any]:
    """The workflow in the form that `build_workflow` reads; `build_workflow(spec_to_data(spec)) == spec`."""
    data = WORKFLOW.write(spec, _PLAIN_WORKFLOW)
    data["tasks"] = {task.name: task_to_data(task) for task in spec.tasks}
    return data


def task_to_data(task: TaskSpec) -> dict[str, Any]:
    """The task in the form in which it stands below its name."""
    if isinstance(task.call, dict) and "definition" in task.call:
        child = spec_to_data(msgspec.convert(task.call["definition"], WorkflowSpec))
        child.pop("namespace", None)
        return {"uses": {"workflow": child}, **TASK.write(task, _PLAIN_TASK, without={"name", *EXECUTORS})}
    return TASK.write(task, _PLAIN_TASK, without={"name", *EXECUTORS} - {task.executor})


def _rows(tasks: Any, faults: list[Found]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The tasks by name, out of a mapping or a list of tasks with names."""
    listed = not isinstance(tasks, Mapping)
    seen: set[str] = set()
    for at, row in enumerate(tasks) if listed else tasks.items():
        place: Path = ("tasks", at)
        if not isinstance(row, Mapping):
            faults.append((place, f"found {show(row)}, expected a mapping with {_KNOWN}"))
            continue
        name: Any = row.get("name", row.get("task_id")) if listed else at
        try:
            TASK_NAME.parse(name)
        except Fault as fault:
            faults.append((place, fault.found[0][1]))
            continue
        if name in seen:
            faults.append((place, f"there are two tasks named '{name}'"))
            continue
        seen.add(name)
        yield name, row


def _task(
    name: str,
    data: Mapping[str, Any],
    faults: list[Found],
    defaults: Sequence[tuple[Field, Any]] = (),
    needs: tuple[str, ...] = (),
    pool: dict[Any, Any] | None = None,
) -> TaskSpec | None:
    """One task; None when something is wrong with it, which is then in `faults`."""
    found: list[Found] = []
    if defaults:
        data = _with_defaults(data, defaults)
    named = [key for key in EXECUTORS if key in data]
    if len(named) == 1 and PLANNED.isdisjoint(data):
        attributes = TASK.read(data, found)
    else:
        found.append(_executor_fault(data))
        rest = {key: value for key, value in data.items() if key not in PLANNED and key not in EXECUTORS}
        attributes = TASK.read(rest, found, beside=TASK.by_key)  # whom a key is for cannot be said here
    if attributes.pop("name", name) != name:
        found.append((("name",), f"expected '{name}', the key under which the task stands, or nothing"))
    if not found and named != ["run"]:
        _settle(named[0], data, attributes, found)
    if found:
        faults.extend((("tasks", name, *path), message) for path, message in found)
        return None
    if needs:
        attributes["needs"] = tuple(dict.fromkeys((*attributes.get("needs", ()), *needs)))
    if pool is not None:
        _share(attributes, pool)
    return TaskSpec(name=name, executor=named[0], **_without(attributes, _TASK_DEFAULTS))


def _without(attributes: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Those that differ from the defaults: equal workflows are equal bytes, whether they say what holds anyway or not."""
    return {name: value for name, value in attributes.items() if value != defaults[name]}


def _settle(executor: str, data: Mapping[str, Any], attributes: dict[str, Any], found: list[Found]) -> None:
    """What only the task as a whole can say: the retries of a request, the inputs of a child written in one of two places."""
    call = attributes["call"]
    if executor == "http":  # no retries, if that was said, is not the same as nothing said
        given = "retries" in data and data["retries"] is not None
        attributes["retry"] = (attributes.get("retry") or RetryPolicy()) if given else http_retry(call)
    elif executor == "uses" and "with" in call:
        if "with" in data:
            found.append((("with",), "stands in `uses` too, expected it in one of the two"))
        attributes["args"] = call.pop("with")


def _with_child(task: TaskSpec, namespace: str, faults: list[Found], depth: int) -> TaskSpec:
    """The task with the workflow that is written out in its `uses`, if one is, read; a child runs in its parent's namespace."""
    if task.executor != "uses" or not isinstance(task.call, dict) or not isinstance(data := task.call["workflow"], Mapping):
        return task
    found: list[Found] = []
    child: WorkflowSpec | None = None
    if depth >= MAX_NESTING:
        found.append(((), f"is nested deeper than {MAX_NESTING} levels"))
    elif data.get("namespace", namespace) != namespace:
        found.append((("namespace",), f"expected '{namespace}', that of the workflow around it, or nothing"))
    else:
        child = _workflow({"name": task.name, **data, "namespace": namespace}, found, depth + 1)
    faults.extend((("tasks", task.name, "uses", "workflow", *path), message) for path, message in found)
    return msgspec.structs.replace(task, call={"definition": msgspec.json.decode(child.encode())} if child else {})


def _with_defaults(data: Mapping[str, Any], defaults: Sequence[tuple[Field, Any]]) -> Mapping[str, Any]:
    merged = dict(data)
    for field, value in defaults:
        own = data.get(field.key)
        if field.kind.merges and isinstance(own, Mapping):
            merged[field.key] = {**value, **own}
        elif own is None and field.key not in data and field.alias not in data and field.fits(data):
            merged[field.key] = value
    return merged


def _executor_fault(data: Mapping[str, Any]) -> Found:
    named = [key for key in data if key in EXECUTORS or key in PLANNED]
    if not named:
        return (), f"says nothing to do, expected {_KNOWN}"
    if len(named) > 1:
        return (), f"found {' and '.join(f'`{key}`' for key in named)}, expected exactly one executor"
    return (named[0],), f"this version does not run `{named[0]}` tasks yet, expected {_KNOWN}"


def _share(attributes: dict[str, Any], pool: dict[Any, Any]) -> None:
    """Puts one object in place of equal ones: the tasks of a large workflow differ in little.

    Not for `with` and lists, in which 1 and true are equal.
    """
    for attribute, value in attributes.items():
        if attribute == "needs":
            value = tuple([pool.setdefault(need, need) for need in value])
        if attribute in ("env", "labels"):
            attributes[attribute] = value and pool.setdefault(tuple(value.items()), value)
        elif attribute not in ("args", "map") and not isinstance(value, dict):
            attributes[attribute] = pool.setdefault(value, value)


def _refusal(faults: Sequence[Found], line_of: LineOf | None, source: str) -> SpecError:
    problems = [Problem(show_path(path), text, line_of(path) if line_of else None) for path, text in faults[:MAX_PROBLEMS]]
    if len(faults) > MAX_PROBLEMS:
        problems.append(Problem("", f"and {len(faults) - MAX_PROBLEMS} more problems"))
    return SpecError(problems, source)
