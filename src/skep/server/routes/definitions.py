"""Stored definitions and schedules."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from skep.client import API
from skep.errors import SpecError
from skep.server.answers import Query, answer, body_of, check_id, hub_of, size_of, told
from skep.server.specs import checked, planned

DEFINITIONS = f"{API}/definitions"
SCHEDULES = f"{API}/schedules"


class NewDefinition(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Exactly one of `spec` (canonical) and `workflow` (as people write it)."""

    spec: msgspec.Raw = msgspec.Raw()
    workflow: dict[str, Any] | None = None
    note: str = ""


class Fire(msgspec.Struct, forbid_unknown_fields=True):
    id: str | None = None


async def put_definition(request: Request) -> Response:
    hub, given = hub_of(request), await body_of(request, NewDefinition)
    plan = await planned(hub, given.spec, given.workflow, size_of(request))
    return answer(await hub.definitions.put(plan, given.note), 201)


async def list_definitions(request: Request) -> Response:
    query = Query(request)
    return answer(await hub_of(request).definitions.list(query.text("namespace"), query.text("name")))


async def get_definition(request: Request) -> Response:
    query, name = Query(request), request.path_params["name"]
    return answer(await hub_of(request).definitions.get(name, query.text("namespace"), query.number("version")))


async def remove_definition(request: Request) -> Response:
    return answer(await hub_of(request).definitions.remove(request.path_params["name"], Query(request).text("namespace")))


async def put_schedule(request: Request) -> Response:
    given = await body_of(request, dict[str, Any])
    name, namespace = given.pop("name", None), given.pop("namespace", None) or ""
    if not isinstance(name, str) or not name:
        raise SpecError.at("name", "expected the name of the schedule")
    if not isinstance(namespace, str):
        raise SpecError.at("namespace", "expected a text")
    spec = given.pop("spec", None)
    if spec is not None:
        given["definition"] = checked(msgspec.Raw(msgspec.json.encode(spec)), None)
    return answer(await hub_of(request).schedules.put(name, given, namespace), 201)


async def list_schedules(request: Request) -> Response:
    return answer(await hub_of(request).schedules.list(Query(request).text("namespace")))


async def get_schedule(request: Request) -> Response:
    return answer(await hub_of(request).schedules.get(*_schedule(request)))


async def remove_schedule(request: Request) -> Response:
    return answer(await hub_of(request).schedules.remove(*_schedule(request)))


async def pause_schedule(request: Request) -> Response:
    return answer(await hub_of(request).schedules.pause(*_schedule(request)))


async def resume_schedule(request: Request) -> Response:
    return answer(await hub_of(request).schedules.resume(*_schedule(request)))


async def fire_schedule(request: Request) -> Response:
    hub, given = hub_of(request), await body_of(request, Fire)
    check_id(given.id)
    run = await hub.schedules.fire(*_schedule(request), run_id=given.id)
    return answer(await hub.runs.summary(run), 202)


def _schedule(request: Request) -> tuple[str, str]:
    return request.path_params["name"], Query(request).text("namespace")


ROUTES = [
    Route(DEFINITIONS, told(put_definition), methods=["POST"]),
    Route(DEFINITIONS, told(list_definitions), methods=["GET"]),
    Route(f"{DEFINITIONS}/{{name:str}}", told(get_definition), methods=["GET"]),
    Route(f"{DEFINITIONS}/{{name:str}}", told(remove_definition), methods=["DELETE"]),
    Route(SCHEDULES, told(put_schedule), methods=["POST"]),
    Route(SCHEDULES, told(list_schedules), methods=["GET"]),
    Route(f"{SCHEDULES}/{{name:str}}", told(get_schedule), methods=["GET"]),
    Route(f"{SCHEDULES}/{{name:str}}", told(remove_schedule), methods=["DELETE"]),
    Route(f"{SCHEDULES}/{{name:str}}/pause", told(pause_schedule), methods=["POST"]),
    Route(f"{SCHEDULES}/{{name:str}}/resume", told(resume_schedule), methods=["POST"]),
    Route(f"{SCHEDULES}/{{name:str}}/fire", told(fire_schedule), methods=["POST"]),
]
