"""The client: the hub's nouns over HTTP, to a server on a Unix socket. It blocks.

    client = Client()                       # the server of the usual data directory
    run = client.runs.submit(spec, inputs={"repo": "."})
    view = client.runs.wait(run.id, timeout_s=60)

What a server refuses is raised as the error of `skep.errors` that it is; a server that is not there as UnreachableError. Calls
that change something carry an id made here, so that one which got no answer is repeated safely.
"""

from __future__ import annotations

import http.client
import os
import socket
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlencode

import msgspec

import skep.errors as errors
from skep.config import data_home, socket_path
from skep.ids import new_id
from skep.model.event import Event
from skep.model.run import RunView, TaskView
from skep.model.schedule import ScheduleView
from skep.model.spec import WorkflowSpec
from skep.model.views import (
    Bulk,
    DefinitionView,
    LogLine,
    NodeView,
    QueueStats,
    RunList,
    RunSummary,
    ServerStatus,
    TaskList,
)
from skep.model.wait import WaitView
from skep.version import VERSION

T = TypeVar("T")

API: Final = "/api/distributed"
PROTOCOL: Final = 1
"""Version of what client and server say to each other."""
TRIES: Final = 3
WAIT_S: Final = 20.0
"""The longest that one request waits for the end of a run; then it is asked again."""
ANSWER_S: Final = 30.0
"""How long an answer may take beyond what was asked for."""


class UnreachableError(errors.SkepError):
    """No server answers."""

    exit_code = 6


class Told(msgspec.Struct):
    """An event as a stream tells it: its place (`epoch`, `event.n`) is what to ask from on."""

    epoch: int
    event: Event


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Client:
    """One server. For one thread at a time; the connection is kept open between calls."""

    def __init__(self, data: str | Path | None = None) -> None:
        """`data`: the data directory whose server is meant; else SKEP_HOME's, else the platform's."""
        self.home = data_home(data)
        self._path = socket_path(self.home)
        self._connection: _Connection | None = None
        self.runs = Runs(self)
        self.tasks = Tasks(self)
        self.nodes = Nodes(self)
        self.queue = Queue(self)
        self.definitions = Definitions(self)
        self.schedules = Schedules(self)
        self.events = Events(self)
        self.insight = Insight(self)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- one request

    def ask(
        self,
        kind: type[T],
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        patience_s: float = 0.0,
    ) -> T:
        """The answer, decoded. Raises what the server refuses with, UnreachableError."""
        return msgspec.json.decode(self._answer(method, _url(path, query), body, patience_s), type=kind)

    def stream(self, kind: type[T], path: str, *, query: Mapping[str, Any] | None = None) -> Generator[T, None, None]:
        """The lines of an endless answer, decoded, until it ends or the iterator is closed. Uses a connection of its own."""
        connection = _Connection(self._path, ANSWER_S)
        try:
            response = self._send(connection, "GET", _url(path, query), None)
            if response.status >= 400:
                raise _refusal(response.status, response.read())
            decode = msgspec.json.Decoder(kind).decode
            try:
                while line := response.readline():
                    if line.strip():  # an empty one is a sign of life
                        yield decode(line)
            except (OSError, http.client.HTTPException) as error:
                raise UnreachableError(f"the server broke off: {error or type(error).__name__}") from None
        finally:
            connection.close()

    def _answer(self, method: str, url: str, body: Any, patience_s: float) -> bytes:
        data = None if body is None else msgspec.json.encode(body)
        for left in reversed(range(TRIES)):
            fresh = self._connection is None
            connection = self._connection = self._connection or _Connection(self._path, ANSWER_S)
            if connection.sock is not None:
                connection.sock.settimeout(ANSWER_S + patience_s)
            connection.timeout = ANSWER_S + patience_s
            try:
                response = self._send(connection, method, url, data)
                answer = response.read()
            except (http.client.HTTPException, ConnectionError, TimeoutError, UnreachableError) as error:
                self.close()
                if fresh and isinstance(error, UnreachableError):
                    raise  # nobody listens; a kept connection may only have grown old
                if not left or isinstance(error, TimeoutError):
                    raise UnreachableError(f"the server did not answer: {error or type(error).__name__}") from None
                continue
            if response.status >= 400:
                raise _refusal(response.status, answer)
            return answer
        raise AssertionError("not reached")

    def _send(self, connection: _Connection, method: str, url: str, data: bytes | None) -> http.client.HTTPResponse:
        headers = {"Skep-Protocol": str(PROTOCOL), "User-Agent": f"skep/{VERSION}"}
        if data is not None:
            headers["Content-Type"] = "application/json"
        try:
            if connection.sock is None:
                connection.connect()
        except (FileNotFoundError, ConnectionRefusedError):
            where = "" if self.home == data_home() else f" --data {self.home}"
            raise UnreachableError(f"no server runs on {self.home}; start one with `skep up{where}`") from None
        except OSError as error:
            raise UnreachableError(f"the server's socket {self._path} cannot be used: {error.strerror or error}") from None
        connection.request(method, url, body=data, headers=headers)
        return connection.getresponse()


def _url(path: str, query: Mapping[str, Any] | None) -> str:
    pairs: list[tuple[str, str]] = []
    for name, value in (query or {}).items():
        for one in value if isinstance(value, list | tuple) else (value,):
            if one not in (None, "", False):
                pairs.append((name, "1" if one is True else str(one)))
    return f"{path}?{urlencode(pairs)}" if pairs else path


class Refusal(msgspec.Struct):
    """An error as the server tells it (RFC 9457): `code` is the name of the class in `skep.errors`."""

    title: str
    status: int
    detail: str = ""
    code: str = "SkepError"
    problems: list[dict[str, Any]] = []


def _refusal(status: int, body: bytes) -> errors.SkepError:
    try:
        told = msgspec.json.decode(body, type=Refusal)
    except msgspec.MsgspecError:
        return errors.SkepError(f"the server answered {status}: {body[:200].decode('utf-8', 'replace')}")
    problems = [errors.Problem(p.get("path", ""), p.get("message", ""), p.get("line")) for p in told.problems]
    if told.code == "SpecError" and problems:
        return errors.SpecError(problems)
    kind = getattr(errors, told.code, errors.SkepError)
    if not (isinstance(kind, type) and issubclass(kind, errors.SkepError)) or kind is errors.RunFailedError:
        kind = errors.SkepError
    error = kind(told.detail or told.title) if kind is not errors.SpecError else errors.RefusedError(told.detail)
    error.problems = problems
    return error


def _run(run: str, *rest: str) -> str:
    return "/".join((f"{API}/workflows/{quote(run, safe='')}", *(quote(part, safe="") for part in rest)))


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
    since_ms: int | None = None
    until_ms: int | None = None

    def query(self) -> dict[str, Any]:
        return msgspec.structs.asdict(self)


class Runs:
    def __init__(self, client: Client) -> None:
        self._client = client

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
        base: str | None = None,
        wait_s: float | None = None,
    ) -> RunSummary:
        """Accepts a run: of a workflow, or of a stored definition by `name` or `name@version`. `base`: where relative paths of
        its tasks start, on nodes of this machine. `wait_s`: answers at its end, or after so long as it is then."""
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
            "base": base or os.getcwd(),
        }
        query = {"wait": wait_s}
        return self._client.ask(RunSummary, "POST", f"{API}/workflows", query=query, body=body, patience_s=wait_s or 0)

    def list(self, wanted: Filter | None = None, *, limit: int = 50, cursor: str | None = None) -> RunList:
        """A page, the newest first."""
        query = {**(wanted or Filter()).query(), "limit": limit, "cursor": cursor}
        return self._client.ask(RunList, "GET", f"{API}/workflows", query=query)

    def get(self, run: str) -> RunSummary:
        """The run with the counts of its tasks."""
        return self._client.ask(RunSummary, "GET", _run(run))

    def view(self, run: str) -> RunView:
        """The run with all of its tasks, outputs and history: the document of `skep run --json`."""
        return self._client.ask(RunView, "GET", _run(run, "view"))

    def definition(self, run: str) -> WorkflowSpec:
        """The workflow that it runs."""
        return self._client.ask(WorkflowSpec, "GET", _run(run, "definition"))

    def wait(self, run: str, timeout_s: float | None = None) -> RunSummary:
        """Waits for its end. Raises TimeoutError."""
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            wait_s = WAIT_S if until is None else min(max(until - time.monotonic(), 0.0), WAIT_S)
            summary = self._client.ask(RunSummary, "GET", _run(run), query={"wait": round(wait_s, 3)}, patience_s=wait_s)
            if summary.finished_ms:
                return summary
            if until is not None and time.monotonic() >= until:
                raise TimeoutError(f"run {run} has not ended after {timeout_s:g} s")

    def tasks(
        self, run: str, *, state: Sequence[str] = (), search: str | None = None, limit: int = 200, cursor: str | None = None
    ) -> TaskList:
        """A page of its tasks, without outputs and history."""
        query = {"state": list(state), "search": search, "limit": limit, "cursor": cursor}
        return self._client.ask(TaskList, "GET", _run(run, "tasks"), query=query)

    def events(self, run: str, *, after: tuple[int, int] = (0, 0), follow: bool = False) -> Generator[Told, None, None]:
        """Its recorded events after a place (`epoch`, `n`); with `follow` until it ends, without gap or repeat."""
        query = {"after": f"{after[0]}-{after[1]}", "follow": follow}
        return self._client.stream(Told, _run(run, "events"), query=query)

    def progress(self, run: str) -> dict[str, Any]:
        """What running tasks say of themselves: name to `{done, total, message}`."""
        return self._client.ask(dict[str, Any], "GET", _run(run, "progress"))

    def logs(
        self, run: str, *, task: str | None = None, attempt: int | None = None, after: int = 0, follow: bool = False
    ) -> Generator[LogLine, None, None]:
        """What its tasks wrote, in the order in which it came; with `follow` until it ends."""
        query = {"task": task, "attempt": attempt, "after": after, "follow": follow}
        return self._client.stream(LogLine, _run(run, "logs"), query=query)

    def cancel(self, run: str, reason: str = "") -> RunSummary:
        return self._client.ask(RunSummary, "POST", _run(run, "cancel"), body={"reason": reason})

    def pause(self, run: str, reason: str = "") -> RunSummary:
        return self._client.ask(RunSummary, "POST", _run(run, "pause"), body={"reason": reason})

    def resume(self, run: str, reason: str = "") -> RunSummary:
        return self._client.ask(RunSummary, "POST", _run(run, "resume"), body={"reason": reason})

    def retry(self, run: str, tasks: Sequence[str] = (), reason: str = "") -> RunSummary:
        """Takes up an ended run: what did not succeed, or from these tasks on."""
        return self._client.ask(RunSummary, "POST", _run(run, "retry"), body={"reason": reason, "tasks": list(tasks)})

    def bulk(self, verb: str, wanted: Filter, *, reason: str = "", limit: int = 10_000) -> Bulk:
        """`cancel`, `pause`, `resume` or `retry` for all runs of a filter, up to `limit`."""
        body = {"reason": reason, "limit": limit}
        return self._client.ask(Bulk, "POST", f"{API}/workflows/{verb}", query=wanted.query(), body=body, patience_s=120)


class Tasks:
    def __init__(self, client: Client) -> None:
        self._client = client

    def get(self, run: str, task: str) -> TaskView:
        """One task with its output and history."""
        return self._client.ask(TaskView, "GET", _run(run, "tasks", task))

    def waits(self, *, kind: str | None = None, run: str | None = None, namespace: str | None = None) -> list[WaitView]:
        """What parked tasks wait for; `kind`: approval, child or event."""
        query = {"kind": kind, "run": run, "namespace": namespace}
        return self._client.ask(list[WaitView], "GET", f"{API}/waits", query=query)

    def approve(self, run: str, task: str, *, by: str, comment: str = "", data: Any = None) -> TaskView:
        return self._decide(run, task, "approve", by, comment, data)

    def reject(self, run: str, task: str, *, by: str, comment: str = "", data: Any = None) -> TaskView:
        return self._decide(run, task, "reject", by, comment, data)

    def _decide(self, run: str, task: str, verb: str, by: str, comment: str, data: Any) -> TaskView:
        body = {"by": by, "comment": comment, "data": data}
        return self._client.ask(TaskView, "POST", _run(run, "tasks", task, verb), body=body)


class Nodes:
    def __init__(self, client: Client) -> None:
        self._client = client

    def list(self, *, all: bool = False) -> list[NodeView]:
        """Those that are there; `all`: also those that left or were lost."""
        return self._client.ask(list[NodeView], "GET", f"{API}/workers", query={"all": all})

    def drain(self, node: str, on: bool = True) -> NodeView:
        """Gives it nothing new; what runs there ends. `on` False: takes that back."""
        path = f"{API}/workers/{quote(node, safe='')}/drain"
        return self._client.ask(NodeView, "POST", path, body={"on": on})


class Queue:
    def __init__(self, client: Client) -> None:
        self._client = client

    def stats(self, namespace: str | None = None) -> QueueStats:
        return self._client.ask(QueueStats, "GET", f"{API}/queue/stats", query={"namespace": namespace})

    def pause(self, namespace: str | None = None) -> QueueStats:
        """Starts nothing new, in one namespace or all; what runs goes on."""
        return self._client.ask(QueueStats, "POST", f"{API}/queue/pause", body={"namespace": namespace})

    def resume(self, namespace: str | None = None) -> QueueStats:
        return self._client.ask(QueueStats, "POST", f"{API}/queue/resume", body={"namespace": namespace})


class Definitions:
    def __init__(self, client: Client) -> None:
        self._client = client

    def put(self, spec: WorkflowSpec, note: str = "") -> DefinitionView:
        """Stores the next version; the last one again when nothing has changed."""
        return self._client.ask(DefinitionView, "POST", f"{API}/definitions", body={"spec": spec, "note": note})

    def list(self, name: str | None = None, namespace: str | None = None) -> list[DefinitionView]:
        """The newest version of each; with a name all versions of it."""
        return self._client.ask(list[DefinitionView], "GET", f"{API}/definitions", query={"name": name, "namespace": namespace})

    def get(self, name: str, version: int = 0, namespace: str | None = None) -> DefinitionView:
        """With its source; `version` 0: the newest."""
        path = f"{API}/definitions/{quote(name, safe='')}"
        return self._client.ask(DefinitionView, "GET", path, query={"version": version or None, "namespace": namespace})

    def remove(self, name: str, namespace: str | None = None) -> int:
        """All versions; answers how many."""
        path = f"{API}/definitions/{quote(name, safe='')}"
        return self._client.ask(int, "DELETE", path, query={"namespace": namespace})


class Schedules:
    def __init__(self, client: Client) -> None:
        self._client = client

    def put(self, name: str, options: Mapping[str, Any], namespace: str | None = None) -> ScheduleView:
        """`options`: what `skep.flow.timetable.build_schedule` takes, with `spec` (a `WorkflowSpec`) or `workflow` (a name)."""
        body = {"name": name, "namespace": namespace, **options}
        return self._client.ask(ScheduleView, "POST", f"{API}/schedules", body=body)

    def list(self, namespace: str | None = None) -> list[ScheduleView]:
        return self._client.ask(list[ScheduleView], "GET", f"{API}/schedules", query={"namespace": namespace})

    def get(self, name: str, namespace: str | None = None) -> ScheduleView:
        return self._client.ask(ScheduleView, "GET", self._path(name), query={"namespace": namespace})

    def remove(self, name: str, namespace: str | None = None) -> bool:
        return self._client.ask(bool, "DELETE", self._path(name), query={"namespace": namespace})

    def pause(self, name: str, namespace: str | None = None) -> ScheduleView:
        return self._client.ask(ScheduleView, "POST", f"{self._path(name)}/pause", query={"namespace": namespace}, body={})

    def resume(self, name: str, namespace: str | None = None) -> ScheduleView:
        return self._client.ask(ScheduleView, "POST", f"{self._path(name)}/resume", query={"namespace": namespace}, body={})

    def fire(self, name: str, namespace: str | None = None) -> RunSummary:
        """Starts a run of it now, beside its times."""
        body = {"id": new_id(time.time_ns() // 1_000_000)}
        return self._client.ask(RunSummary, "POST", f"{self._path(name)}/fire", query={"namespace": namespace}, body=body)

    def _path(self, name: str) -> str:
        return f"{API}/schedules/{quote(name, safe='')}"


class Events:
    def __init__(self, client: Client) -> None:
        self._client = client

    def send(self, name: str, key: str = "", data: Any = None, *, namespace: str | None = None, id: str | None = None) -> str:
        """Sends an event to the tasks that `wait_for` it, now or later; answers its id."""
        body = {
            "id": id or new_id(time.time_ns() // 1_000_000),
            "name": name,
            "key": key,
            "data": data,
            "namespace": namespace,
        }
        return self._client.ask(str, "POST", f"{API}/events", body=body)


class Insight:
    def __init__(self, client: Client) -> None:
        self._client = client

    def status(self) -> ServerStatus:
        return self._client.ask(ServerStatus, "GET", "/status")

    def backup(self, target: str | Path) -> dict[str, Any]:
        """Writes a copy of the record to a new folder on the server's machine, while work goes on."""
        body = {"target": str(Path(target).absolute())}
        return self._client.ask(dict[str, Any], "POST", f"{API}/backup", body=body, patience_s=3_600)
