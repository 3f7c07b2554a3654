"""How the server is, and copies of what it knows."""

from __future__ import annotations

from pathlib import Path

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from skep.client import API
from skep.errors import SpecError
from skep.server.answers import answer, body_of, hub_of, told


class Backup(msgspec.Struct, forbid_unknown_fields=True):
    target: str


async def health(request: Request) -> Response:
    state, trouble = hub_of(request).insight.health()
    healthy = state not in ("failing", "opening")
    return answer({"status": "ok" if healthy else state, "trouble": trouble}, 200 if healthy else 503)


async def status(request: Request) -> Response:
    return answer(await hub_of(request).insight.status())


async def backup(request: Request) -> Response:
    target = Path((await body_of(request, Backup)).target)
    if not target.is_absolute():
        raise SpecError.at("target", f"found {str(target)!r}, expected an absolute path on the server's machine")
    return answer(await hub_of(request).insight.backup(target), 201)


ROUTES = [
    Route("/health", told(health), methods=["GET"]),
    Route("/status", told(status), methods=["GET"]),
    Route(f"{API}/health", told(health), methods=["GET"]),
    Route(f"{API}/cluster/status", told(status), methods=["GET"]),
    Route(f"{API}/backup", told(backup), methods=["POST"]),
]
