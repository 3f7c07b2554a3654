"""Keys for other machines: `/api/distributed/keys`."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from skep.client import API
from skep.server.answers import answer, body_of, hub_of, told


class New(msgspec.Struct, forbid_unknown_fields=True):
    role: str
    note: str = ""


async def create(request: Request) -> Response:
    given = await body_of(request, New)
    made = answer(await hub_of(request).keys.create(given.role, given.note), 201)
    made.headers["Cache-Control"] = "no-store"
    return made


async def keys(request: Request) -> Response:
    return answer(await hub_of(request).keys.list())


async def revoke(request: Request) -> Response:
    return answer(await hub_of(request).keys.revoke(request.path_params["key"]))


ROUTES = [
    Route(f"{API}/keys", told(create), methods=["POST"]),
    Route(f"{API}/keys", told(keys), methods=["GET"]),
    Route(f"{API}/keys/{{key:str}}/revoke", told(revoke), methods=["POST"]),
]
