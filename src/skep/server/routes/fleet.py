"""Nodes, the queue and placement: `/api/distributed/workers`, `/api/distributed/queue`, `/api/distributed/placement`."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from skep.client import API
from skep.server.answers import Query, answer, body_of, hub_of, told


class Drain(msgspec.Struct, forbid_unknown_fields=True):
    on: bool = True


class Which(msgspec.Struct, forbid_unknown_fields=True):
    namespace: str | None = None


class Share(msgspec.Struct, forbid_unknown_fields=True):
    namespace: str
    weight: float


async def nodes(request: Request) -> Response:
    return answer(await hub_of(request).nodes.list(all=Query(request).flag("all")))


async def drain(request: Request) -> Response:
    given = await body_of(request, Drain)
    return answer(await hub_of(request).nodes.drain(request.path_params["node"], given.on))


async def stats(request: Request) -> Response:
    return answer(await hub_of(request).queue.stats(Query(request).text("namespace")))


async def pause(request: Request) -> Response:
    given = await body_of(request, Which)
    queue = hub_of(request).queue
    await queue.pause(given.namespace or "")
    return answer(await queue.stats())


async def resume(request: Request) -> Response:
    given = await body_of(request, Which)
    queue = hub_of(request).queue
    await queue.resume(given.namespace or "")
    return answer(await queue.stats())


async def placement(request: Request) -> Response:
    return answer(hub_of(request).placement.get())


async def set_placement(request: Request) -> Response:
    return answer(await hub_of(request).placement.set(await body_of(request, dict[str, Any])))


async def reset_placement(request: Request) -> Response:
    return answer(await hub_of(request).placement.reset())


async def share(request: Request) -> Response:
    given = await body_of(request, Share)
    queue = hub_of(request).queue
    await queue.share(given.namespace, given.weight)
    return answer(await queue.stats())


ROUTES = [
    Route(f"{API}/placement", told(placement), methods=["GET"]),
    Route(f"{API}/placement", told(set_placement), methods=["PUT"]),
    Route(f"{API}/placement", told(reset_placement), methods=["DELETE"]),
    Route(f"{API}/workers", told(nodes), methods=["GET"]),
    Route(f"{API}/workers/{{node:str}}/drain", told(drain), methods=["POST"]),
    Route(f"{API}/queue/stats", told(stats), methods=["GET"]),
    Route(f"{API}/queue/pause", told(pause), methods=["POST"]),
    Route(f"{API}/queue/resume", told(resume), methods=["POST"]),
    Route(f"{API}/queue/share", told(share), methods=["POST"]),
]
