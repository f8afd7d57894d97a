"""The application: routes, the layers around them, and what errors become."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

import engineroom
from engineroom.errors import EngineroomError
from engineroom.server.auth import KeyMiddleware
from engineroom.server.errors import OF_NO_CONCERN, ClientLeftError, Refusal, RefusedError, refusal_of
from engineroom.server.http import PathMiddleware, encoded
from engineroom.server.limits import BodyMiddleware
from engineroom.server.routes import (
    adapters,
    chat,
    completions,
    embeddings,
    health,
    messages,
    metrics,
    models,
    responses,
    scores,
    sleep,
    switch,
    tokens,
)
from engineroom.server.routes.documented import keyed_document
from engineroom.server.service import Service
from engineroom.server.settings import ServerSettings
from engineroom.server.tickets import TicketMiddleware, log, ticket_of

if TYPE_CHECKING:
    from engineroom.bridge import Bridge
    from engineroom.chat import ChatModel

ROUTES = tuple(
    route
    for module in (
        chat,
        completions,
        responses,
        messages,
        embeddings,
        scores,
        tokens,
        models,
        adapters,
        sleep,
        switch,
        health,
        metrics,
    )
    for route in module.router.routes
)
"""Made once: an app shares them with all others, where ``include_router`` would make them anew, at 50 ms an app."""


def create_app(
    model: ChatModel | None = None, settings: ServerSettings | None = None, bridge: Bridge | None = None
) -> FastAPI:
    """The server as an ASGI application. It must run on the model's own event loop to be fast; on another it works.

    Args:
        model: None while it loads; ``app.state.service.loaded`` gets it then.
        bridge: the event loop for models that are switched to; without it each has one of its own.
    """
    settings = settings or ServerSettings()  # pyright: ignore[reportCallIssue]
    service = Service(settings, model, bridge)
    app = FastAPI(
        title="engineroom",
        summary="One chat and scoring API over several inference engines.",
        version=engineroom.__version__,
        root_path=settings.root_path,
        redirect_slashes=False,
        routes=list(ROUTES),
    )
    app.state.service = service
    _add_layers(app, service)
    _add_errors(app)
    if settings.keys:
        app.openapi = partial(keyed_document, app.openapi)
    return app


def _add_layers(app: FastAPI, service: Service) -> None:
    """From the inside out."""
    settings = service.settings
    app.add_middleware(
        BodyMiddleware,
        max_bytes=int(settings.max_body * 2**20),
        max_depth=settings.max_depth,
        timeout=settings.read_timeout,
        log_bodies=settings.log_requests,
    )
    app.add_middleware(KeyMiddleware, keys=settings.keys, any_host=settings.allow_anonymous)
    if settings.cors_origin:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origin,
            allow_methods=["*"],
            allow_headers=["*"],
            # OpenAI's and Anthropic's clients read them.
            expose_headers=["x-request-id", "request-id", "retry-after"],
        )
    app.add_middleware(TicketMiddleware, tickets=service.tickets)
    app.add_middleware(PathMiddleware)


def _add_errors(app: FastAPI) -> None:
    async def engineroom_error(request: Request, error: Exception) -> Response:
        ticket = ticket_of(request)
        refusal = ticket.told(cast("EngineroomError", error))
        if refusal.status >= 500 and not isinstance(error, OF_NO_CONCERN):
            log.error("request %s failed", ticket.id, exc_info=error)
        return _answer(request, refusal)

    async def refused(request: Request, error: Exception) -> Response:
        return _answer(request, cast("RefusedError", error).refusal)

    async def malformed(request: Request, error: Exception) -> Response:
        return _answer(request, _validation(cast("RequestValidationError", error)))

    async def http(request: Request, error: Exception) -> Response:
        return _answer(request, _http(request, cast("HTTPException", error)))

    async def left(request: Request, error: Exception) -> Response:
        ticket_of(request).left = True
        return Response(status_code=499)  # nginx's number for it; nobody reads it

    app.add_exception_handler(EngineroomError, engineroom_error)
    app.add_exception_handler(RefusedError, refused)
    app.add_exception_handler(RequestValidationError, malformed)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(ClientLeftError, left)


def _answer(request: Request, refusal: Refusal) -> Response:
    ticket_of(request).error = refusal.code or ""
    return Response(
        encoded(refusal, request.scope),
        refusal.status,
        headers=dict(refusal.headers),
        media_type="application/json",
    )


def _http(request: Request, error: HTTPException) -> Refusal:
    path = request.url.path
    match error.status_code:
        case 404:
            return Refusal(404, f"there is no {request.method} {path} here", code="not_found")
        case 405:
            message = f"{path} does not take {request.method}"
            return Refusal(405, message, code="method_not_allowed", headers=dict(error.headers or {}))
        case (
            400
        ):  # FastAPI could not read the body: bytes that are no text, or a number of thousands of digits
            why = str(error.__cause__ or "it can't be read").partition(";")[0]
            return Refusal(400, f"the body is not valid JSON: {why}", code="invalid_json")
        case status:
            return Refusal(status, str(error.detail), code="invalid_request")


def _validation(error: RequestValidationError) -> Refusal:
    first, *others = cast("list[dict[str, Any]]", list(error.errors()))
    cause = cast("dict[str, Any]", first.get("ctx") or {}).get("error")
    place = _place(first["loc"][1:])
    if isinstance(cause, EngineroomError):
        refusal = refusal_of(cause, {}, "messages")
        return replace(refusal, param=f"{place}.{refusal.param}") if place and refusal.param else refusal
    if first["type"] == "json_invalid":
        return Refusal(400, f"the body is not valid JSON: {cause}", code="invalid_json")
    if not place:
        return Refusal(
            400, "the body must be a JSON object, with Content-Type: application/json", code="invalid_body"
        )
    code = "missing_field" if first["type"] == "missing" else "invalid_value"
    # What may have several forms has an error for each, at the same place or within.
    forms = [other["msg"] for other in others if _place(other["loc"][1:]).startswith(place)]
    more = dict.fromkeys(form.removeprefix("Input should be ") for form in forms if form != first["msg"])
    return Refusal(400, f"{place}: {' or '.join([first['msg'], *more])}", code=code, param=place)


def _place(steps: tuple[str | int, ...]) -> str:
    """``messages[0].content``. Names of a union's branches, which pydantic puts in between, are left out."""
    place = ""
    for step in steps:
        if isinstance(step, int):
            place += f"[{step}]"
        elif step.isidentifier() and step not in ("str", "int", "float", "bool", "dict"):
            place += f".{step}" if place else step
    return place
