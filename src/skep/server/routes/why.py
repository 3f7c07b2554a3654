"""Why a task, a run or the queue stands where it stands."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from skep.client import API
from skep.server.answers import Query, answer, hub_of, told


async def run(request: Request) -> Response:
    hub = hub_of(request)
    return answer(await hub.why.run(await hub.runs.find(request.path_params["run"])))


async def task(request: Request) -> Response:
    hub = hub_of(request)
    return answer(await hub.why.task(await hub.runs.find(request.path_params["run"]), request.path_params["task"]))


async def queue(request: Request) -> Response:
    return answer(await hub_of(request).why.queue(Query(request).text("namespace")))


ROUTES = [
    Route(f"{API}/workflows/{{run:str}}/why", told(run), methods=["GET"]),
    Route(f"{API}/workflows/{{run:str}}/tasks/{{task:path}}/why", told(task), methods=["GET"]),
    Route(f"{API}/queue/why", told(queue), methods=["GET"]),
]
"""Before those of tasks, whose names may be anything that stands in a path."""
