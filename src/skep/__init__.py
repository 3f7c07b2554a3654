"""Skep runs workflows of AI-agent and ordinary tasks on a fleet of machines, and loses none of them.

The names below are loaded when they are first used, so that `import skep` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from skep.version import VERSION

if TYPE_CHECKING:
    from skep.client import Client
    from skep.errors import NotFoundError, RefusedError, RunFailedError, SkepError, SpecError, WrongStateError
    from skep.sdk.calls import approval, http, uses, wait_for
    from skep.sdk.context import context
    from skep.sdk.ref import index, item, secret
    from skep.sdk.task import shell, task
    from skep.sdk.workflow import workflow

__version__ = VERSION
__all__ = [
    "Client",
    "NotFoundError",
    "RefusedError",
    "RunFailedError",
    "SkepError",
    "SpecError",
    "WrongStateError",
    "__version__",
    "approval",
    "context",
    "http",
    "index",
    "item",
    "secret",
    "shell",
    "task",
    "uses",
    "wait_for",
    "workflow",
]

_HOMES = {
    "Client": "skep.client",
    "approval": "skep.sdk.calls",
    "http": "skep.sdk.calls",
    "uses": "skep.sdk.calls",
    "wait_for": "skep.sdk.calls",
    "context": "skep.sdk.context",
    "index": "skep.sdk.ref",
    "item": "skep.sdk.ref",
    "secret": "skep.sdk.ref",
    "shell": "skep.sdk.task",
    "task": "skep.sdk.task",
    "workflow": "skep.sdk.workflow",
}


def __getattr__(name: str) -> Any:
    if name.startswith("_") or name not in __all__:
        raise AttributeError(f"module 'skep' has no attribute {name!r}")
    value = getattr(import_module(_HOMES.get(name, "skep.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
