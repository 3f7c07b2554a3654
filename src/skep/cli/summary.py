"""What is said when a run is over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from typing import Final

import msgspec

from skep.cli.ended import Ended
from skep.cli.screen import Line, Span, plain
from skep.model.node import ErrorInfo
from skep.model.run import RunView, TaskView
from skep.model.units import format_duration

MOST: Final = 10
"""Failed tasks that are shown with their errors."""
TAIL: Final = 10
"""Lines of a failed task's log."""

TOLERATED: Final = "failed and tolerated"
COLORS: Final = {"succeeded": "green", "failed": "red", TOLERATED: "yellow", "cancelled": "yellow", "skipped": "dim"}


def summary(ended: Ended) -> list[Line]:
    """What failed and why, then one line about the whole run."""
    view = ended.view
    tolerated = _tolerated(ended)
    failed = [task for task in view.tasks if task.state == "failed" and task.reason != "child_failed"]
    lines: list[Line] = []
    for task in (wrong := [task for task in failed if task.index not in tolerated])[:MOST]:
        lines += [[], *_failure(task, ended.tails.get(task.index, ""))]
    if len(wrong) > MOST:
        lines += [[], [(f"and {len(wrong) - MOST:,} more failed tasks; --json has all of them", "red")]]
    borne = [task for task in failed if task.index in tolerated]
    lines += [[], *map(_tolerance, borne[:MOST])] if borne else []
    if len(borne) > MOST:
        lines += [[(f"and {len(borne) - MOST:,} more failures that were tolerated; --json has all of them", "yellow")]]
    return [*lines, *([[]] if lines else []), headline(view, tolerated, ended.counts)]


def _tolerated(ended: Ended) -> set[int]:
    """Tasks that may fail without failing the run; children of a map as their parent."""
    policies = {task.name: task.on_failure for task in ended.plan.spec.tasks}
    return {task.index for task in ended.view.tasks if policies[task.name.partition("[")[0]] not in ("fail", "cancel")}


def headline(view: RunView, tolerated: Container[int] = (), counted: Mapping[str, int] | None = None) -> Line:
    """`release-gate succeeded in 12.3s: 14 tasks succeeded, 1 skipped`."""
    counts: list[Span] = []
    for state, number in sorted(
        (counted or _counted(view, tolerated)).items(), key=lambda found: [*COLORS, found[0]].index(found[0])
    ):
        counts.append((f"{', ' if counts else ': '}{number:,} {state}", COLORS.get(state, "")))
    reason = f" ({view.reason.replace('_', ' ')})" if view.reason and view.reason != "task_failed" else ""
    took = format_duration((view.finished_ms or view.accepted_ms) - (view.started_ms or view.accepted_ms))
    return [(view.workflow, "bold"), (f" {view.state}", COLORS.get(view.state, "")), (f"{reason} in {took}", ""), *counts]


def _counted(view: RunView, tolerated: Container[int]) -> Mapping[str, int]:
    mapped = {task.name.partition("[")[0] for task in view.tasks if task.name.endswith("]")}
    return Counter(
        TOLERATED if task.state == "failed" and task.index in tolerated else task.state
        for task in view.tasks
        if task.name not in mapped
    )


def _error(task: TaskView) -> ErrorInfo:
    return msgspec.convert(task.error, ErrorInfo) if task.error else ErrorInfo((task.reason or "failed").replace("_", " "), "")


def _tolerance(task: TaskView) -> Line:
    """A failure that `on_failure` allows for, in a line."""
    error = _error(task)
    message = plain(error.message.partition("\n")[0])
    return [
        ("! ", "yellow"),
        (f"{task.name} failed, as its `on_failure` tolerates: {error.type}: {message}".rstrip(": "), "dim"),
    ]


def _failure(task: TaskView, tail: str) -> list[Line]:
    error = _error(task)
    where = f" on {task.node}" if task.node else ""
    tries = f", attempt {task.attempts}" if task.attempts > 1 else ""
    message = error.message.split("\n")
    head = [("✗ ", "red"), (task.name, "bold"), (f" failed{where}{tries}: ", ""), (error.type, "red")]
    lines: list[Line] = [[*head, (f": {plain(message[0])}" if message[0] else "", "")]]
    lines += _block(error.traceback.rstrip().split("\n") if error.traceback else message[1:])
    wrote = [line for line in tail.split("\n") if line.strip()][-TAIL:]
    if wrote and not (len(message) > 1 and plain(wrote[-1]).strip() in plain(message[-1])):  # a shell error shows them itself
        lines += [[("  the last lines of its log:", "dim")], *_block(wrote)]
    return lines


def _block(lines: Sequence[str]) -> list[Line]:
    return [[("  │ ", "dim"), (plain(line), "")] for line in lines]
