"""Running a workflow here and now: an engine, a record and a node in this process."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from skep.config import data_home, secrets_from
from skep.model.node import NodeInfo
from skep.model.spec import WorkflowSpec
from skep.node.probe import node_info, probe
from skep.wiring import Embedded


def run_workflow(
    spec: WorkflowSpec,
    inputs: Mapping[str, Any] | None = None,
    *,
    data: str | Path | None = None,
    nodes: Sequence[NodeInfo] | None = None,
    timeout: float | None = None,
) -> Any:
    """Runs to the end and returns the run's output. Blocks.

    `timeout`: seconds after which TimeoutError is raised and the run is cancelled. Raises SpecError, RunFailedError (with the
    remote traceback), RecordError.
    """
    return asyncio.run(run_workflow_async(spec, inputs, data=data, nodes=nodes, timeout=timeout))


async def run_workflow_async(
    spec: WorkflowSpec,
    inputs: Mapping[str, Any] | None = None,
    *,
    data: str | Path | None = None,
    nodes: Sequence[NodeInfo] | None = None,
    timeout: float | None = None,
) -> Any:
    """`run_workflow` for callers on an event loop."""
    nodes, secrets = nodes or [node_info("local", probe())], secrets_from(os.environ)
    async with Embedded(nodes, data=data_home(data), secrets=secrets) as embedded:
        run = await embedded.hub.runs.submit(spec, inputs)
        await embedded.hub.runs.wait(run, timeout)
        return await embedded.hub.runs.output(run)
