"""The other nouns of the hub, as a client sees them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from skep.client.wire import API, Wire, run_path
from skep.ids import new_id
from skep.model.run import TaskView
from skep.model.schedule import ScheduleView
from skep.model.spec import WorkflowSpec
from skep.model.views import DefinitionView, KeyView, NewKey, NodeView, QueueStats, RunSummary, ServerStatus
from skep.model.wait import WaitView
from skep.model.why import QueueWhy, RunWhy, TaskWhy


class Tasks:
    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def get(self, run: str, task: str) -> TaskView:
        """One task with its output and history."""
        return self._wire.ask(TaskView, "GET", run_path(run, "tasks", task))

    def waits(self, *, kind: str | None = None, run: str | None = None, namespace: str | None = None) -> list[WaitView]:
        """What parked tasks wait for; `kind`: approval, child or event."""
        query = {"kind": kind, "run": run, "namespace": namespace}
        return self._wire.ask(list[WaitView], "GET", f"{API}/waits", query=query)

    def approve(self, run: str, task: str, *, by: str, comment: str = "", data: Any = None) -> TaskView:
        return self._decide(run, task, "approve", by, comment, data)

    def reject(self, run: str, task: str, *, by: str, comment: str = "", data: Any = None) -> TaskView:
        return self._decide(run, task, "reject", by, comment, data)

    def _decide(self, run: str, task: str, verb: str, by: str, comment: str, data: Any) -> TaskView:
        body = {"id": new_id(time.time_ns() // 1_000_000), "by": by, "comment": comment, "data": data}
        return self._wire.ask(TaskView, "POST", run_path(run, "tasks", task, verb), body=body)


class Nodes:
    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def list(self, *, all: bool = False) -> list[NodeView]:
        """Those that are there; `all`: also those that left or were lost."""
        return self._wire.ask(list[NodeView], "GET", f"{API}/workers", query={"all": all})

    def drain(self, node: str, on: bool = True) -> NodeView:
        """Gives it nothing new; what runs there ends. `on` False: takes that back."""
        path = f"{API}/workers/{quote(node, safe='')}/drain"
        return self._wire.ask(NodeView, "POST", path, body={"on": on})


class Queue:
    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def stats(self, namespace: str | None = None) -> QueueStats:
        return self._wire.ask(QueueStats, "GET", f"{API}/queue/stats", query={"namespace": namespace})

    def pause(self, namespace: str | None = None) -> QueueStats:
        """Starts nothing new, in one namespace or all; what runs goes on."""
        return self._wire.ask(QueueStats, "POST", f"{API}/queue/pause", body={"namespace": namespace})

    def resume(self, namespace: str | None = None) -> QueueStats:
        return self._wire.ask(QueueStats, "POST", f"{API}/queue/resume", body={"namespace": namespace})

    def share(self, namespace: str, weight: float) -> QueueStats:
        """Gives a namespace `weight` times the slots of one whose weight is 1, as long as both want more than there are."""
        return self._wire.ask(QueueStats, "POST", f"{API}/queue/share", body={"namespace": namespace, "weight": weight})


class Placement:
    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def get(self) -> dict[str, Any]:
        """What holds for the choice of nodes in the whole fleet."""
        return self._wire.ask(dict[str, Any], "GET", f"{API}/placement")

    def set(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Sets all of it: what is not named is as at first. At once, on every server."""
        return self._wire.ask(dict[str, Any], "PUT", f"{API}/placement", body=wanted)

    def reset(self) -> dict[str, Any]:
        """As at first."""
        return self._wire.ask(dict[str, Any], "DELETE", f"{API}/placement")


class Definitions:
    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def put(self, spec: WorkflowSpec, note: str = "") -> DefinitionView:
        """Stores the next version; the last one again when nothing has changed."""
        return self._wire.ask(DefinitionView, "POST", f"{API}/definitions", body={"spec": spec, "note": note})

    def list(self, name: str | None = None, namespace: str | None = None) -> list[DefinitionView]:
        """The newest version of each; with a name all versions of it."""
        return self._wire.ask(list[DefinitionView], "GET", f"{API}/definitions", query={"name": name, "namespace": namespace})

    def get(self, name: str, version: int = 0, namespace: str | None = None) -> DefinitionView:
        """With its source; `version` 0: the newest."""
        path = f"{API}/definitions/{quote(name, safe='')}"
        return self._wire.ask(DefinitionView, "GET", path, query={"version": version or None, "namespace": namespace})

    def remove(self, name: str, namespace: str | None = None) -> int:
        """All versions; answers how many."""
        path = f"{API}/definitions/{quote(name, safe='')}"
        return self._wire.ask(int, "DELETE", path, query={"namespace": namespace})


class Schedules:
    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def put(self, name: str, options: Mapping[str, Any], namespace: str | None = None) -> ScheduleView:
        """`options`: what `skep.flow.timetable.build_schedule` takes, with `spec` (a `WorkflowSpec`) or `workflow` (a name)."""
        body = {"name": name, "namespace": namespace, **options}
        if self._wire.reach.elsewhere:
            body.pop("base", None)  # a folder of this machine
        return self._wire.ask(ScheduleView, "POST", f"{API}/schedules", body=body)

    def list(self, namespace: str | None = None) -> list[ScheduleView]:
        return self._wire.ask(list[ScheduleView], "GET", f"{API}/schedules", query={"namespace": namespace})

    def get(self, name: str, namespace: str | None = None) -> ScheduleView:
        return self._wire.ask(ScheduleView, "GET", self._path(name), query={"namespace": namespace})

    def remove(self, name: str, namespace: str | None = None) -> bool:
        return self._wire.ask(bool, "DELETE", self._path(name), query={"namespace": namespace})

    def pause(self, name: str, namespace: str | None = None) -> ScheduleView:
        return self._wire.ask(ScheduleView, "POST", f"{self._path(name)}/pause", query={"namespace": namespace}, body={})

    def resume(self, name: str, namespace: str | None = None) -> ScheduleView:
        return self._wire.ask(ScheduleView, "POST", f"{self._path(name)}/resume", query={"namespace": namespace}, body={})

    def fire(self, name: str, namespace: str | None = None) -> RunSummary:
        """Starts a run of it now, beside its times."""
        body = {"id": new_id(time.time_ns() // 1_000_000)}
        return self._wire.ask(RunSummary, "POST", f"{self._path(name)}/fire", query={"namespace": namespace}, body=body)

    def _path(self, name: str) -> str:
        return f"{API}/schedules/{quote(name, safe='')}"


class Events:
    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def send(self, name: str, key: str = "", data: Any = None, *, namespace: str | None = None, id: str | None = None) -> str:
        """Sends an event to the tasks that `wait_for` it, now or later; answers its id."""
        body = {
            "id": id or new_id(time.time_ns() // 1_000_000),
            "name": name,
            "key": key,
            "data": data,
            "namespace": namespace,
        }
        return self._wire.ask(str, "POST", f"{API}/events", body=body)


class Keys:
    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def create(self, role: str, note: str = "") -> NewKey:
        """Makes a key for another machine; `role`: admin or node. It is told this once."""
        return self._wire.ask(NewKey, "POST", f"{API}/keys", body={"role": role, "note": note})

    def list(self) -> list[KeyView]:
        """All of them, also those that were revoked, the oldest first."""
        return self._wire.ask(list[KeyView], "GET", f"{API}/keys")

    def revoke(self, id: str) -> KeyView:
        """From now on it opens nothing, and what it has opened is closed."""
        return self._wire.ask(KeyView, "POST", f"{API}/keys/{quote(id, safe='')}/revoke", body={})


class Insight:
    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def status(self) -> ServerStatus:
        return self._wire.ask(ServerStatus, "GET", "/status")

    def why_run(self, run: str) -> RunWhy:
        """What holds the tasks of a run, grouped by cause; of one that has ended, how it came to that."""
        return self._wire.ask(RunWhy, "GET", run_path(run, "why"))

    def why_task(self, run: str, task: str) -> TaskWhy:
        """What holds a task, followed to the root; how it came to its node, what was predicted, and how long it took."""
        return self._wire.ask(TaskWhy, "GET", run_path(run, "tasks", task, "why"))

    def why_queue(self, namespace: str | None = None) -> QueueWhy:
        """What holds the ready tasks of all runs."""
        return self._wire.ask(QueueWhy, "GET", f"{API}/queue/why", query={"namespace": namespace})

    def backup(self, target: str | Path) -> dict[str, Any]:
        """Writes a copy of the record to a new folder on the server's machine, while work goes on."""
        body = {"target": str(Path(target).absolute())}
        return self._wire.ask(dict[str, Any], "POST", f"{API}/backup", body=body, patience_s=3_600)
