"""``/v1/responses``: OpenAI's Responses API, without its store."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import APIRouter, Request
from starlette.responses import Response

from engineroom.server.answers import JsonAnswer
from engineroom.server.bodies import JsonRoute
from engineroom.server.convert.logprobs import LogprobWriter
from engineroom.server.convert.response_answer import ResponsePieces, ResponseShape
from engineroom.server.convert.response_request import (
    NAMES,
    conversation,
    rendering_switches,
    response_options,
)
from engineroom.server.rendering import rendered
from engineroom.server.routes.documented import ERRORS, streamed
from engineroom.server.service import service_of
from engineroom.server.sse import EventStream, written
from engineroom.server.tickets import ticket_of
from engineroom.server.wire.responses import InputTokens, InputTokensRequest, ResponseObject, ResponsesRequest

STREAMED = streamed("With stream: OpenAI's typed events, from response.created to response.completed.")

router = APIRouter(tags=["responses"], route_class=JsonRoute)


@router.post("/v1/responses", response_model=ResponseObject, responses={**ERRORS, **STREAMED})
async def create_response(body: ResponsesRequest, request: Request) -> Response:
    """Answers a conversation; with ``stream`` in typed events. Nothing is stored: send all of it each time."""
    service, ticket = service_of(request), ticket_of(request)
    model, ticket.subject, ticket.names = service.model, "input", NAMES
    ticket.model, adapter = service.chosen(body.model)
    options = response_options(body, adapter, service.timeout(body.timeout), model.engine.name)
    shape = ResponseShape.of(
        body,
        model.resolve_sampling(**{k: v for k, v in options.items() if k != "enable_thinking"}),
        id=ticket.id,
        created=ticket.created,
        model=ticket.model,
        writer=LogprobWriter(model.tokenizer, as_ids=False),
        tags=model.renderer.template.thinking_tags,
    )
    ticket.answer_id = shape.response_id
    pieces = ResponsePieces(shape)
    deltas = model.astream_deltas(conversation(body), accepted=ticket.accept, **options)
    events = written(deltas, pieces.event, ticket)
    if body.stream:
        return EventStream(events, ticket, pieces)
    await ticket.attend(request.receive, _run_through(events))
    return JsonAnswer(pieces.body)


@router.post("/v1/responses/input_tokens", response_model=InputTokens, responses=ERRORS)
async def count_input_tokens(body: InputTokensRequest, request: Request) -> Response:
    """How many tokens a conversation has, as the model would see it."""
    service, ticket = service_of(request), ticket_of(request)
    model, ticket.subject, ticket.names = service.model, "input", NAMES
    service.chosen(body.model)
    switches = rendering_switches(body, model.engine.name)
    prompt = await ticket.attend(request.receive, rendered(model, conversation(body), **switches))
    return JsonAnswer({"object": "response.input_tokens", "input_tokens": len(prompt)})


async def _run_through(events: AsyncGenerator[bytes, None]) -> None:
    async with aclosing(events):
        async for _ in events:
            pass
