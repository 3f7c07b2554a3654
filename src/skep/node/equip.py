"""The executors of a supervisor: what its node can run, and with what."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from skep.model.node import APP, NodeInfo
from skep.node.attempt import Executor
from skep.node.executors.http import HttpExecutor
from skep.node.executors.isolated import IsolatedExecutor
from skep.node.executors.pool import PoolExecutor
from skep.node.executors.shell import ShellExecutor
from skep.node.processes import Processes


def equip(info: NodeInfo, processes: Processes, base: Path, secrets: Mapping[str, str]) -> list[Executor]:
    """One of each kind that the node runs: no shell where it runs no commands, no workers where it has no functions. `base`:
    where work starts that names no other place."""
    cores = max(info.cpu_milli // 1000, 1)
    shell = [ShellExecutor(processes, base, secrets)] if "run" in info.executors else []
    python: list[Executor] = []
    if info.any_app or any(word.startswith(APP) for word in info.capabilities):
        python = [
            PoolExecutor(processes, cores, info.slots, base, secrets),
            IsolatedExecutor(processes, cores, base, secrets),
        ]
    return [*python, *shell, HttpExecutor(secrets)]
