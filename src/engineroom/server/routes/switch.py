"""Another engine or model behind the running server. Needs an admin key."""

from __future__ import annotations

from fastapi import APIRouter, Request

from engineroom.server.auth import require_admin
from engineroom.server.bodies import JsonRoute
from engineroom.server.remote_arguments import changed
from engineroom.server.routes.documented import ERRORS
from engineroom.server.service import Service, service_of
from engineroom.server.switch import Plan
from engineroom.server.tickets import ticket_of
from engineroom.server.wire.switch import SwitchRequest, SwitchState

router = APIRouter(tags=["admin"], route_class=JsonRoute)


@router.post("/switch", response_model=SwitchState, responses=ERRORS)
async def switch(body: SwitchRequest, request: Request) -> SwitchState:
    """Answers when the new model serves, and goes on if the client leaves; what fails leaves the old one serving."""
    require_admin(request)
    service, ticket = service_of(request), ticket_of(request)
    ticket.uses = None  # it would wait for itself
    drain = body.drain_timeout
    plan = Plan(
        changed(service.model.arguments, body.arguments, service.settings),
        names=None if body.served_model_name is None else tuple(body.served_model_name),
        drop=frozenset(body.drop or ()),
        close_first=bool(body.close_first),
        drain_timeout=service.settings.shutdown_timeout if drain is None else drain,
    )
    await ticket.attend(request.receive, service.switcher.switch(plan))
    return _state(service)


@router.get("/switch", response_model=SwitchState, responses=ERRORS)
async def switch_state(request: Request) -> SwitchState:
    """What serves, and how far a switch has come."""
    require_admin(request)
    return _state(service_of(request))


def _state(service: Service) -> SwitchState:
    model, switcher = service.loaded, service.switcher
    stage, share = switcher.loading
    return SwitchState(
        stage=switcher.stage,
        engine=model.engine.name if model else None,
        model=service.base_names[0] if model and not service.away else None,
        loading=stage,
        share=share,
        last=switcher.last,
        warnings=list(model.warnings) if model else [],
    )
