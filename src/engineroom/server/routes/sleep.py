"""The model sleeps and wakes, with vLLM's names. Needs an admin key."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request

from engineroom.server.auth import require_admin
from engineroom.server.routes.documented import ERRORS
from engineroom.server.service import service_of

router = APIRouter(tags=["admin"])


@router.post("/sleep", responses=ERRORS)
async def sleep(request: Request, level: Annotated[int, Query(ge=1, le=2)] = 1) -> dict[str, bool]:
    """Frees the accelerator's memory when those who are in have been served. Who comes meanwhile gets 503."""
    require_admin(request)
    await service_of(request).model.asleep(level)
    return {"is_sleeping": True}


@router.post("/wake_up", responses=ERRORS)
async def wake_up(request: Request) -> dict[str, bool]:
    """Brings the weights back."""
    require_admin(request)
    await service_of(request).model.awake()
    return {"is_sleeping": False}


@router.get("/is_sleeping", responses=ERRORS)
async def is_sleeping(request: Request) -> dict[str, bool]:
    return {"is_sleeping": service_of(request).model.is_sleeping}
