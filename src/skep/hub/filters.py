"""Which runs, in words."""

from __future__ import annotations

from collections.abc import Sequence

from skep.errors import RefusedError
from skep.model.state import RunState
from skep.record.protocol import RunFilter


def parse_filter(
    *,
    namespace: str = "",
    states: Sequence[str] = (),
    workflow: str = "",
    labels: Sequence[str] = (),
    search: str = "",
    schedule: str = "",
    parent: str = "",
    roots: bool = False,
    since_ms: int = 0,
    until_ms: int = 0,
) -> RunFilter:
    """A filter out of words. Raises RefusedError."""
    known = {state.label: int(state) for state in RunState}
    for word in states:
        if word not in known:
            raise RefusedError(f"state: found {word!r}, expected one of {', '.join(known)}")
    wanted = dict(pair.partition("=")[::2] for pair in labels)
    return RunFilter(
        namespace=namespace,
        states=tuple(known[word] for word in states),
        workflow=workflow,
        labels=wanted,
        search=search,
        schedule=schedule,
        parent=parent,
        roots=roots,
        accepted_from_ms=since_ms,
        accepted_to_ms=until_ms,
    )
