"""Runs, as a client sees them."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import msgspec

from skep.client.wire import API, WAIT_S, Wire, run_path
from skep.ids import new_id
from skep.model.event import Event
from skep.model.run import RunView
from skep.model.spec import WorkflowSpec
from skep.model.views import Bulk, LogLine, RunList, RunSummary, TaskList


class Told(msgspec.Struct):
    """An event as a stream tells it: its place (`epoch`, `event.n`) is what to ask from on."""

    epoch: int
    event: Event


class Filter(msgspec.Struct, kw_only=True):
    """Which runs: all that is set must hold. `run` arguments of other calls may be the beginning of an id."""

    namespace: str | None = None
    state: Sequence[str] = ()
    workflow: str | None = None
    label: Sequence[str] = ()
    """`name=value`, or `name` for any value."""
    search: str | None = None
    schedule: str | None = None
    parent: str | None = None
    roots: bool = False
    """Only those that are nobody's children."""
    since_ms: int | None = None
    until_ms: int | None = None

    def query(self) -> dict[str, Any]:
        return msgspec.structs.asdict(self)


class Runs:
    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def submit(
        self,
        workflow: WorkflowSpec | str,
        inputs: Mapping[str, Any] | None = None,
        *,
        run_id: str | None = None,
        priority: int = 0,
        labels: Mapping[str, str] | None = None,
        timeout_ms: int = 0,
        at_ms: int = 0,
        in_ms: int = 0,
        namespace: str | None = None,
        idempotency_key: str | None = None,
        unique: str | None = None,
        base: str | None = None,
        wait_s: float | None = None,
    ) -> RunSummary:
        """Accepts a run: of a workflow, or of a stored definition by `name` or `name@version`. `base`: where relative paths of
        its tasks start, on nodes of this machine; a server elsewhere is told of none. `wait_s`: answers at its end, or as it
        is after so long. `known` in the answer: that run was there under the same `idempotency_key`, or goes on with the same
        `unique` key, and nothing was started."""
        body = {
            "id": run_id or new_id(time.time_ns() // 1_000_000),
            "definition": workflow if isinstance(workflow, str) else None,
            "spec": None if isinstance(workflow, str) else workflow,
            "inputs": dict(inputs or {}),
            "priority": priority,
            "labels": dict(labels or {}),
            "timeout_ms": timeout_ms,
            "at_ms": at_ms,
            "in_ms": in_ms,
            "namespace": namespace,
            "idempotency_key": idempotency_key,
            **({"unique": unique} if unique is not None else {}),  # servers of an earlier version know no such word
            "base": "" if self._wire.reach.elsewhere else base or os.getcwd(),
        }
        until = time.monotonic() + (wait_s or 0)
        first_s = min(wait_s or 0, WAIT_S)
        ask = self._wire.ask
        run = ask(RunSummary, "POST", f"{API}/workflows", query={"wait": first_s}, body=body, patience_s=first_s)
        while wait_s and not run.finished_ms and (left_s := until - time.monotonic()) > 0:
            run = self._look(run.id, min(left_s, WAIT_S))
        return run

    def list(self, wanted: Filter | None = None, *, limit: int = 50, cursor: str | None = None) -> RunList:
        """A page, the newest first."""
        query = {**(wanted or Filter()).query(), "limit": limit, "cursor": cursor}
        return self._wire.ask(RunList, "GET", f"{API}/workflows", query=query)

    def get(self, run: str) -> RunSummary:
        """The run with the counts of its tasks."""
        return self._wire.ask(RunSummary, "GET", run_path(run))

    def view(self, run: str) -> RunView:
        """The run with all of its tasks, outputs and history: the document of `skep run --json`."""
        return self._wire.ask(RunView, "GET", run_path(run, "view"))

    def definition(self, run: str) -> WorkflowSpec:
        """The workflow that it runs."""
        return self._wire.ask(WorkflowSpec, "GET", run_path(run, "definition"))

    def wait(self, run: str, timeout_s: float | None = None) -> RunSummary:
        """Waits for its end. Raises TimeoutError."""
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            wait_s = WAIT_S if until is None else min(max(until - time.monotonic(), 0.0), WAIT_S)
            summary = self._look(run, wait_s)
            if summary.finished_ms:
                return summary
            if until is not None and time.monotonic() >= until:
                raise TimeoutError(f"run {run} has not ended after {timeout_s:g} s")

    def _look(self, run: str, wait_s: float) -> RunSummary:
        """At its end, or after so long."""
        return self._wire.ask(RunSummary, "GET", run_path(run), query={"wait": round(wait_s, 3)}, patience_s=wait_s)

    def tasks(
        self, run: str, *, state: Sequence[str] = (), search: str | None = None, limit: int = 200, cursor: str | None = None
    ) -> TaskList:
        """A page of its tasks, without outputs and history."""
        query = {"state": list(state), "search": search, "limit": limit, "cursor": cursor}
        return self._wire.ask(TaskList, "GET", run_path(run, "tasks"), query=query)

    def events(self, run: str, *, after: tuple[int, int] = (0, 0), follow: bool = False) -> Generator[Told, None, None]:
        """Its recorded events after a place (`epoch`, `n`); with `follow` until it ends, without gap or repeat."""
        query = {"after": f"{after[0]}-{after[1]}", "follow": follow}
        return self._wire.stream(Told, run_path(run, "events"), query=query)

    def progress(self, run: str) -> dict[str, Any]:
        """What running tasks say of themselves: name to `{done, total, message}`."""
        return self._wire.ask(dict[str, Any], "GET", run_path(run, "progress"))

    def logs(
        self, run: str, *, task: str | None = None, attempt: int | None = None, after: int = 0, follow: bool = False
    ) -> Generator[LogLine, None, None]:
        """What its tasks wrote, in the order in which it came; with `follow` until it ends."""
        query = {"task": task, "attempt": attempt, "after": after, "follow": follow}
        return self._wire.stream(LogLine, run_path(run, "logs"), query=query)

    def cancel(self, run: str, reason: str = "") -> RunSummary:
        return self._wire.ask(RunSummary, "POST", run_path(run, "cancel"), body={"reason": reason})

    def pause(self, run: str, reason: str = "") -> RunSummary:
        return self._wire.ask(RunSummary, "POST", run_path(run, "pause"), body={"reason": reason})

    def resume(self, run: str, reason: str = "") -> RunSummary:
        return self._wire.ask(RunSummary, "POST", run_path(run, "resume"), body={"reason": reason})

    def retry(self, run: str, tasks: Sequence[str] = (), reason: str = "") -> RunSummary:
        """Takes up an ended run: what did not succeed, or from these tasks on."""
        return self._wire.ask(RunSummary, "POST", run_path(run, "retry"), body={"reason": reason, "tasks": list(tasks)})

    def bulk(self, verb: str, wanted: Filter, *, reason: str = "", limit: int = 10_000) -> Bulk:
        """`cancel`, `pause`, `resume` or `retry` for all runs of a filter, up to `limit`."""
        body = {"reason": reason, "limit": limit}
        return self._wire.ask(Bulk, "POST", f"{API}/workflows/{verb}", query=wanted.query(), body=body, patience_s=120)
