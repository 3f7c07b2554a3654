"""Workflows as clients send them: as people write them, or in the canonical form."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from skep.errors import Problem, SpecError
from skep.flow.plan import Plan, compile_plan
from skep.hub.hub import Hub
from skep.model.authoring import build_workflow, spec_to_data
from skep.model.fields import Found, show_path
from skep.model.keys import WORKFLOW
from skep.model.spec import WorkflowSpec
from skep.server.answers import is_given, parse

LARGE: Final = 256 * 1024
"""Bytes of a request that takes long: a megabyte some 0.4 s."""


async def planned(hub: Hub, spec: msgspec.Raw, workflow: dict[str, Any] | None, size: int) -> Plan:
    """The compiled workflow, which the hub knows from now on. `size`: bytes of the request; a large one is worked on in a
    thread, so that nodes and other clients are answered meanwhile. Raises SpecError."""

    def made() -> Plan:
        return compile_plan(checked(spec, workflow))

    return hub.runs.keep(made() if size <= LARGE else await asyncio.to_thread(made))


def checked(spec: msgspec.Raw, workflow: dict[str, Any] | None) -> WorkflowSpec:
    """The workflow that was sent in one of the two forms. Raises SpecError."""
    if is_given(spec) == (workflow is not None):
        raise SpecError.at("", "expected exactly one of `workflow` and `spec`")
    return build_workflow(workflow if workflow is not None else _written(parse(bytes(spec), WorkflowSpec)))


def check_words(namespace: str | None, labels: Mapping[str, str]) -> None:
    """What a request says beside its workflow must be as it would be in one. Raises SpecError."""
    faults: list[Found] = []
    given = {"namespace": namespace, "labels": labels or None}
    WORKFLOW.read({"name": "w", "tasks": {"t": {}}} | {key: value for key, value in given.items() if value is not None}, faults)
    if faults:
        raise SpecError([Problem(show_path(path), message) for path, message in faults])


def _written(spec: WorkflowSpec) -> dict[str, Any]:
    """As people would write it, so that it is checked like that: the decoder has only seen to the types of its fields."""
    try:
        return spec_to_data(spec)
    except (ValueError, KeyError, TypeError) as error:
        message = f"is not a workflow in the canonical form: {error}; send it as people write it, as `workflow`"
        raise SpecError.at("spec", message) from None
