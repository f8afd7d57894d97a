"""Is the server there, can it serve, and what is it?"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

import engineroom
from engineroom.server.answers import JsonAnswer
from engineroom.server.routes.documented import ERRORS
from engineroom.server.service import Service, service_of

router = APIRouter(tags=["server"])


@router.head("/health", include_in_schema=False)
@router.get("/health")
async def health() -> dict[str, str]:
    """The process lives and its loop turns. Needs no key."""
    return {"status": "ok"}


@router.head("/ready", include_in_schema=False)
@router.get(
    "/ready", responses={503: {"description": "Not now: loading, sleeping, stalled, dead, or stopping."}}
)
async def ready(request: Request) -> JsonAnswer:
    """A request that comes now would be served. Needs no key."""
    state = state_of(service_of(request))
    return JsonAnswer({"status": state}, 200 if state == "ready" else 503)


@router.get("/version", responses=ERRORS)
async def version(request: Request) -> dict[str, Any]:
    service = service_of(request)
    return {
        "version": engineroom.__version__,
        "engine": service.loaded.engine.name if service.loaded else None,
    }


def state_of(service: Service) -> str:
    """An engine that has answers in it and gives nothing for long is "stalled", until it gives something."""
    if service.tickets.stopping:
        return "stopping"
    if service.away:
        return "switching"
    if service.loaded is None:
        return "loading"
    state = service.loaded.health().state
    stalled = service.loaded.load.still > service.settings.stall_timeout
    return "stalled" if stalled and state == "ready" else state
