"""The end of a demo run as a table: what ran where, how long it took, and what the whole run waited for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from textwrap import wrap
from typing import Final, NamedTuple

from skep.cli.ended import Ended
from skep.cli.rows import fold_above, stem
from skep.cli.screen import Line, fit
from skep.cli.summary import COLORS
from skep.flow import graph
from skep.model.run import TaskView
from skep.model.units import format_duration

HEADS: Final = ("task", "node", "attempts", "duration")
PATH: Final = 12
"""Names of the critical path that are shown."""


class _Entry(NamedTuple):
    cells: tuple[str, str, str, str]
    state: str


def table(ended: Ended) -> list[Line]:
    """A row for each task; those of which there are many of a kind share one."""
    entries = _entries(ended)
    widths = [max(len(head), *(len(entry.cells[at]) for entry in entries)) for at, head in enumerate(HEADS)]

    def line(cells: Sequence[str], style: str) -> Line:
        task, node, attempts, duration = cells
        text = f"  {fit(task, widths[0])}  {fit(node, widths[1])}  {attempts:>{widths[2]}}  {duration:>{widths[3]}}"
        return [(text.rstrip(), style)]

    plain = {"succeeded": ""}
    rows = [line(entry.cells, plain.get(entry.state, COLORS.get(entry.state, ""))) for entry in entries]
    return [line(HEADS, "dim"), *rows, [], *_facts(ended)]


def _entries(ended: Ended) -> list[_Entry]:
    groups: dict[str, list[TaskView]] = {}
    leaves = _leaves(ended)
    for task in leaves:
        groups.setdefault(_kind(task), []).append(task)
    entries: list[_Entry] = []
    for kind, tasks in groups.items():
        if len(tasks) > fold_above(len(leaves)):
            entries.append(_folded(kind, tasks))
        else:
            entries += [_Entry((task.name, task.node or "-", str(task.attempts), _took(task)), task.state) for task in tasks]
    return entries


def _folded(kind: str, tasks: Sequence[TaskView]) -> _Entry:
    nodes = ", ".join(f"{node} {count}" for node, count in sorted(Counter(task.node or "-" for task in tasks).items()))
    times = [_ms(task) for task in tasks]
    duration = f"{format_duration(min(times))} to {format_duration(max(times))}"
    state = next((task.state for task in tasks if task.state != "succeeded"), "succeeded")
    return _Entry((f"{kind} × {len(tasks)}", nodes, str(sum(task.attempts for task in tasks)), duration), state)


def _kind(task: TaskView) -> str:
    return task.name.partition("[")[0] if task.name.endswith("]") else stem(task.name) or task.name


def _leaves(ended: Ended) -> list[TaskView]:
    """All tasks but the maps that became children."""
    mapped = {task.name.partition("[")[0] for task in ended.view.tasks if task.name.endswith("]")}
    return [task for task in ended.view.tasks if task.name not in mapped]


def _ms(task: TaskView) -> int:
    return task.finished_ms - task.started_ms if task.started_ms and task.finished_ms else 0


def _took(task: TaskView) -> str:
    return format_duration(_ms(task)) if task.started_ms else task.state


def _facts(ended: Ended) -> list[Line]:
    view, leaves = ended.view, _leaves(ended)
    path = critical_path(ended)
    where = Counter(task.node for task in leaves if task.node)
    names = [task.name for task in path]
    shown = names if len(names) <= PATH else [*names[: PATH - 5], "…", *names[-4:]]
    makespan, work = (view.finished_ms or 0) - (view.started_ms or 0), sum(map(_ms, leaves))
    facts = [
        ("ran on", ", ".join(f"{node} {count}" for node, count in sorted(where.items()))),
        ("makespan", format_duration(makespan)),
        ("work", f"{format_duration(work)} in all, {work / max(makespan, 1):.1f} tasks at a time"),
        ("critical path", f"{format_duration(sum(map(_ms, path)))}: {' → '.join(shown)}"),
    ]
    return [
        [(f"  {name if at == 0 else '':<14}", "dim"), (part, "")]
        for name, text in facts
        for at, part in enumerate(wrap(text, 80, break_on_hyphens=False))
    ]


def critical_path(ended: Ended) -> list[TaskView]:
    """The chain of tasks that needed each other and took longest, by what they really took."""
    tasks = ended.view.tasks
    place = {task.name: at for at, task in enumerate(tasks)}
    needs = [
        [place[ended.plan.names[up]] for up in ended.plan.needs[task.index]] if task.index < len(ended.plan.names) else []
        for task in tasks
    ]
    durations = [_ms(task) for task in tasks]
    for at, task in enumerate(tasks):
        if task.name.endswith("]"):  # a map is over when its children are, and they begin when it could
            parent = place[task.name.partition("[")[0]]
            needs[at] = [up for up in needs[parent] if not tasks[up].name.startswith(f"{tasks[parent].name}[")]
            needs[parent].append(at)
            durations[parent] = 0
    ordered = graph.order(needs, graph.successors_of(needs))
    return [tasks[at] for at in graph.critical_path(needs, ordered, durations) if durations[at]]
