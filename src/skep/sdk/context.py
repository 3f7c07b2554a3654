"""`from skep import context`: the running task's context, wherever it is asked from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from skep.node.context import current_context

if TYPE_CHECKING:
    from skep.node.context import TaskContext


class _Current:
    """Stands for the context of whatever task is running."""

    def __getattr__(self, name: str) -> Any:
        return getattr(current_context(), name)

    def __repr__(self) -> str:
        return "<skep.context>"


if TYPE_CHECKING:
    context: TaskContext
else:
    context = _Current()
