"""Tasks of a run, what they wait for, and decisions on them."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from skep.client import API
from skep.server.answers import Query, answer, body_of, check_id, hub_of, told

TASKS = f"{API}/workflows/{{run:str}}/tasks"


class Decision(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    by: str = ""
    comment: str = ""
    data: Any = None
    id: str | None = None


class NewEvent(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    name: str
    key: str = ""
    data: Any = None
    namespace: str | None = None
    id: str | None = None


async def list_tasks(request: Request) -> Response:
    hub, query = hub_of(request), Query(request)
    run = await hub.runs.find(request.path_params["run"])
    states, limit = query.texts("state"), query.number("limit", 200, 10_000)
    page = await hub.runs.tasks(run, states=states, search=query.text("search"), limit=limit, cursor=query.text("cursor"))
    return answer(page)


async def get(request: Request) -> Response:
    hub = hub_of(request)
    run = await hub.runs.find(request.path_params["run"])
    return answer(await hub.tasks.get(run, request.path_params["task"]))


async def approve(request: Request) -> Response:
    return await _decide(request, True)


async def reject(request: Request) -> Response:
    return await _decide(request, False)


async def _decide(request: Request, approved: bool) -> Response:
    hub = hub_of(request)
    given = await body_of(request, Decision)
    run, task = await hub.runs.find(request.path_params["run"]), request.path_params["task"]
    decide = hub.tasks.approve if approved else hub.tasks.reject
    check_id(given.id)
    return answer(await decide(run, task, by=given.by, comment=given.comment, data=given.data, id=given.id or ""))


async def waits(request: Request) -> Response:
    hub, query = hub_of(request), Query(request)
    run = await hub.runs.find(query.text("run")) if query.text("run") else ""
    return answer(await hub.tasks.waits(kind=query.text("kind"), run=run, namespace=query.text("namespace")))


async def send(request: Request) -> Response:
    given = await body_of(request, NewEvent)
    sent = await hub_of(request).events.send(
        given.name, given.key, given.data, namespace=given.namespace or "", id=given.id or ""
    )
    return answer(sent, 202)


ROUTES = [
    Route(TASKS, told(list_tasks), methods=["GET"]),
    Route(f"{TASKS}/{{task:path}}/approve", told(approve), methods=["POST"]),
    Route(f"{TASKS}/{{task:path}}/reject", told(reject), methods=["POST"]),
    Route(f"{TASKS}/{{task:path}}", told(get), methods=["GET"]),
    Route(f"{API}/waits", told(waits), methods=["GET"]),
    Route(f"{API}/events", told(send), methods=["POST"]),
]
