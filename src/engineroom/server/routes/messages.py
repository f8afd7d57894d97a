"""``/v1/messages``: Anthropic's Messages API."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from engineroom.server.answers import JsonAnswer
from engineroom.server.bodies import JsonRoute
from engineroom.server.convert.message_answer import MessagePieces, MessageShape, message
from engineroom.server.convert.message_request import NAMES, conversation, message_options, rendering_switches
from engineroom.server.rendering import rendered
from engineroom.server.routes.anthropic_version import Version, check_version
from engineroom.server.routes.documented import ANTHROPIC_ERRORS, streamed
from engineroom.server.service import service_of
from engineroom.server.sse import EventStream, written
from engineroom.server.tickets import ticket_of
from engineroom.server.wire.messages import AnthropicMessage, CountTokensRequest, MessagesRequest, TokenCount

STREAMED = streamed("With stream: Anthropic's events, from message_start to message_stop.")

router = APIRouter(tags=["messages"], route_class=JsonRoute)


@router.post("/v1/messages", response_model=AnthropicMessage, responses={**ANTHROPIC_ERRORS, **STREAMED})
async def create_message(body: MessagesRequest, request: Request, version: Version = None) -> Response:
    """Answers a conversation; with ``stream`` in Anthropic's events."""
    check_version(version)
    service, ticket = service_of(request), ticket_of(request)
    model, ticket.names = service.model, NAMES
    ticket.model, adapter = service.chosen(body.model)
    options = message_options(body, adapter, service.timeout(None), model.engine.name)
    shape = MessageShape(ticket.id, ticket.model, body.max_tokens, model.renderer.template.thinking_tags)
    ticket.answer_id = shape.message_id
    turns = conversation(body)
    if body.stream:
        pieces = MessagePieces(shape)
        deltas = model.astream_deltas(turns, accepted=ticket.accept, **options)
        events = written(deltas, pieces.event, ticket)
        return EventStream(events, ticket, pieces)
    (answer,) = await ticket.attend(request.receive, model.achat(turns, **options))
    ticket.counted(answer.prompt_length, answer.response_length, (answer.finish_reason,))
    return JsonAnswer(message(answer, shape))


@router.post("/v1/messages/count_tokens", response_model=TokenCount, responses=ANTHROPIC_ERRORS)
async def count_tokens(body: CountTokensRequest, request: Request, version: Version = None) -> Response:
    """How many tokens a conversation has, as the model would see it."""
    check_version(version)
    service, ticket = service_of(request), ticket_of(request)
    model, ticket.names = service.model, NAMES
    service.chosen(body.model)
    switches: dict[str, Any] = rendering_switches(body, model.engine.name)
    prompt = await ticket.attend(request.receive, rendered(model, conversation(body), **switches))
    return JsonAnswer({"input_tokens": len(prompt)})
