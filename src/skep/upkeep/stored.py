"""Workflows that loops start runs of: stored by name, or written out where they are used."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from skep.errors import RefusedError
from skep.model.spec import WorkflowSpec
from skep.record.protocol import Record

KEPT: Final = 64
"""Workflows kept decoded."""


def named(text: str) -> tuple[str, int]:
    """The two parts of `name` or `name@version`; version 0: the newest. Raises RefusedError."""
    name, at, version = text.partition("@")
    if at and not (version.isascii() and version.isdecimal() and len(version) < 10 and int(version)):
        raise RefusedError(f"workflow: found {text!r}, expected a name, or name@version such as {name or 'deploy'}@3")
    return name, int(version or 0)


class Stored:
    """Answers one object for the same workflow, so that it is compiled once."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._specs: OrderedDict[bytes, WorkflowSpec] = OrderedDict()

    async def workflow(self, namespace: str, name: str, definition: bytes = b"") -> WorkflowSpec:
        """The workflow of this canonical JSON, else the stored one that `name` or `name@version` means. Raises
        NotFoundError, RefusedError."""
        body = definition or await self._body(namespace, name)
        spec = self._specs.get(body)
        if spec is None:
            spec = self._specs[body] = WorkflowSpec.decode(body)
            if len(self._specs) > KEPT:
                self._specs.popitem(last=False)
        self._specs.move_to_end(body)
        return spec

    async def _body(self, namespace: str, name: str) -> bytes:
        return (await self._record.stored_definition(namespace, *named(name))).body
