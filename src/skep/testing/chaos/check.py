"""The checker: compares what clients were promised, what tasks did, and what Skep says of it.

lost      accepted, acknowledged or told, and not so any more
stale     an outcome that is not that of the attempt which held the task; two outcomes of one task; a task that began again
          after its outcome; a lock that two had; a checkpoint that went back
stuck     accepted, and not over
again     executions that did not count: allowed, and counted
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from inspect import isclass
from typing import Final

import msgspec

from skep import errors
from skep.model.run import Token
from skep.testing.chaos.effects import Line, lost_counts, shared_locks
from skep.testing.chaos.ledger import Entry
from skep.testing.chaos.story import Seen, Story
from skep.testing.chaos.trace import NOBODY, Trace

LATE_MS: Final = 30_000
"""For a command that was acknowledged to be followed, whatever stands still meanwhile."""
NOT_ITS_OWN: Final = frozenset(
    {"Import", *(name for name, kind in vars(errors).items() if isclass(kind) and issubclass(kind, errors.SkepError))}
)
"""Kinds of errors for which no task of `work` is to blame."""
OVER: Final = frozenset({"succeeded", "failed", "cancelled"})


class Findings(msgspec.Struct):
    accepted: int = 0
    finished: int = 0
    lost: list[str] = []
    stale: list[str] = []
    stuck: list[str] = []
    again: int = 0

    @property
    def bad(self) -> bool:
        return bool(self.lost or self.stale or self.stuck)


def check(
    entries: Sequence[Entry],
    lines: Sequence[Line],
    stories: Mapping[str, Story | None],
    stuck: Collection[str] = (),
    *,
    one_machine: bool = True,
) -> Findings:
    """`stories`: of all runs that were accepted, and of their children; None: nobody knows the run. `stuck`: runs of which
    nothing was heard for too long. `one_machine`: the times of `lines` are of one clock."""
    accepted = list(dict.fromkeys(entry.run for entry in entries if entry.what == "accepted"))
    traces = {run: Trace(story) for run, story in stories.items() if story is not None}
    found = Findings(accepted=len(accepted))
    for run in accepted:
        story = stories.get(run)
        if story is None:
            found.lost.append(f"run {run} was accepted, and nobody knows it")
        elif story.state in OVER:
            found.finished += 1
        else:
            found.stuck.append(f"run {run} is {story.state}: {_unfinished(story)}")
    found.stuck += [f"run {run}: nothing happened for too long" for run in stuck if _is_over(stories.get(run))]
    found.lost += _broken_promises(entries, stories)
    found.lost += _half_ended(stories)
    found.lost += _spoiled(stories)
    by_run = _by_run(lines)
    for run, trace in traces.items():
        story = stories[run]
        assert story is not None
        found.stale += trace.faults
        found.stale += _foreign_outputs(story, trace)
        stale, again = _executions(story, trace, by_run.get(run, ()))
        found.stale += stale
        found.again += again
    found.stale += shared_locks(lines) if one_machine else ()
    found.stale += lost_counts(lines)
    return found


def _is_over(story: Story | None) -> bool:
    return story is not None and story.state in OVER


def _unfinished(story: Story) -> str:
    left = [f"{task.name} {task.state}" for task in story.tasks if task.state not in (*OVER, "skipped")]
    return ", ".join(left[:5]) + (f" and {len(left) - 5} more" if len(left) > 5 else "")


def _by_run(lines: Sequence[Line]) -> dict[str, list[Line]]:
    found: defaultdict[str, list[Line]] = defaultdict(list)
    for line in lines:
        found[line.run].append(line)
    return found


def _broken_promises(entries: Sequence[Entry], stories: Mapping[str, Story | None]) -> Iterator[str]:
    """What was acknowledged or told, and is not so."""
    for entry in entries:
        story = stories.get(entry.run)
        if story is None:
            continue
        if entry.what == "cancelled" and story.state == "succeeded" and story.finished_ms > entry.at_ms + LATE_MS:
            yield f"run {entry.run} was told to be cancelled, and succeeded {story.finished_ms - entry.at_ms} ms later"
        elif entry.what == "decided":
            yield from _forgotten_decision(entry, story)
        elif entry.what == "ended":
            yield from _changed_end(entry, story)


def _forgotten_decision(entry: Entry, story: Story) -> Iterator[str]:
    task = next((task for task in story.tasks if task.name == entry.task), None)
    if task is None or task.state not in ("succeeded", "failed"):
        return  # cancelled first, or stuck
    by = task.output.get("by") if isinstance(task.output, dict) else None
    if task.state != ("succeeded" if entry.approve else "failed") or (entry.approve and by != entry.by):
        yield f"run {entry.run}: {entry.by} decided {entry.task} ({entry.approve}), and it is {task.state} by {by}"


def _changed_end(entry: Entry, story: Story) -> Iterator[str]:
    if story.state != entry.state:
        yield f"run {entry.run} was told to have {entry.state}, and is {story.state}"
    now = outcomes(story.tasks)
    for name, outcome in entry.outcomes.items():
        if now.get(name) != outcome:
            yield f"run {entry.run}: {name} was told as {outcome}, and is {now.get(name)}"


def outcomes(tasks: Sequence[Seen]) -> dict[str, str]:
    """How each task stands, and the token of its last attempt: what must never change once the run has ended."""
    return {task.name: f"{task.state} {task.history[-1].token if task.history else None}" for task in tasks}


def _half_ended(stories: Mapping[str, Story | None]) -> Iterator[str]:
    for run, story in stories.items():
        if story is not None and story.state in OVER and (left := _unfinished(story)):
            yield f"run {run} has {story.state}, but not all of it: {left}"


def _spoiled(stories: Mapping[str, Story | None]) -> Iterator[str]:
    """What `work` does never fails so."""
    for run, story in stories.items():
        for task in story.tasks if story is not None else ():
            if task.state == "failed" and isinstance(task.error, dict) and task.error.get("type") in NOT_ITS_OWN:
                yield f"run {run}: {task.name} failed, and not by itself: {task.error['type']}: {task.error.get('message')}"


def _foreign_outputs(story: Story, trace: Trace) -> Iterator[str]:
    """The outputs of `work` say which attempt made them."""
    for task in story.tasks:
        if task.state != "succeeded" or not isinstance(task.output, dict) or "token" not in task.output:
            continue
        _, token, _ = trace.outcome.get(task.index, ("", NOBODY, NOBODY))
        if task.output["token"] != str(token):
            made = f"attempt {task.output['attempt']}, token {task.output['token']}"
            yield f"run {story.run}: {task.name} succeeded under token {token} with the output of {made}"


def _executions(story: Story, trace: Trace, lines: Sequence[Line]) -> tuple[list[str], int]:
    """Executions that should not be, and how many did not count."""
    indexes = {task.name: task.index for task in story.tasks}
    stale, again = [], 0
    begun: defaultdict[str, set[Token]] = defaultdict(set)
    for line in lines:
        if line.what == "start" and line.name in indexes:
            begun[line.name].add(Token.parse(line.token))
    for name, tokens in begun.items():
        index = indexes[name]
        again += len(tokens - trace.counted[index])
        if index in trace.outcome:
            kind, _, at = trace.outcome[index]
            stale += [
                f"run {story.run}: {name} {kind} (event {at}) and began again under token {token}"
                for token in sorted(tokens)
                if token > at
            ]
    done = {line.name for line in lines if line.what == "end"}
    for task in story.tasks:
        ours = isinstance(task.output, dict) and "token" in task.output
        if task.state == "succeeded" and ours and task.name not in done:
            stale.append(f"run {story.run}: {task.name} is said to have succeeded, and never came to its end")
    return stale, again
