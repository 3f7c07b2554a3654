"""Fleets and workflows for the tests of the simulator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from skep.flow.plan import compile_plan
from skep.model.authoring import build_workflow
from skep.sdk.wfformat import import_instance
from skep.testing.lab.simulate.fleetfile import FleetFile, build_fleet
from skep.testing.lab.simulate.work import Work, work_of

ROOT = Path(__file__).parents[4]
HETEROGENEOUS = ROOT / "examples" / "fleet-heterogeneous.yaml"
INSTANCES = ROOT / "examples" / "wfformat"


def instance(name: str) -> Work:
    """One of the recorded workflows, by the beginning of its name."""
    file = next(INSTANCES.glob(f"{name}*.json"))
    return work_of(compile_plan(import_instance(msgspec.json.decode(file.read_bytes()))), file.stem)


def work(tasks: dict[str, Any], **more: Any) -> Work:
    return work_of(compile_plan(build_workflow({"name": "flow", "tasks": tasks, **more})))


def fleet(*groups: dict[str, Any], **more: Any) -> FleetFile:
    return build_fleet({"nodes": list(groups), **more})


def task(seconds: float, *needs: str, **more: Any) -> dict[str, Any]:
    return {"run": "true", "estimated_duration": f"{round(seconds * 1000)}ms", "needs": list(needs), **more}
