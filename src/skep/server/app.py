"""The application: all routes over one hub."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from skep.client import Refusal
from skep.hub.hub import Hub
from skep.server.answers import answer
from skep.server.routes import definitions, fleet, insight, keys, runs, tasks, why


def make_app(hub: Hub, more: list[BaseRoute]) -> Starlette:
    """`more`: routes that are not the hub's, as the link of nodes."""
    routes = [
        *runs.OFTEN,
        *why.ROUTES,
        *tasks.ROUTES,
        *runs.ROUTES,
        *fleet.ROUTES,
        *definitions.ROUTES,
        *insight.ROUTES,
        *keys.ROUTES,
        *more,
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _unknown})
    app.state.hub = hub
    return app


async def _unknown(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    detail = f"there is no {request.method} {request.url.path}"
    return answer(Refusal(title="There is no such path", status=status, detail=detail, code="NotFoundError"), status)
