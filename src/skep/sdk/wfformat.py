"""WfCommons WfFormat 1.5: a recorded run of a scientific workflow becomes a workflow that replays it."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from skep.errors import Problem, SpecError
from skep.flow.evaluation import ExpressionError
from skep.flow.templates import template
from skep.model.authoring import MAX_PROBLEMS, build_workflow
from skep.model.fields import nearest, show
from skep.model.kinds import MAX_NAME
from skep.model.spec import WorkflowSpec

VERSION: Final = "1.5"
LEAST_MS: Final = 1
"""A shorter task is replayed by a program that does nothing: starting `sleep` takes as long."""

_SPECIFIED, _EXECUTED = "workflow.specification.tasks", "workflow.execution.tasks"
_PLACEHOLDER: Final = re.compile(r"(?<!\$)\{(id|program|runtime|arguments)\}")  # `${id}` is the shell's own


class Recorded(NamedTuple):
    """One task as it was recorded."""

    id: str
    parents: tuple[str, ...]
    seconds: float
    program: str
    arguments: tuple[str, ...]
    memory: int
    cores: float


def import_instance(
    data: Mapping[str, Any], *, time_scale: float = 1.0, command: str | None = None, keep_resources: bool = False
) -> WorkflowSpec:
    """The workflow in a WfFormat 1.5 document. Each task sleeps as long as it ran, times `time_scale`.

    `command` is what every task runs in place of that, a shell line in which `{id}`, `{program}`, `{arguments}` and `{runtime}`
    (scaled seconds) are replaced, each quoted. The recorded memory (bytes) and cores are labels; with `keep_resources` each
    task also takes them of its node, which may be more than this machine has.
    Raises SpecError with the path of everything that is wrong.
    """
    if not _is_amount(time_scale):
        raise SpecError.at("time_scale", f"found {show(time_scale)}, expected a number of at least 0")
    if command is not None:
        _check_command(command)
    tasks = _read(data)
    names = _names([task.id for task in tasks])
    return build_workflow(
        {
            "name": _name(str(data.get("name") or "wfformat"), "A-Za-z0-9_"),
            "description": _describe(data, time_scale),
            "tasks": {
                names[task.id]: {
                    "run": _command(task, command, time_scale),
                    **({"needs": [names[parent] for parent in task.parents]} if task.parents else {}),
                    "estimated_duration": f"{_scaled_ms(task, time_scale)}ms",
                    "labels": _labels(task),
                    **({"resources": _resources(task)} if keep_resources else {}),
                }
                for task in tasks
            },
        }
    )


# -- reading


def _read(data: object) -> list[Recorded]:
    version = data.get("schemaVersion") if isinstance(data, Mapping) else None
    if not isinstance(data, Mapping) or version != VERSION:
        raise SpecError.at("schemaVersion", f"found {show(version)}, expected a WfFormat document of version '{VERSION}'")
    problems: list[Problem] = []
    specified = _by_id(_list(data, _SPECIFIED), _SPECIFIED, problems)
    executed = _by_id(_list(data, _EXECUTED), _EXECUTED, problems)
    problems += _disagreements(specified)
    for name, (at, _) in specified.items():
        if name not in executed:
            problems.append(Problem(f"{_SPECIFIED}[{at}]", f"task '{name}' has no record in {_EXECUTED}"))
    for name, (at, _) in executed.items():
        if name not in specified:
            problems.append(Problem(f"{_EXECUTED}[{at}].id", f"there is no task '{name}'{nearest(name, specified)}"))
    tasks = [_recorded(row, *executed[name], problems) for name, (_, row) in specified.items() if name in executed]
    if problems:
        raise SpecError(problems[:MAX_PROBLEMS])
    return tasks


def _list(data: Any, path: str) -> Sequence[Any]:
    for key in path.split("."):
        data = data.get(key) if isinstance(data, Mapping) else None
    if not isinstance(data, list) or not data:
        raise SpecError.at(path, f"found {show(data or None)}, expected a list of tasks")
    return data


def _by_id(rows: Sequence[Any], path: str, problems: list[Problem]) -> dict[str, tuple[int, Mapping[str, Any]]]:
    """The tasks by id, each with its position in the list."""
    found: dict[str, tuple[int, Mapping[str, Any]]] = {}
    for at, row in enumerate(rows):
        name = row.get("id") if isinstance(row, Mapping) else None
        if not isinstance(name, str) or not name:
            problems.append(Problem(f"{path}[{at}].id", f"found {show(name)}, expected the id of a task"))
        elif name in found:
            problems.append(Problem(f"{path}[{at}].id", f"there are two tasks '{name}'"))
        else:
            found[name] = at, row
    return found


def _disagreements(tasks: Mapping[str, tuple[int, Mapping[str, Any]]]) -> Iterator[Problem]:
    """Where the two ways in which WfFormat gives every dependency are not one."""
    for key, other in (("parents", "children"), ("children", "parents")):
        for name, (at, row) in tasks.items():
            path = f"{_SPECIFIED}[{at}].{key}"
            listed = row.get(key)
            if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
                yield Problem(path, f"found {show(listed)}, expected a list of ids")
                continue
            for one in listed:
                if one not in tasks:
                    yield Problem(path, f"there is no task '{one}'{nearest(one, tasks)}")
                elif isinstance(back := tasks[one][1].get(other), list) and name not in back:
                    yield Problem(path, f"names '{one}', whose `{other}` do not name '{name}'")


def _recorded(task: Mapping[str, Any], at: int, record: Mapping[str, Any], problems: list[Problem]) -> Recorded:
    def amount(key: str, required: bool = False) -> float:
        value = record.get(key, None if required else 0)
        if _is_amount(value):
            return float(value)
        problems.append(Problem(f"{_EXECUTED}[{at}].{key}", f"found {show(value)}, expected a number of at least 0"))
        return 0

    command = record.get("command") or {}
    program, arguments = (command.get("program") or "", command.get("arguments") or []) if isinstance(command, dict) else (0, 0)
    if not isinstance(program, str) or not isinstance(arguments, list):
        problems.append(Problem(f"{_EXECUTED}[{at}].command", "expected a `program` and a list of `arguments`"))
        program, arguments = "", []
    parents = task.get("parents")
    return Recorded(
        id=task["id"],
        parents=tuple(parents) if isinstance(parents, list) else (),
        seconds=amount("runtimeInSeconds", required=True),
        program=program,
        arguments=tuple(map(str, arguments)),
        memory=int(amount("memoryInBytes")),
        cores=amount("coreCount"),
    )


def _is_amount(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


# -- writing


def _scaled_ms(task: Recorded, time_scale: float) -> int:
    return round(task.seconds * time_scale * 1_000)


def _command(task: Recorded, command: str | None, time_scale: float) -> str | list[str]:
    ms = _scaled_ms(task, time_scale)
    seconds = f"{ms / 1_000:.3f}".rstrip("0").rstrip(".")
    if command is None:
        return ["sleep", seconds] if ms >= LEAST_MS else ["true"]
    values = {
        "id": shlex.quote(task.id),
        "program": shlex.quote(task.program),
        "arguments": shlex.join(task.arguments),
        "runtime": seconds,
    }
    # What was recorded is no expression, whatever it looks like; what the caller wrote may be one.
    return _PLACEHOLDER.sub(lambda match: values[match[1]].replace("${{", "$${{"), command)


def _check_command(command: str) -> None:
    """Refuses a placeholder where its quotes would not hold, by the check that expressions go through."""
    try:
        line = template(_PLACEHOLDER.sub("${{ item }}", command))
    except ExpressionError as error:
        raise SpecError.at("command", str(error)) from None
    try:
        if line is not None:
            line.check_shell()
    except ExpressionError:
        problem = "what is put in is quoted already, so it must not stand inside of quotes, a comment or a here document"
        raise SpecError.at("command", problem) from None


def _labels(task: Recorded) -> dict[str, str]:
    words = task.program.split()
    labels = {"program": words[0].rpartition("/")[2][:MAX_NAME] if words else "", "recorded_seconds": f"{task.seconds:g}"}
    if task.memory:
        labels["recorded_memory"] = str(task.memory)
    if task.cores:
        labels["recorded_cores"] = f"{task.cores:g}"
    return {key: value for key, value in labels.items() if value}


def _resources(task: Recorded) -> dict[str, Any]:
    return {key: value for key, value in (("memory", task.memory), ("cpu", task.cores)) if value}


def _describe(data: Mapping[str, Any], time_scale: float) -> str:
    system = data.get("runtimeSystem")
    ran = f" by {system['name']}" if isinstance(system, Mapping) and isinstance(system.get("name"), str) else ""
    when = f" on {str(data['createdAt'])[:10]}" if data.get("createdAt") else ""
    scale = f", at {time_scale:g} of the recorded time" if time_scale != 1 else ""
    return f"{data.get('name')}, recorded{ran}{when}; imported from WfCommons WfFormat {VERSION}{scale}."


def _names(ids: Sequence[str]) -> dict[str, str]:
    """A task name for every id: the id itself where it is one."""
    names: dict[str, str] = {}
    taken = set(ids)
    for one in ids:
        name = _name(one, "A-Za-z_")
        number = 1
        while name != one and name in taken:
            number += 1
            name = f"{_name(one, 'A-Za-z_')}_{number}"
        taken.add(name)
        names[one] = name
    return names


def _name(text: str, first: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", text)[: MAX_NAME - 10]
    return plain if re.match(f"[{first}]", plain) else f"_{plain}"
