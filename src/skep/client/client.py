"""The client of one server, by nouns, and a run in hand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from skep.client.nouns import Definitions, Events, Insight, Keys, Nodes, Placement, Queue, Schedules, Tasks
from skep.client.reach import Reach, find_reach
from skep.client.runs import Runs
from skep.client.wire import Wire
from skep.model.run import failure_of
from skep.model.spec import WorkflowSpec
from skep.model.state import RunState
from skep.model.units import parse_duration_ms, parse_priority
from skep.model.views import RunSummary


class HasSpec(Protocol):
    """A `@workflow`."""

    @property
    def spec(self) -> WorkflowSpec: ...


class Client(Wire):
    """One server: that of a data directory, or one at a URL."""

    def __init__(
        self,
        data: str | Path | None = None,
        *,
        url: str | None = None,
        token: str | None = None,
        tls_ca: str | Path | None = None,
        reach: Reach | None = None,
    ) -> None:
        """`url`: `https://host:port`, with the key in `token` (else SKEP_TOKEN) and, in the file `tls_ca` (else SKEP_TLS_CA),
        the authorities to trust. `data`: the data directory whose server is meant. Without both: SKEP_URL, else the data
        directory of SKEP_HOME, else the platform's. `reach`: in place of all of these. Raises RefusedError."""
        super().__init__(reach or find_reach(data, url, token, tls_ca))
        self.runs = Runs(self)
        self.tasks = Tasks(self)
        self.nodes = Nodes(self)
        self.queue = Queue(self)
        self.placement = Placement(self)
        self.definitions = Definitions(self)
        self.schedules = Schedules(self)
        self.events = Events(self)
        self.keys = Keys(self)
        self.insight = Insight(self)

    def again(self) -> Client:
        """Another one for the same server, for another thread."""
        return Client(reach=self.reach)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(
        self,
        workflow: WorkflowSpec | HasSpec | str,
        /,
        *,
        priority: int | str = 0,
        labels: Mapping[str, str] | None = None,
        timeout: str | float = 0,
        delay: str | float = 0,
        idempotency_key: str | None = None,
        unique: str | None = None,
        **inputs: Any,
    ) -> Handle:
        """Hands a workflow to the server: a `@workflow`, a spec, or a stored one, `name` or `name@version`; with its `inputs`.
        While a run with the key `unique` goes on, that one is given and nothing is started.

        Returns when it is accepted. Raises SpecError, RefusedError, NotFoundError, UnreachableError.
        """
        spec = workflow if isinstance(workflow, str | WorkflowSpec) else workflow.spec
        accepted = self.runs.submit(
            spec,
            inputs,
            priority=parse_priority(priority) if priority else 0,
            labels=labels,
            timeout_ms=parse_duration_ms(timeout),
            in_ms=parse_duration_ms(delay),
            idempotency_key=idempotency_key,
            unique=unique,
        )
        return Handle(self, accepted.id)


class Handle:
    """A run that a client started."""

    def __init__(self, client: Client, id: str) -> None:
        self.id = id
        self._client = client

    def __repr__(self) -> str:
        return f"<run {self.id}>"

    def status(self) -> RunSummary:
        """How it stands."""
        return self._client.runs.get(self.id)

    def wait(self, timeout: str | float | None = None) -> RunSummary:
        """Waits for its end. Raises TimeoutError."""
        return self._client.runs.wait(self.id, None if timeout is None else parse_duration_ms(timeout) / 1000)

    def result(self, timeout: str | float | None = None) -> Any:
        """Waits for its end and gives its output. Raises RunFailedError with the remote traceback, TimeoutError."""
        ended = self.wait(timeout)
        view = self._client.runs.view(self.id)
        if ended.state != RunState.SUCCEEDED.label:
            raise failure_of(view)
        return view.output

    def cancel(self, reason: str = "") -> RunSummary:
        """Ends it: what waits is cancelled, what runs is stopped."""
        return self._client.runs.cancel(self.id, reason)
