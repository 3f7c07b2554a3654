"""Tasks that may write the same thing at the same time. Pure.

Two tasks may run at once when neither must wait for the other, not even by way of others, and they share no exclusive lock. The
children of a map may run at once with each other. They write the same thing when what they write is equal, or one path is
below the other. Where expressions decide, only what is sure is told: `out/${{ inputs.x }}` is below `out`, and equal to itself.

With sets of tasks as the bits of integers. Only tasks that write what another one writes too are looked at (`rivals`), and no
more than `BLOCK` of them at a time, so that a wide graph does not take their square in memory.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from skep.flow.evaluation import ExpressionError
from skep.flow.templates import Template, template
from skep.model.spec import TaskSpec

BLOCK: Final = 8_192

Steps: TypeAlias = tuple[str, ...]
"""A path as the names on the way, the first one `/` when it starts at the root; of anything else its name. What differs from
item to item of a map begins with the map's list, so that two maps over one list are compared item by item. An expression is a
piece of a name that no text has."""

_LIST, _ITEM, _OTHER = "\0l", "\0i", "\0e"

_encode = msgspec.json.Encoder().encode


class Conflict(NamedTuple):
    """`task` and `other` (the same one: children of its map) may write at once what `task` calls `what`."""

    task: int
    other: int
    what: str


class Writer(NamedTuple):
    """What one task writes and holds while it does."""

    task: int
    paths: Mapping[Steps, str]
    """With what each was called."""
    locks: frozenset[Steps]
    """Its exclusive ones."""
    beside_itself: bool
    """A map of which several children may run at once."""


def conflicts(tasks: Sequence[TaskSpec], needs: Sequence[Sequence[int]], ordered: Sequence[int]) -> Iterator[Conflict]:
    """Every conflict, in an order from first tasks to last. `needs` is by task index; `ordered`: each after what it needs."""
    writers = [writer_of(task, tasks[task]) for task in ordered if tasks[task].writes]
    for writer in writers:
        for steps, what in writer.paths.items():
            if writer.beside_itself and not _varies(steps) and all(map(_varies, writer.locks)):
                yield Conflict(writer.task, writer.task, what)
    rivals = _rivals(writers)
    for first in range(0, len(rivals), BLOCK):
        yield from _between(rivals[first : first + BLOCK], rivals[first:], needs, ordered)


def writer_of(at: int, task: TaskSpec) -> Writer:
    """Each path once, however it is written."""
    own = _LIST + _encode(task.map).decode() if task.map is not None else ""
    paths = {steps_of(written, own): written for written in reversed(task.writes)}
    locks = frozenset(steps_of(lock.name, own) for lock in task.locks if not lock.shared)
    return Writer(at, paths, locks, bool(own) and task.max_parallel != 1)


def steps_of(written: str, own: str = "") -> Steps:
    """The steps of a path; `own` is put before one that differs from item to item."""
    try:
        found = template(written)
    except ExpressionError:  # told by whoever compiles it
        found = None
    marked = _marked(found) if found else written
    steps = ["/"] if marked.startswith("/") else []
    for step in marked.split("/"):
        if step == ".." and steps and steps[-1] not in ("..", "/") and "\0" not in steps[-1]:
            steps.pop()
        elif step not in ("", ".") and not (step == ".." and steps == ["/"]):
            steps.append(step)
    return (own, *steps) if own and _ITEM in marked else tuple(steps)


def _marked(found: Template) -> str:
    """The text with each expression as one piece without a `/`."""
    return "".join(
        part if isinstance(part, str) else f"{_ITEM if part.uses_item else _OTHER}{part.source}\0".replace("/", "\0s")
        for part in found.parts
    )


def _varies(steps: Steps) -> bool:
    return bool(steps) and steps[0].startswith(_LIST)


def _prefixes(steps: Steps) -> Iterator[Steps]:
    """The paths above this one. What starts with an expression, at the root, or further up, is not below the place where
    relative paths start."""
    if _varies(steps):
        yield from (steps[:length] for length in range(2, len(steps)))
        same = next(at for at, step in enumerate(steps) if _ITEM in step)
        steps = steps[1 : same + 1]  # up to there it is the same path for all items
    if steps and steps[0] not in ("/", "..") and not steps[0].startswith("\0"):
        yield ()
    yield from (steps[:length] for length in range(1, len(steps)))


def _rivals(writers: Sequence[Writer]) -> list[Writer]:
    """Those that write something which another one writes too."""
    at = {steps for writer in writers for steps in writer.paths}
    below: Counter[Steps] = Counter()
    for writer in writers:
        below.update({above for steps in writer.paths for above in (steps, *_prefixes(steps))})
    return [
        writer
        for writer in writers
        if any(below[steps] > 1 or any(above in at for above in _prefixes(steps)) for steps in writer.paths)
    ]


def _between(
    block: Sequence[Writer], rivals: Sequence[Writer], needs: Sequence[Sequence[int]], ordered: Sequence[int]
) -> Iterator[Conflict]:
    """The conflicts of a block with itself and those that come after it; bit n of a set stands for the n-th of the block."""
    at: defaultdict[Steps, int] = defaultdict(int)
    below: defaultdict[Steps, int] = defaultdict(int)
    holders: defaultdict[Steps, int] = defaultdict(int)
    for n, writer in enumerate(block):
        for steps in writer.paths:
            at[steps] |= 1 << n
            for above in (steps, *_prefixes(steps)):
                below[above] |= 1 << n
        for lock in writer.locks:
            holders[lock] |= 1 << n
    numbers = {writer.task: n for n, writer in enumerate(block)}
    before = _before(numbers, needs, ordered)
    for k, writer in enumerate(rivals):
        apart = before[writer.task]
        for lock in writer.locks:
            apart |= holders.get(lock, 0)
        if k < len(block):
            apart |= -1 << k  # itself, and those that will look at it
        for steps, what in writer.paths.items():
            met = below.get(steps, 0)
            for above in _prefixes(steps):
                met |= at.get(above, 0)
            met &= ~apart
            apart |= met  # one conflict for two tasks is enough
            while met:
                lowest = met & -met
                met ^= lowest
                yield Conflict(writer.task, block[lowest.bit_length() - 1].task, what)


def _before(numbers: Mapping[int, int], needs: Sequence[Sequence[int]], ordered: Sequence[int]) -> list[int]:
    """For each task, which of the numbered ones it waits for, itself included."""
    before = [0] * len(needs)
    for task in ordered:
        found = 0
        for up in needs[task]:
            found = found | before[up] if found else before[up]
        number = numbers.get(task)
        before[task] = found if number is None else found | 1 << number
    return before


def told(conflict: Conflict, tasks: Sequence[TaskSpec]) -> tuple[str, str]:
    """The path and the text for people."""
    task, other = tasks[conflict.task], tasks[conflict.other]
    path, lock = f"tasks.{task.name}.writes", f"`locks: [{_lock_name(conflict.what)}]`"
    if conflict.task == conflict.other:
        advice = f"write another one for each `item`, set `max_parallel: 1`, or give it {lock}"
        return path, f"the children of '{task.name}' may write '{conflict.what}' at the same time; {advice}"
    advice = f"let one of them need the other, or give both of them {lock}"
    return path, f"'{task.name}' and '{other.name}' may write '{conflict.what}' at the same time; {advice}"


def _lock_name(what: str) -> Any:
    return msgspec.json.encode(what).decode() if "${{" in what or not what.isprintable() else what
