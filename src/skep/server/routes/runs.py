"""Runs: `/api/distributed/workflows`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from skep.client import API, WAIT_S, Told
from skep.errors import NotFoundError, SpecError
from skep.hub.filters import parse_filter
from skep.hub.hub import Hub
from skep.hub.life import Life
from skep.hub.runs import VERBS
from skep.ids import new_id
from skep.model.run import Token
from skep.model.spec import WorkflowSpec, digest
from skep.model.views import RunSummary
from skep.record.protocol import RunFilter
from skep.server.answers import Query, answer, body_of, check_id, hub_of, is_given, lines, size_of, told
from skep.server.specs import check_words, planned

RUNS: Final = f"{API}/workflows"


class Submission(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What a client sends to start a run; exactly one of `spec`, `workflow` and `definition`."""

    spec: msgspec.Raw = msgspec.Raw()
    """The canonical form, as Skep's own client sends it."""
    workflow: dict[str, Any] | None = None
    """As people write it."""
    definition: str | None = None
    """A stored one: `name` or `name@version`."""
    id: str | None = None
    inputs: dict[str, Any] = {}
    priority: int = 0
    labels: dict[str, str] = {}
    timeout_ms: int = 0
    at_ms: int = 0
    in_ms: int = 0
    namespace: str | None = None
    idempotency_key: str | None = None
    unique: str | None = None
    """While a run with this key goes on, it is answered; in place of the workflow's own."""
    base: str = ""


class Reason(msgspec.Struct, forbid_unknown_fields=True):
    reason: str = ""
    tasks: list[str] = []
    limit: int = 10_000


async def submit(request: Request) -> Response:
    hub, query = hub_of(request), Query(request)
    given = await body_of(request, Submission)
    wait_s = query.seconds("wait", WAIT_S)
    _check(given)
    spec = await _spec(hub, given, size_of(request))
    now_ms = hub.clock.now_ms()
    due_ms = given.at_ms or (now_ms + given.in_ms if given.in_ms else 0)
    run_id = given.id or new_id(now_ms)
    life = Life() if wait_s else None
    run = await hub.runs.submit(
        spec,
        given.inputs,
        run_id=run_id,
        namespace=given.namespace or "",
        priority=given.priority,
        labels=given.labels,
        timeout_ms=given.timeout_ms,
        due_ms=due_ms,
        base=given.base,
        idempotency_key=given.idempotency_key or request.headers.get("idempotency-key"),
        unique=given.unique,
        life=life,
    )
    if wait_s:
        waited = await hub.runs.end(run, wait_s, life)
        return answer(msgspec.structs.replace(waited, known=run != run_id), 201)
    if run != run_id:
        return answer(msgspec.structs.replace(await hub.runs.summary(run), known=True), 202)
    return answer(await hub.runs.summary(run) if query.flag("summary") else _accepted(run, spec, given, now_ms, due_ms), 202)


def _check(given: Submission) -> None:
    if sum((is_given(given.spec), given.workflow is not None, given.definition is not None)) != 1:
        raise SpecError.at("", "expected exactly one of `workflow`, `definition` and `spec`")
    check_id(given.id)
    for name, number, most in (("priority", given.priority, 10), ("timeout_ms", given.timeout_ms, 1 << 50)):
        if not 0 <= number <= most:
            raise SpecError.at(name, f"found {number}, expected a whole number from 0 to {most}")
    check_words(given.namespace, given.labels)
    for name, number in (("at_ms", given.at_ms), ("in_ms", given.in_ms)):
        if not 0 <= number < 1 << 50:
            raise SpecError.at(name, f"found {number}, expected milliseconds")


async def _spec(hub: Hub, given: Submission, size: int) -> WorkflowSpec:
    if given.definition is not None:
        stored = await hub.definitions.find(given.definition, given.namespace or "")
        plan = hub.runs.kept_plan(stored.digest)
        return plan.spec if plan is not None else (await hub.runs.planned(WorkflowSpec.decode(stored.body))).spec
    known = hub.runs.kept_plan(digest(bytes(given.spec))) if given.workflow is None else None
    return (known or await planned(hub, given.spec, given.workflow, size)).spec


def _accepted(run: str, spec: WorkflowSpec, given: Submission, now_ms: int, due_ms: int) -> RunSummary:
    """What there is to say of a run before it has begun: reading it would cost a submission half its speed."""
    return RunSummary(
        id=run,
        workflow=spec.name,
        state="queued",
        namespace=given.namespace or spec.namespace,
        priority=given.priority or spec.priority or 5,
        labels={**(spec.labels or {}), **given.labels},
        accepted_ms=now_ms,
        due_ms=due_ms or None,
        tasks=len(spec.tasks),
        definition=digest(spec.encode()) if len(spec.tasks) < 100 else "",
    )


async def list_runs(request: Request) -> Response:
    query = Query(request)
    limit = query.number("limit", 50, 10_000)
    return answer(await hub_of(request).runs.list(_filter(query), limit=limit, cursor=query.text("cursor")))


def _filter(query: Query) -> RunFilter:
    return parse_filter(
        namespace=query.text("namespace"),
        states=query.texts("state"),
        workflow=query.text("workflow"),
        labels=query.texts("label"),
        search=query.text("search"),
        schedule=query.text("schedule"),
        parent=query.text("parent"),
        roots=query.flag("roots"),
        since_ms=query.number("since_ms"),
        until_ms=query.number("until_ms"),
    )


async def _run(request: Request) -> tuple[Hub, str]:
    hub = hub_of(request)
    return hub, await hub.runs.find(request.path_params["run"])


async def get(request: Request) -> Response:
    wait_s = Query(request).seconds("wait", WAIT_S)
    hub, run = await _run(request)
    return answer(await hub.runs.end(run, wait_s) if wait_s else await hub.runs.summary(run))


async def view(request: Request) -> Response:
    hub, run = await _run(request)
    return answer(await hub.runs.view(run))


async def definition(request: Request) -> Response:
    hub, run = await _run(request)
    return Response(await hub.runs.definition(run), media_type="application/json")


async def events(request: Request) -> Response:
    hub, run = await _run(request)
    query = Query(request)
    try:
        after = Token.parse(query.text("after") or "0-0")
    except ValueError:
        raise SpecError.at("after", f"found {query.text('after')[:40]!r}, expected EPOCH-NUMBER") from None

    async def batches() -> AsyncIterator[list[Told]]:
        async for batch in hub.runs.events(run, after, follow=query.flag("follow")):
            yield [Told(place.epoch, event) for place, event in batch]

    return lines(batches())


async def logs(request: Request) -> Response:
    hub, run = await _run(request)
    query = Query(request)
    task, attempt = query.text("task"), query.number("attempt") or None
    if task:
        await hub.tasks.check(run, task)  # a name that is wrong is refused before anything is streamed
    found = hub.runs.logs(run, task=task, attempt=attempt, after=query.number("after"), follow=query.flag("follow"))
    return lines(found)


async def progress(request: Request) -> Response:
    hub, run = await _run(request)
    return answer(await hub.runs.progress(run))


async def command(request: Request) -> Response:
    verb = request.path_params["verb"]
    if verb not in VERBS:
        raise NotFoundError(f"there is no command {verb}; there are {', '.join(VERBS)}")
    given = await body_of(request, Reason)
    hub, run = await _run(request)
    if verb == "retry":
        await hub.runs.retry(run, given.tasks, given.reason)
    else:
        await getattr(hub.runs, verb)(run, given.reason or {"cancel": "cancelled"}.get(verb, ""))
    return answer(await hub.runs.summary(run))


async def bulk(request: Request) -> Response:
    verb = request.path_params["verb"]
    if verb not in VERBS:
        raise NotFoundError(f"there is no command {verb}; there are {', '.join(VERBS)}")
    query = Query(request)
    wanted = _filter(query)
    if msgspec.structs.replace(wanted, roots=False) == RunFilter():
        raise SpecError.at("", "expected a filter: a command to every run there is must at least name their states")
    given = await body_of(request, Reason)
    limit = min(max(given.limit, 1), 100_000)
    return answer(await hub_of(request).runs.bulk(verb, wanted, reason=given.reason, limit=limit))


OFTEN = [Route(RUNS, told(submit), methods=["POST"]), Route(RUNS, told(list_runs), methods=["GET"])]
"""Looked at first: routes are tried one after the other."""
ROUTES = [
    Route(f"{RUNS}/{{verb:str}}", told(bulk), methods=["POST"]),
    Route(f"{RUNS}/{{run:str}}", told(get), methods=["GET"]),
    Route(f"{RUNS}/{{run:str}}/view", told(view), methods=["GET"]),
    Route(f"{RUNS}/{{run:str}}/definition", told(definition), methods=["GET"]),
    Route(f"{RUNS}/{{run:str}}/events", told(events), methods=["GET"]),
    Route(f"{RUNS}/{{run:str}}/logs", told(logs), methods=["GET"]),
    Route(f"{RUNS}/{{run:str}}/progress", told(progress), methods=["GET"]),
    Route(f"{RUNS}/{{run:str}}/{{verb:str}}", told(command), methods=["POST"]),
]
